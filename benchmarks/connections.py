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

    def ask_stock() -> None:
        assert stock.get(url, timeout=(3.05, 30)).status_code == 200

    by_session, by_requests = _decorated(server, url)

    def new(ask: Callable[[], Any], forget: Callable[[], Any]) -> Callable[[], float]:
        def sample() -> float:
            forget()
            start = perf_counter()
            ask()
            return perf_counter() - start

        return sample

    def forget_ours() -> None:
        by_session.resilience.pool.retire_all("benchmark")

    asked = {"stock": ask_stock, "session": lambda: by_session(None), "requests": lambda: by_requests(None)}
    for ask in asked.values():
        ask()
    rounds = 10 if quick else 40
    opened = interleaved({"stock": new(ask_stock, stock.close), "ours": new(asked["session"], forget_ours)}, rounds)
    reused = interleaved({name: batch(ask, 10) for name, ask in asked.items()}, rounds * 2)
    ms = {name: seconds * 1000 for name, seconds in reused.items()}
    peer = "requests.Session"
    return [
        Figure(
            GROUP, "GET, new TLS connection", opened["ours"] * 1000, "ms", peer, opened["stock"] * 1000, "ratio", 0.15
        ),
        Figure(GROUP, "GET, reused, session=", ms["session"], "ms", peer, ms["stock"], "ratio", 1.0),
        Figure(GROUP, "GET, reused, requests.get", ms["requests"], "ms", peer, ms["stock"], "ratio", 1.0),
    ]


def _decorated(server: Server, url: str) -> tuple[Any, Any]:
    """Two handlers with all five: one names the pooled session, the other calls `requests.get` as it always did."""
    import requests

    from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit, warm

    def by_session(event: Any, *, session: Any) -> None:
        assert session.get(url).status_code == 200

    def by_requests(event: Any) -> None:
        assert requests.get(url).status_code == 200

    def five(fn: Any) -> Any:
        fn = fresh_auth(provider=lambda: server.key, hosts="localhost")(fn)
        return warm(pooled(base_url=server.url)(circuit_breaker(retry_ratelimit(fn))))

    return five(by_session), five(by_requests)
