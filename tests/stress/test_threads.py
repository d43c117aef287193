"""Many threads, switched as often as the interpreter can: no exception that was not meant, and no lost count."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from resilience import CircuitOpen, circuit_breaker, fresh_auth, pooled, retry_ratelimit, warm
from resilience.decorators import _retrying
from resilience.testing import FakeClock

THREADS = 8
CALLS = 1_000_000
EACH = CALLS // THREADS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(autouse=True)
def _switching_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(work: Callable[[int], Any]) -> list[Any]:
    """What `work(number of the thread)` returned, or the exception that it raised, in each thread."""
    ends: list[Any] = [None] * THREADS
    begin = threading.Barrier(THREADS)

    def run(number: int) -> None:
        begin.wait()
        try:
            ends[number] = work(number)
        except BaseException as error:
            ends[number] = error

    threads = [threading.Thread(target=run, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def stacked(fn: Any, **breaker: Any) -> Any:
    """All five. A retry is never made, and a budget of 1.0 has one for each call: so many are available, exactly."""
    fn = fresh_auth(provider=lambda: "key", hosts="localhost")(fn)
    fn = circuit_breaker(**{"fail_max": 10**9, **breaker})(retry_ratelimit(attempts=1, budget=1.0)(fn))
    return warm(pooled(fn))


def calls_in_budget(fn: Any) -> int:
    return _retrying._budgets[fn.resilience.name, 1.0].available


def counts_of(fn: Any) -> Any:
    return fn.resilience.breaker[fn.resilience.name].counts


@pytest.fixture
def _standing_still() -> Iterator[None]:
    """No window slides on while the test runs, however long that takes."""
    with FakeClock():
        yield


@pytest.mark.usefixtures("_standing_still")
def test_a_million_calls_through_all_five_with_failures_among_them() -> None:
    every = 100

    def body(n: int) -> int:
        if n % every == 0:
            raise ConnectionRefusedError
        return n

    # A rate that is not reached, so that all calls are counted.
    call = stacked(body, failure_rate=1.0, minimum_calls=10**9)

    def work(number: int) -> tuple[int, int]:
        answers = failures = 0
        for n in range(EACH):
            try:
                answers += call(n) == n
            except ConnectionRefusedError:
                failures += 1
        return answers, failures

    failures = EACH // every
    assert in_threads(work) == [(EACH - failures, failures)] * THREADS
    counts = counts_of(call)
    assert (counts.window_calls, counts.window_failures) == (CALLS, failures * THREADS)
    assert calls_in_budget(call) == CALLS


@pytest.mark.usefixtures("_standing_still")
def test_no_failure_in_a_row_is_lost() -> None:
    each = 5_000

    def body() -> None:
        raise ConnectionRefusedError

    call = stacked(body)

    def work(number: int) -> int:
        failures = 0
        for _ in range(each):
            try:
                call()
            except ConnectionRefusedError:
                failures += 1
        return failures

    assert in_threads(work) == [each] * THREADS
    assert counts_of(call).failures == each * THREADS
    assert calls_in_budget(call) == each * THREADS


def test_a_circuit_that_opens_and_closes_all_the_time_loses_nobody() -> None:
    each = 10_000

    def body(n: int) -> int:
        if n % 7 < 3:
            raise ConnectionRefusedError
        return n

    call = stacked(body, fail_max=2, reset_timeout=0.001, max_reset_timeout=0.002)

    def work(number: int) -> int:
        ends = Counter[str]()
        for n in range(each):
            try:
                ends["answer" if call(n) == n else "wrong"] += 1
            except ConnectionRefusedError:
                ends["refused"] += 1
            except CircuitOpen:
                ends["turned away"] += 1
        assert not ends["wrong"]
        return ends.total()

    assert in_threads(work) == [each] * THREADS
    call.resilience.breaker.close()
    # No probe's place was kept by somebody who had left.
    assert call(6) == 6
    assert counts_of(call) == (0, 0, 0, 0, 0, 0)
