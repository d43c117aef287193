"""All 120 orders of the five decorators give the same answers; retry and breaker may change places, and only they
matter."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

import resilience
from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit, warm
from resilience.testing import FakeClock, Fault, FaultyAPI, LambdaContext
from resilience.testing._reset import reset

NAMES = ("warm", "pooled", "circuit_breaker", "retry_ratelimit", "fresh_auth")
ORDERS = list(itertools.permutations(NAMES))


@pytest.fixture(scope="module")
def api() -> Iterator[FaultyAPI]:
    with FaultyAPI(seed=3) as api:
        yield api


class World:
    """One decorated handler, and what can be asked after it has run."""

    def __init__(self, api: FaultyAPI, order: tuple[str, ...], key: dict[str, str], *, is_async: bool) -> None:
        self.api = api
        self.key = key
        self.bodies = 0
        self.retry_outside = order.index("retry_ratelimit") < order.index("circuit_breaker")
        made: dict[str, Callable[[Any], Any]] = {
            "warm": warm(timeout=1),
            "pooled": pooled(base_url=api.base_url),
            "circuit_breaker": circuit_breaker(fail_max=3),
            "retry_ratelimit": retry_ratelimit(attempts=4),
            "fresh_auth": fresh_auth(provider=lambda: key["value"], hosts="localhost"),
        }

        def post() -> dict[str, Any]:
            self.bodies += 1
            r = requests.post(
                api.base_url + "/chat/completions", json={"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            )
            return {"statusCode": r.status_code}

        def handler(event: Any, context: Any) -> dict[str, Any]:
            return post()

        async def async_handler(event: Any, context: Any) -> dict[str, Any]:
            return await asyncio.to_thread(post)

        fn: Any = async_handler if is_async else handler
        for name in reversed(order):
            fn = made[name](fn)
        self.fn = fn
        self.is_async = is_async

    def call(self, event: Any = None) -> Any:
        """The answer's status, the ping's answer, or the exception."""
        try:
            answer = self.fn(event, LambdaContext(remaining=60))
            answer = asyncio.run(answer) if self.is_async else answer
        except Exception as error:
            return type(error).__mro__
        return answer.get("statusCode", answer)


def ok(w: World) -> None:
    assert w.call({"n": 1}) == 200
    assert w.api.count() == 1


def rate_limited(w: World) -> None:
    w.api.script([Fault.rate_limited("retry-after", 1)])
    assert w.call() == 200
    assert (w.api.count(), w.bodies) == (2, 1)


def unavailable_twice(w: World) -> None:
    w.api.script([Fault.status(503), Fault.status(502)])
    assert w.call() == 200
    assert (w.api.count(), w.bodies) == (3, 1)


def client_error(w: World) -> None:
    w.api.script([Fault.status(400)])
    assert w.call() == 400
    assert w.api.count() == 1


def rotated(w: World) -> None:
    w.call()
    w.key["value"] = w.api.rotate()
    assert w.call() == 200
    assert w.api.count(status=401) == 1
    assert w.api.count(status=200) == 2


def perhaps_processed(w: World) -> None:
    w.api.script([Fault.reset_after_reading()])
    assert requests.ConnectionError in w.call()
    assert (w.api.count(), w.bodies) == (1, 1)


def outage(w: World) -> None:
    w.api.script([Fault.status(503)] * 20)
    assert w.call() == 503
    state = w.fn.resilience.breaker.state
    # Retry outside: the breaker counts attempts. Breaker outside: it counts exhausted retries.
    assert (w.api.count(), state) == ((3, "open") if w.retry_outside else (4, "closed"))


def open_circuit(w: World) -> None:
    w.fn.resilience.breaker.open()
    mro = w.call()
    assert resilience.CircuitOpen in mro
    assert requests.ConnectionError in mro
    assert w.api.count() == 0


def ping(w: World) -> None:
    answer = w.call({"warmup": True})
    assert answer["warmed"] is True
    assert answer["errors"] == []
    assert (w.bodies, w.api.count()) == (0, 0)


SCENARIOS = [ok, rate_limited, unavailable_twice, client_error, rotated, perhaps_processed, outage, open_circuit, ping]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_every_order_gives_the_same_answers(
    scenario: Callable[[World], None], is_async: bool, api: FaultyAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", api.ca_file)
    for order in ORDERS:
        reset()
        api.script([])
        api.reset_counts()
        with FakeClock():
            try:
                scenario(World(api, order, {"value": api.key}, is_async=is_async))
            except AssertionError as error:
                raise AssertionError(f"in the order {order}: {error}") from error
