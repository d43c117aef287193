"""`@circuit_breaker` as its user sees it: threads, tasks, cancellation, what trips it and what it raises."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pybreaker
import pytest
import requests

import resilience
from resilience import CircuitOpen, circuit_breaker, pooled, retry_ratelimit
from resilience.testing import FakeClock, Fault, FaultyAPI


class Down(Exception):
    """What the function's dependency raises."""


def down(*_: Any) -> None:
    raise Down


def fail(fn: Callable[..., Any], times: int, *args: Any) -> None:
    for _ in range(times):
        with pytest.raises(Down):
            fn(*args)


def in_threads(count: int, fn: Callable[[], Any]) -> list[Any]:
    """What `fn` returned or raised in each of `count` threads."""
    ends: list[Any] = []

    def run() -> None:
        try:
            ends.append(fn())
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ends) == count
    return ends


# ---- threads and tasks


def test_64_threads_are_inside_one_breaker_at_the_same_time() -> None:
    everyone = threading.Barrier(64)

    @circuit_breaker
    def call() -> int:
        # Passes only once all 64 are here: a lock held over the call would break it.
        return everyone.wait(timeout=30)

    assert sorted(in_threads(64, call)) == list(range(64))


async def test_200_tasks_are_inside_one_breaker_at_the_same_time() -> None:
    inside, all_in = 0, asyncio.Event()

    @circuit_breaker
    async def call() -> None:
        nonlocal inside
        inside += 1
        if inside == 200:
            all_in.set()
        await all_in.wait()

    async with asyncio.timeout(30):
        await asyncio.gather(*(call() for _ in range(200)))


def test_a_guarded_function_may_join_a_thread_that_uses_the_same_breaker() -> None:
    @circuit_breaker
    def call(depth: int) -> str:
        if depth == 0:
            return "done"
        return str(in_threads(1, lambda: call(depth - 1))[0])

    assert call(3) == "done"


def test_of_64_threads_exactly_one_is_the_probe(clock: FakeClock) -> None:
    turned_away, probing = threading.Semaphore(0), []
    failing = True

    @circuit_breaker(fail_max=1)
    def call() -> str:
        if failing:
            raise Down
        probing.append(threading.get_ident())
        # The other 63 must be turned away while the probe is under way.
        for _ in range(63):
            assert turned_away.acquire(timeout=30)
        return "up again"

    def attempt() -> Any:
        try:
            return call()
        except CircuitOpen:
            turned_away.release()
            raise

    fail(call, 1)
    failing = False
    clock.advance(30)
    ends = in_threads(64, attempt)
    assert ends.count("up again") == len(probing) == 1
    assert sum(isinstance(end, CircuitOpen) for end in ends) == 63
    assert call.resilience.breaker.state == "closed"


async def test_of_200_tasks_exactly_one_is_the_probe(clock: FakeClock) -> None:
    probes, rejected, all_rejected = 0, 0, asyncio.Event()

    @circuit_breaker(fail_max=1)
    async def call() -> str:
        nonlocal probes
        probes += 1
        if probes == 1:
            raise Down
        await all_rejected.wait()
        return "up again"

    async def attempt() -> Any:
        nonlocal rejected
        try:
            return await call()
        except CircuitOpen as error:
            rejected += 1
            if rejected == 199:
                all_rejected.set()
            return error

    with pytest.raises(Down):
        await call()
    clock.advance(30)
    async with asyncio.timeout(30):
        ends = await asyncio.gather(*(attempt() for _ in range(200)))
    assert (ends.count("up again"), rejected, probes) == (1, 199, 2)
    assert call.resilience.breaker.state == "closed"


def test_as_many_probes_as_asked_for_are_let_through_and_must_succeed(clock: FakeClock) -> None:
    failing = True

    @circuit_breaker(fail_max=1, half_open_calls=2, success_threshold=2)
    def call() -> None:
        if failing:
            raise Down

    fail(call, 1)
    failing = False
    clock.advance(30)
    call()
    assert call.resilience.breaker.state == "half-open"
    call()
    assert call.resilience.breaker.state == "closed"


# ---- cancellation


async def test_a_cancelled_probe_frees_its_place_and_counts_nothing(clock: FakeClock) -> None:
    begun, mode = asyncio.Event(), "fail"

    @circuit_breaker(fail_max=1)
    async def call() -> str:
        if mode == "fail":
            raise Down
        if mode == "hang":
            begun.set()
            await asyncio.Event().wait()
        return "up again"

    with pytest.raises(Down):
        await call()
    clock.advance(30)
    mode = "hang"
    probe = asyncio.create_task(call())
    await begun.wait()
    with pytest.raises(CircuitOpen):
        await call()
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert call.resilience.breaker.state == "half-open"
    mode = "answer"
    assert await call() == "up again"


async def test_a_timeout_around_a_call_is_a_cancellation_and_no_failure() -> None:
    @circuit_breaker(fail_max=1)
    async def call() -> None:
        await asyncio.Event().wait()

    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await call()
    assert call.resilience.breaker.state == "closed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_an_interruption_frees_the_place_and_counts_nothing(error: type[BaseException], clock: FakeClock) -> None:
    raised: type[BaseException] | None = Down

    @circuit_breaker(fail_max=1)
    def call() -> str:
        if raised is not None:
            raise raised
        return "up again"

    fail(call, 1)
    clock.advance(30)
    raised = error
    with pytest.raises(error):
        call()
    assert call.resilience.breaker.state == "half-open"
    raised = None
    assert call() == "up again"


def test_an_interruption_while_a_retry_inside_waits_frees_the_place(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: type[Exception] | None = Down

    @circuit_breaker(fail_max=1)
    @retry_ratelimit(on=Down, attempts=2)
    def call() -> str:
        if raised is not None:
            raise raised
        return "up again"

    fail(call, 1)
    clock.advance(30)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(resilience.core.clock.CLOCK, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            call()
    raised = None
    assert call() == "up again"


# ---- generations


@pytest.mark.parametrize("late", ["success", "failure"])
@pytest.mark.parametrize("now", ["open", "half_open", "isolate", "close"])
def test_a_late_answer_of_an_older_generation_changes_nothing(late: str, now: str) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @circuit_breaker(fail_max=1)
    def call() -> None:
        begun.set()
        assert go_on.wait(30)
        if late == "failure":
            raise Down

    thread = threading.Thread(target=lambda: in_threads(1, call))
    thread.start()
    assert begun.wait(30)
    breaker = call.resilience.breaker
    breaker.open()
    getattr(breaker, now)()
    before = breaker.state
    go_on.set()
    thread.join(30)
    assert breaker.state == before


def test_the_answer_of_a_probe_taken_for_dead_changes_nothing(clock: FakeClock) -> None:
    begun, go_on, probes = threading.Event(), threading.Event(), []

    @circuit_breaker(fail_max=1)
    def call() -> str:
        probes.append(None)
        if len(probes) == 1:
            raise Down
        if len(probes) == 2:
            begun.set()
            assert go_on.wait(30)
        return "up again"

    fail(call, 1)
    clock.advance(30)
    slow = threading.Thread(target=call)
    slow.start()
    assert begun.wait(30)
    # Its lease is over: another may probe, and fail.
    clock.advance(30)
    probes.clear()
    fail(call, 1)
    assert call.resilience.breaker.state == "open"
    go_on.set()
    slow.join(30)
    assert call.resilience.breaker.state == "open"


# ---- what it raises


def test_the_call_that_trips_it_raises_its_own_exception() -> None:
    @circuit_breaker(fail_max=2)
    def call() -> None:
        raise Down("its own words")

    fail(call, 1)
    with pytest.raises(Down, match="its own words"):
        call()
    assert call.resilience.breaker.state == "open"


async def test_the_async_call_that_trips_it_raises_its_own_exception() -> None:
    @circuit_breaker(fail_max=1)
    async def call() -> None:
        raise Down("its own words")

    with pytest.raises(Down, match="its own words"):
        await call()
    with pytest.raises(CircuitOpen):
        await call()


def test_an_open_circuit_says_what_is_down_and_when_it_is_asked_again(clock: FakeClock) -> None:
    call = circuit_breaker(name="billing", fail_max=1, reset_timeout=12)(down)
    fail(call, 1)
    clock.advance(2)
    with pytest.raises(CircuitOpen) as caught:
        call()
    error = caught.value
    assert (error.dependency, error.retry_after) == ("billing", 10.0)
    assert str(error) == "circuit open: billing is failing and was not asked (asked again in 10.0 s)"
    assert "CircuitOpen('billing', 10.0" in repr(error)


def test_a_call_turned_away_is_caught_as_a_pybreaker_error() -> None:
    call = circuit_breaker(fail_max=1)(down)
    fail(call, 1)
    with pytest.raises(pybreaker.CircuitBreakerError) as caught:
        call()
    assert isinstance(caught.value, CircuitOpen)
    assert not isinstance(caught.value, requests.ConnectionError)


@pytest.mark.parametrize("theirs", [pybreaker.CircuitBreakerError, requests.ConnectionError, CircuitOpen, OSError])
def test_a_request_turned_away_is_caught_by_clauses_written_before_us(api: FaultyAPI, theirs: type[Exception]) -> None:
    caught: list[Any] = []

    @pooled(base_url=api.base_url)
    @circuit_breaker
    def call() -> str:
        try:
            return requests.get(api.url + "/health").text
        except theirs as error:
            caught.append(error)
            return "caught"

    call.resilience.breaker.open()
    assert call() == "caught"
    error = caught[0]
    assert isinstance(error, (CircuitOpen, pybreaker.CircuitBreakerError, requests.ConnectionError))
    assert error.dependency == api.url
    assert error.request.url == api.url + "/health"
    assert error.response is None
    assert str(error).startswith(f"circuit open: {api.url}")


def test_an_open_circuit_can_be_pickled_and_copied(api: FaultyAPI) -> None:
    call = circuit_breaker(name="billing", fail_max=1)(down)

    @pooled(base_url=api.base_url)
    @circuit_breaker
    def request() -> None:
        requests.get(api.url + "/health")

    fail(call, 1)
    request.resilience.breaker.open()
    for guarded in (call, request):
        with pytest.raises(CircuitOpen) as caught:
            guarded()
        for again in (pickle.loads(pickle.dumps(caught.value)), copy.copy(caught.value)):
            assert isinstance(again, CircuitOpen)
            assert (again.dependency, again.retry_after) == (caught.value.dependency, caught.value.retry_after)
            assert str(again) == str(caught.value)


# ---- what counts


def test_failures_must_come_in_a_row() -> None:
    ends = iter([Down, Down, None, Down, Down, None])

    @circuit_breaker(fail_max=3)
    def call() -> None:
        if error := next(ends):
            raise error

    fail(call, 2)
    call()
    fail(call, 2)
    call()
    assert call.resilience.breaker.state == "closed"


def test_only_the_exceptions_named_count() -> None:
    raised: type[Exception] = ValueError

    @circuit_breaker(fail_max=1, counts=(Down, OSError))
    def call() -> None:
        raise raised

    for _ in range(3):
        with pytest.raises(ValueError):
            call()
    assert call.resilience.breaker.state == "closed"
    raised = Down
    fail(call, 1)
    assert call.resilience.breaker.state == "open"


def test_a_predicate_sees_results_and_exceptions() -> None:
    seen: list[Any] = []
    ends: list[Any] = ["fine", ValueError("neutral"), "busy"]

    def counts(end: Any) -> bool:
        seen.append(end)
        return end == "busy"

    @circuit_breaker(fail_max=1, counts=counts)
    def call() -> Any:
        end = ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end

    assert call() == "fine"
    with pytest.raises(ValueError):
        call()
    assert call.resilience.breaker.state == "closed"
    assert call() == "busy"
    assert call.resilience.breaker.state == "open"
    assert [str(end) for end in seen] == ["fine", "neutral", "busy"]


def test_a_failure_rate_opens_it_once_there_are_enough_calls() -> None:
    ends = iter([Down, None, None, Down])

    @circuit_breaker(failure_rate=0.5, minimum_calls=4)
    def call() -> None:
        if error := next(ends):
            raise error

    fail(call, 1)
    call()
    call()
    assert call.resilience.breaker.state == "closed"
    fail(call, 1)
    assert call.resilience.breaker.state == "open"


def test_failures_older_than_the_window_are_forgotten(clock: FakeClock) -> None:
    call = circuit_breaker(failure_rate=0.5, minimum_calls=4, window=60)(down)
    fail(call, 3)
    clock.advance(61)
    fail(call, 3)
    assert call.resilience.breaker.state == "closed"
    fail(call, 1)
    assert call.resilience.breaker.state == "open"


def test_calls_that_are_too_slow_open_it(clock: FakeClock) -> None:
    took = [3.0, 0.1, 0.1, 2.0]

    @circuit_breaker(slow_call=2.0, slow_rate=0.5, minimum_calls=4)
    def call() -> str:
        clock.advance(took.pop(0))
        return "answer"

    for _ in range(3):
        assert call() == "answer"
    assert call.resilience.breaker.state == "closed"
    assert call() == "answer"
    assert call.resilience.breaker.state == "open"


def test_each_failed_probe_doubles_the_wait_up_to_the_most(clock: FakeClock) -> None:
    call = circuit_breaker(fail_max=1, reset_timeout=10, max_reset_timeout=35)(down)
    fail(call, 1)
    clock.advance(10)
    waits = []
    for _ in range(3):
        fail(call, 1)
        with pytest.raises(CircuitOpen) as caught:
            call()
        waits.append(caught.value.retry_after)
        clock.advance(waits[-1])
    # Jitter of a tenth either way.
    assert 18 <= waits[0] <= 22
    assert 31.5 <= waits[1] <= 35
    assert 31.5 <= waits[2] <= 35


def test_a_returned_503_is_a_failure_where_no_request_was_guarded() -> None:
    @circuit_breaker(fail_max=2)
    def handler(event: Any) -> dict[str, Any]:
        return {"statusCode": 503}

    assert [handler({}), handler({})] == [{"statusCode": 503}] * 2
    with pytest.raises(CircuitOpen):
        handler({})


def test_a_returned_429_or_404_is_neither() -> None:
    statuses = [503, 429, 404, 503]

    @circuit_breaker(fail_max=2)
    def handler() -> dict[str, Any]:
        return {"statusCode": statuses.pop(0)}

    for _ in range(3):
        handler()
    assert handler.resilience.breaker.state == "closed"
    handler()
    assert handler.resilience.breaker.state == "open"


def test_an_error_nobody_knows_is_a_failure_where_the_function_is_the_dependency() -> None:
    call = circuit_breaker(fail_max=2)(down)
    fail(call, 2)
    assert call.resilience.breaker.state == "open"


def test_an_error_nobody_knows_is_neutral_where_requests_are_guarded_one_by_one(api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=1)
    def handler() -> None:
        requests.get(api.url + "/health")
        raise Down

    fail(handler, 5)
    assert handler.resilience.breaker.state == "closed"
    assert api.count() == 5


# ---- requests


def test_what_was_counted_as_a_request_is_not_counted_again_as_a_call(api: FaultyAPI, clock: FakeClock) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=3)
    def handler() -> None:
        requests.get(api.url + "/health").raise_for_status()

    api.script([Fault.status(503)] * 2)
    for _ in range(2):
        with pytest.raises(requests.HTTPError):
            handler()
    breakers = {b.dependency: b.counts.failures for b in handler.resilience.breaker}
    assert breakers[api.url] == 2
    assert all(n == 0 for dependency, n in breakers.items() if dependency != api.url)


def test_a_503_made_from_guarded_requests_is_not_counted_again(api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=2)
    def handler() -> dict[str, Any]:
        return {"statusCode": requests.get(api.url + "/health").status_code}

    api.script([Fault.status(503)])
    assert handler() == {"statusCode": 503}
    assert [b.counts.failures for b in handler.resilience.breaker if b.dependency != api.url] == [0]
    assert handler() == {"statusCode": 200}


def test_each_host_has_its_own_breaker(api: FaultyAPI) -> None:
    other = api.url.replace("localhost", "127.0.0.1")

    @pooled
    @circuit_breaker(fail_max=1)
    def handler(url: str) -> int:
        return requests.get(url + "/health").status_code

    api.script([Fault.status(503)])
    assert handler(api.url) == 503
    with pytest.raises(CircuitOpen) as caught:
        handler(api.url)
    assert caught.value.dependency == api.url
    assert handler(other) == 200
    breaker = handler.resilience.breaker
    assert (breaker[api.url].state, breaker[other].state, breaker.state) == ("open", "closed", "open")


def test_two_functions_with_the_same_settings_share_what_they_know_of_a_host(api: FaultyAPI) -> None:
    def ask() -> int:
        return requests.get(api.url + "/health").status_code

    first = pooled(circuit_breaker(fail_max=1)(ask))
    second = pooled(circuit_breaker(fail_max=1)(ask))
    api.script([Fault.status(503)])
    assert first() == 503
    with pytest.raises(CircuitOpen):
        second()


@pytest.mark.parametrize("scope", ["auto", "call"])
def test_the_call_scope_judges_what_the_function_itself_returns(api: FaultyAPI, scope: Any) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=1, scope=scope)
    def handler() -> dict[str, Any]:
        requests.get(api.url + "/health")
        raise TimeoutError

    with pytest.raises(TimeoutError):
        handler()
    assert handler.resilience.breaker.state == "open"
    with pytest.raises(CircuitOpen) as caught:
        handler()
    assert caught.value.dependency.endswith("handler")


def test_the_call_scope_counts_what_escapes_from_a_request(api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=1, scope="call")
    def handler() -> None:
        requests.get(api.url + "/health").raise_for_status()

    api.script([Fault.status(503)])
    with pytest.raises(requests.HTTPError):
        handler()
    with pytest.raises(CircuitOpen):
        handler()


def test_the_request_scope_leaves_the_call_alone(api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=1, scope="request")
    def handler() -> None:
        requests.get(api.url + "/health")
        raise TimeoutError

    for _ in range(3):
        with pytest.raises(TimeoutError):
            handler()
    assert handler.resilience.breaker.state == "closed"
