"""`resilient`: the five as one, and a session for scripts."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
import requests

import resilience
from resilience import (
    CircuitOpen,
    ConfigurationError,
    circuit_breaker,
    fresh_auth,
    pooled,
    resilient,
    retry_ratelimit,
    warm,
)
from resilience.core import events
from resilience.testing import FakeClock, Fault, FaultyAPI

ORDER = ["warm", "retry_ratelimit", "circuit_breaker", "fresh_auth", "pooled"]


def handler(event: Any = None, context: Any = None) -> str:
    """Does nothing."""
    return "answer"


def kinds(fn: Any) -> list[str]:
    return [policy.kind for policy in fn.resilience.policies]


# ---- as a decorator


def test_bare_it_is_the_five_in_the_recommended_order() -> None:
    decorated = resilient(handler)
    assert kinds(decorated) == ORDER
    assert decorated({}, None) == "answer"
    assert (decorated.__name__, decorated.__doc__) == ("handler", "Does nothing.")


def test_with_no_settings_it_is_the_same() -> None:
    assert kinds(resilient()(handler)) == ORDER


def test_a_base_url_and_a_key_are_enough(api: FaultyAPI, monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> None:
    monkeypatch.setenv("API_KEY", api.key)

    @resilient(base_url=api.base_url, env="API_KEY")
    def ask() -> int:
        return requests.get(api.base_url + "/models").status_code

    api.script([Fault.rate_limited("retry-after", 2), Fault.status(503)])
    assert ask() == 200
    assert api.by_key == {api.key: 3}


def test_each_short_setting_reaches_its_decorator() -> None:
    decorated = resilient(
        base_url="https://api.example.com/v1",
        env="API_KEY",
        hosts="api.example.com",
        idempotency_key=True,
        attempts=7,
        deadline=9,
        idempotent=True,
        limit="5/minute",
        fail_max=3,
        reset_timeout=11,
        fallback="sorry",
        probe="https://api.example.com/health",
        interval=60,
        max_idle=20,
    )(handler)
    said = str(decorated.resilience)
    for part in (
        *("https://api.example.com/v1", "idle at most 20 s", "API_KEY", "api.example.com"),
        *("at most 7 attempts", "deadline 9 s", "limit 5/minute", "after 3 failures in a row", "after 11 s"),
    ):
        assert part in said
    policy = decorated.resilience.policy
    assert policy("retry_ratelimit").idempotent is True
    assert policy("fresh_auth").options["idempotency_key"] is True
    decorated.resilience.breaker.open()
    # With a pool the function's body goes on, to meet its breakers: what is open is the host.
    assert decorated.resilience.breaker["https://api.example.com:443"].state == "open"


def test_one_can_be_left_out_or_given_all_of_its_settings() -> None:
    decorated = resilient(warm=False, fresh_auth=False, pooled={"timeout": 10}, circuit_breaker=True)(handler)
    assert kinds(decorated) == ["retry_ratelimit", "circuit_breaker", "pooled"]
    assert decorated.resilience.pool.settings.timeout == (10.0, 10.0)


def test_decorators_take_the_place_of_the_five() -> None:
    decorated = resilient(retry_ratelimit(attempts=2), circuit_breaker, pooled)(handler)
    assert kinds(decorated) == ["retry_ratelimit", "circuit_breaker", "pooled"]
    assert kinds(resilient(circuit_breaker)(handler)) == ["circuit_breaker"]
    assert kinds(resilient(resilient(warm, pooled))(handler)) == ["warm", "pooled"]


def test_one_stack_may_be_used_for_many_functions() -> None:
    stack = resilient(circuit_breaker(fail_max=1))

    def failing() -> None:
        raise LookupError

    first, second = stack(failing), stack(handler)
    with pytest.raises(LookupError):
        first()
    with pytest.raises(CircuitOpen):
        first()
    # What is kept by the function's name is not shared.
    assert second() == "answer"


def test_it_keeps_an_async_function_one() -> None:
    @resilient
    async def ask(n: int) -> int:
        return n + 1

    assert inspect.iscoroutinefunction(ask)
    assert asyncio.run(ask(1)) == 2


def test_a_method_may_be_decorated() -> None:
    class Service:
        def __init__(self) -> None:
            self.greeting = "hello"

        @resilient
        def greet(self, name: str) -> str:
            return f"{self.greeting} {name}"

    assert Service().greet("you") == "hello you"


# ---- for scripts


def test_a_session_for_scripts_is_guarded_request_by_request(api: FaultyAPI, clock: FakeClock) -> None:
    api.script([Fault.rate_limited("retry-after", 3), Fault.status(503)])
    with resilient(base_url=api.base_url, attempts=4).session() as session:
        assert isinstance(session, requests.Session)
        assert session.get("models").status_code == 200
        assert session.get(api.base_url + "/models").status_code == 200
    assert sum(clock.slept) >= 3
    assert api.count() == 4


def test_a_sessions_circuit_opens(api: FaultyAPI, clock: FakeClock) -> None:
    api.outage("503")
    with resilient(base_url=api.base_url, fail_max=2, attempts=1).session() as session:
        assert [session.get("models").status_code for _ in range(2)] == [503, 503]
        with pytest.raises(requests.ConnectionError) as caught:
            session.get("models")
    assert isinstance(caught.value, CircuitOpen)


def test_a_session_carries_the_credential(api: FaultyAPI) -> None:
    with resilient(base_url=api.base_url, provider=lambda: api.key).session() as session:
        session.get("models")
    assert api.by_key == {api.key: 1}


def test_a_sessions_deadline_is_that_of_each_request(api: FaultyAPI, clock: FakeClock) -> None:
    with resilient(base_url=api.base_url, deadline=5).session() as session:
        for _ in range(3):
            # Longer in all than one request may take.
            clock.advance(4)
            api.script([Fault.rate_limited("retry-after", 4)])
            assert session.get("models").status_code == 200
            clock.advance(1)
        api.script([Fault.rate_limited("retry-after", 6)])
        response = session.get("models")
    assert (response.status_code, response.resilience.why) == (429, "deadline")


def test_a_session_may_be_used_after_its_block_and_by_another_one(api: FaultyAPI) -> None:
    stack = resilient(base_url=api.base_url)
    with stack.session() as session:
        session.get("models")
    assert session.get("models").status_code == 200
    with stack.session() as another:
        another.get("models")
    # The connections are the pool's.
    assert api.handshakes == 1


def test_a_session_without_a_pool_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="needs pooled among its decorators"):
        resilient(retry_ratelimit).session()
    with pytest.raises(ConfigurationError, match="needs pooled among its decorators"):
        resilient(pooled=False).session()


def test_no_call_is_under_way_beside_a_sessions_requests(api: FaultyAPI) -> None:
    with resilient(base_url=api.base_url).session() as session:
        session.get("models")
        with pytest.raises(resilience.ResilienceError, match="no call of a decorated function"):
            resilience.current()


# ---- what it shows and tells


def test_it_shows_itself_as_a_person_would_want_to_read_it() -> None:
    decorated = resilient(base_url="https://api.example.com/v1", env="API_KEY")(handler)
    lines = str(decorated.resilience).splitlines()
    assert lines[0].endswith(".handler (function)")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ORDER
    assert "at most 4 attempts, backoff 0.5..20 s, hints up to 60 s, budget 20%" in lines[2]
    assert "opens after 5 failures in a row, 1 probe after 30 s" in lines[3]


def test_a_call_of_the_whole_stack_is_told_as_one(api: FaultyAPI) -> None:
    @warm
    @pooled(base_url=api.base_url)
    @circuit_breaker
    @retry_ratelimit
    @fresh_auth(provider=lambda: api.key, hosts="localhost")
    def ask() -> int:
        return sum(requests.get(api.base_url + path).status_code for path in ("/models", "/echo"))

    heard: list[Any] = []
    stop = resilience.listen(heard.append, events.CallFinished)
    assert ask() == 400
    stop()
    assert [(e.name, e.requests, e.meaning, e.attempts) for e in heard] == [(ask.resilience.name, 2, "ok", 1)]
