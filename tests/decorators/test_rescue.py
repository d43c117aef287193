"""What answers while a circuit is open: `fallback=` and `stale_if_error=`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import requests

from resilience import CircuitOpen, ConfigurationError, circuit_breaker, pooled, retry_ratelimit
from resilience.testing import FakeClock, Fault, FaultyAPI, LambdaContext


class Down(Exception):
    """What the function's dependency raises."""


class Switch:
    """A function whose dependency can be taken down."""

    def __init__(self) -> None:
        self.down = False
        self.calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.down:
            raise Down
        return {"answer": self.calls}


def opened(**settings: Any) -> Callable[..., Any]:
    """A function whose circuit is open."""

    @circuit_breaker(**settings)
    def call(*args: Any, **kwargs: Any) -> str:
        return "fresh"

    call.resilience.breaker.open()
    return call


# ---- fallback


@pytest.mark.parametrize("value", ["sorry", None, 0, {"statusCode": 200, "body": "later"}])
def test_a_value_stands_in(value: Any) -> None:
    assert opened(fallback=value)() == value


def test_a_value_is_given_out_as_a_copy() -> None:
    call = opened(fallback={"items": []})
    call()["items"].append("mine")
    assert call() == {"items": []}


def test_a_function_of_the_arguments_stands_in() -> None:
    call = opened(fallback=lambda event, context=None: f"for {event}")
    assert call("you", context=None) == "for you"


def test_nothing_stands_in_for_an_error_of_the_function_itself() -> None:
    @circuit_breaker(fail_max=5, fallback="sorry")
    def call() -> None:
        raise Down

    with pytest.raises(Down):
        call()


def test_an_error_in_the_fallback_reaches_the_caller() -> None:
    def fallback() -> None:
        raise LookupError("no fallback either")

    with pytest.raises(LookupError, match="no fallback either"):
        opened(fallback=fallback)()


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_async_function_has_a_fallback_of_either_kind(is_async: bool) -> None:
    def fallback(n: int) -> str:
        return f"sorry {n}"

    async def slow_fallback(n: int) -> str:
        await asyncio.sleep(0)
        return f"sorry {n}"

    @circuit_breaker(fallback=slow_fallback if is_async else fallback)
    async def call(n: int) -> str:
        return "fresh"

    call.resilience.breaker.open()
    assert await call(3) == "sorry 3"


async def test_an_error_in_an_async_fallback_reaches_the_caller() -> None:
    async def fallback() -> None:
        raise LookupError("no fallback either")

    @circuit_breaker(fallback=fallback)
    async def call() -> None: ...

    call.resilience.breaker.open()
    with pytest.raises(LookupError, match="no fallback either"):
        await call()


def test_an_async_fallback_of_a_function_that_can_t_await_it_is_an_error_at_once() -> None:
    async def fallback() -> None: ...

    with pytest.raises(ConfigurationError, match=r"circuit_breaker: fallback=.* is async"):

        @circuit_breaker(fallback=fallback)
        def call() -> None: ...


def test_a_retry_outside_does_not_repeat_what_the_fallback_answered(clock: FakeClock) -> None:
    calls = []

    @retry_ratelimit(on=Down, attempts=5)
    @circuit_breaker(fail_max=2, fallback="sorry")
    def call() -> None:
        calls.append(None)
        raise Down

    # Two attempts trip it, the third is answered by the fallback.
    assert call() == "sorry"
    assert len(calls) == 2


def test_a_retry_inside_has_its_attempts_before_the_fallback(clock: FakeClock) -> None:
    calls = []

    @circuit_breaker(fail_max=1, fallback="sorry")
    @retry_ratelimit(on=Down, attempts=3)
    def call() -> None:
        calls.append(None)
        raise Down

    with pytest.raises(Down):
        call()
    assert len(calls) == 3
    assert call() == "sorry"
    assert len(calls) == 3


def test_it_stands_in_for_a_request_turned_away_that_the_handler_lets_escape(api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=1, fallback={"statusCode": 200, "body": "later"})
    def handler(event: Any, context: Any) -> dict[str, Any]:
        return {"statusCode": requests.get(api.url + "/health").status_code}

    api.script([Fault.status(503)])
    assert handler({}, None) == {"statusCode": 503}
    assert handler({}, None) == {"statusCode": 200, "body": "later"}
    assert api.count() == 1


# ---- stale_if_error


def test_the_last_good_answer_stands_in_for_the_same_arguments_only() -> None:
    switch = Switch()
    call = circuit_breaker(fail_max=1, stale_if_error=60)(switch)
    assert call("a", n=1) == {"answer": 1}
    assert call("a", n=1) == {"answer": 2}
    call.resilience.breaker.open()
    assert call("a", n=1) == {"answer": 2}
    for args, kwargs in ((("b",), {"n": 1}), (("a",), {"n": 2}), (("a",), {}), (("a", 1), {})):
        with pytest.raises(CircuitOpen):
            call(*args, **kwargs)
    assert switch.calls == 2


def test_an_error_of_the_function_itself_is_not_replaced() -> None:
    switch = Switch()
    call = circuit_breaker(fail_max=2, stale_if_error=60)(switch)
    call()
    switch.down = True
    for _ in range(2):
        with pytest.raises(Down):
            call()
    assert call() == {"answer": 1}


def test_an_answer_is_good_for_so_many_seconds(clock: FakeClock) -> None:
    call = circuit_breaker(stale_if_error=60)(Switch())
    call()
    call.resilience.breaker.isolate()
    clock.advance(59)
    assert call() == {"answer": 1}
    clock.advance(1)
    with pytest.raises(CircuitOpen):
        call()


def test_an_answer_is_too_old_by_the_wall_clock_alone(clock: FakeClock) -> None:
    call = circuit_breaker(stale_if_error=60)(Switch())
    call()
    call.resilience.breaker.isolate()
    # The process was frozen, and its monotonic clock stood still.
    clock.advance_wall(60)
    with pytest.raises(CircuitOpen):
        call()


def test_nobody_can_change_an_answer_that_is_kept() -> None:
    call = circuit_breaker(stale_if_error=60)(Switch())
    call()["answer"] = "changed by the first caller"
    call.resilience.breaker.open()
    first = call()
    assert first == {"answer": 1}
    first["answer"] = "changed by the second"
    assert call() == {"answer": 1}


def test_the_platforms_context_is_no_argument() -> None:
    @circuit_breaker(stale_if_error=60)
    def handler(event: Any, context: Any) -> str:
        return f"answer to {event}"

    handler({"n": 1}, LambdaContext())
    handler({"n": 2}, context=LambdaContext())
    handler.resilience.breaker.open()
    assert handler({"n": 1}, LambdaContext()) == "answer to {'n': 1}"
    assert handler({"n": 2}, context=LambdaContext()) == "answer to {'n': 2}"
    with pytest.raises(CircuitOpen):
        handler({"n": 3}, LambdaContext())


@pytest.mark.parametrize("argument", ["context", "session"])
def test_an_argument_that_happens_to_be_called_so_is_one(argument: str) -> None:
    @circuit_breaker(stale_if_error=60)
    def answer(**said: str) -> str:
        return f"for {said}"

    answer(**{argument: "one caller's"})
    answer.resilience.breaker.open()
    with pytest.raises(CircuitOpen):
        answer(**{argument: "another's"})
    assert answer(**{argument: "one caller's"}) == f"for {{'{argument}': \"one caller's\"}}"


def test_the_pools_own_session_is_no_argument(api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=1, stale_if_error=60)
    def handler(event: Any, *, session: Any) -> int:
        return session.get(api.url + "/health").status_code

    assert handler("a") == 200
    handler.resilience.breaker.open()
    assert handler("a") == 200
    assert api.count() == 1


def test_arguments_that_can_t_be_told_apart_for_sure_keep_no_answer() -> None:
    call = circuit_breaker(stale_if_error=60)(Switch())
    thing = object()
    call(thing)
    call.resilience.breaker.open()
    with pytest.raises(CircuitOpen):
        call(thing)


def test_an_answer_that_can_t_be_copied_is_not_kept() -> None:
    @circuit_breaker(stale_if_error=60)
    def call() -> Any:
        return (n for n in range(3))

    call()
    call.resilience.breaker.open()
    with pytest.raises(CircuitOpen):
        call()


def test_a_failed_answer_is_not_kept() -> None:
    statuses = [200, 503]

    @circuit_breaker(fail_max=1, stale_if_error=60)
    def handler() -> dict[str, int]:
        return {"statusCode": statuses.pop(0)}

    handler()
    handler()
    assert handler() == {"statusCode": 200}


def test_a_stale_answer_is_preferred_to_the_fallback_which_serves_where_there_is_none() -> None:
    call = circuit_breaker(stale_if_error=60, fallback="sorry")(Switch())
    call("known")
    call.resilience.breaker.open()
    assert call("known") == {"answer": 1}
    assert call("unknown") == "sorry"


async def test_an_async_function_has_its_last_good_answers_too() -> None:
    @circuit_breaker(stale_if_error=60)
    async def call(n: int) -> dict[str, int]:
        return {"n": n}

    await call(1)
    call.resilience.breaker.open()
    assert await call(1) == {"n": 1}
    with pytest.raises(CircuitOpen):
        await call(2)


def test_only_so_many_answers_are_kept() -> None:
    call = circuit_breaker(stale_if_error=60)(Switch())
    for n in range(300):
        call(n)
    call.resilience.breaker.open()
    with pytest.raises(CircuitOpen):
        call(0)
    assert call(299) == {"answer": 300}


def test_many_threads_keep_and_read_answers(clock: FakeClock) -> None:
    import threading

    call = circuit_breaker(stale_if_error=60)(lambda n: {"n": n})
    wrong: list[Any] = []

    def work(offset: int) -> None:
        for n in range(2000):
            answer = call((n + offset) % 400)
            if answer != {"n": (n + offset) % 400}:
                wrong.append(answer)

    threads = [threading.Thread(target=work, args=(i * 50,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
