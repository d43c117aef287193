"""What a connection costs in a warm process: a new one over TLS, and one that is used again."""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Any

from benchmarks.figures import Figure
from benchmarks.sampling import batch, interleaved
from benchmarks.server import Server, serving

__all__ = ["run"]

GROUP = "connections"


def run(quick: bool) -> list[Figure]:
    """A GET over loopback with all guards on, beside a stock `requests.Session`."""
    with serving() as server:
        os.environ["REQUESTS_CA_BUNDLE"] = server.ca_file
        try:
            return _measure(server, quick)
        finally:
            del os.environ["REQUESTS_CA_BUNDLE"]


def _measure(server: Server, quick: bool) -> list[Figure]:
    import requests

    url = server.url + "/v1/models"
    stock = requests.Session()
    stock.headers["Authorization"] = f"Bearer {server.key}"

    def ask(get: Callable[..., Any]) -> Callable[[], None]:
        def once() -> None:
            assert get(url, timeout=(3.05, 30)).status_code == 200

        return once

    handlers = _decorated(url, server)
    stock_once = ask(stock.get)
    asked = {"stock": stock_once, **{name: _calling(handler) for name, handler in handlers.items()}}
    for once in asked.values():
        once()
    pool = handlers["session="].resilience.pool
    rounds = 10 if quick else 40
    opened = interleaved(
        {
            "stock": _new(stock_once, stock.close),
            "ours": _new(asked["session="], lambda: pool.retire_all("benchmark")),
        },
        rounds,
    )
    reused = interleaved({name: batch(once, 10) for name, once in asked.items()}, rounds * 3)
    ms = {name: seconds * 1000 for name, seconds in reused.items()}
    new_ms, stock_new_ms = opened["ours"] * 1000, opened["stock"] * 1000
    peer = "requests.Session"
    return [
        Figure(GROUP, "GET, new TLS connection", new_ms, "ms", peer, stock_new_ms, "ratio", 0.15),
        Figure(GROUP, "GET, reused, by the pooled session", ms["session="], "ms", peer, ms["stock"], "ratio", 1.0),
        Figure(GROUP, "GET, reused, by the handler's own Session", ms["own"], "ms", peer, ms["stock"], "ratio", 1.0),
        Figure(GROUP, "GET, reused, by requests.get", ms["get"], "ms", peer, ms["stock"], "ratio", 1.0),
        Figure(GROUP, "GET, reused, by requests.get", ms["get"], "ms", "new connection", stock_new_ms),
    ]


def _calling(handler: Any) -> Callable[[], Any]:
    return lambda: handler({})


def _new(once: Callable[[], Any], forget: Callable[[], Any]) -> Callable[[], float]:
    """A sample of a request for which there is no connection."""

    def sample() -> float:
        forget()
        start = perf_counter()
        once()
        return perf_counter() - start

    return sample


def _decorated(url: str, server: Server) -> dict[str, Any]:
    """Handlers with all five: one names the pooled session, the others use requests as they always did."""
    import requests

    from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit, warm

    kept = requests.Session()

    def by_session(event: Any, *, session: Any) -> None:
        assert session.get(url).status_code == 200

    def by_own(event: Any) -> None:
        assert kept.get(url).status_code == 200

    def by_get(event: Any) -> None:
        assert requests.get(url).status_code == 200

    def five(fn: Any) -> Any:
        fn = fresh_auth(provider=lambda: server.key, hosts="localhost")(fn)
        return warm(pooled(base_url=server.url)(circuit_breaker(retry_ratelimit(fn))))

    return {"session=": five(by_session), "own": five(by_own), "get": five(by_get)}
