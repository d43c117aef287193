from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pybreaker
import pytest

from resilience.core import events
from resilience.core.errors import CircuitOpen
from resilience.state.breaker import Breaker, BreakerSettings, Counts


def breaker(**settings: Any) -> Breaker:
    return Breaker("https://api.example.com", BreakerSettings(**{"fail_max": 3, **settings}))


def fail(guarded: Breaker, times: int = 1, **how: Any) -> None:
    for _ in range(times):
        guarded.failure(guarded.admit(), ConnectionError("down"), **how)


def succeed(guarded: Breaker, times: int = 1, **how: Any) -> None:
    for _ in range(times):
        guarded.success(guarded.admit(), **how)


def turned_away(guarded: Breaker) -> CircuitOpen:
    with pytest.raises(CircuitOpen) as caught:
        guarded.admit()
    return caught.value


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    seen: list[Any] = []
    stop = events.listen(seen.append)
    yield seen
    stop()


# --- opening ---


def test_failures_in_a_row_open_it(clock: Any) -> None:
    b = breaker()
    fail(b, 2)
    assert b.state == "closed"
    fail(b)
    assert b.state == "open"
    error = turned_away(b)
    assert error.retry_after == pytest.approx(30)
    assert error.dependency == "https://api.example.com"


def test_what_it_raises_is_a_pybreaker_error_too(clock: Any) -> None:
    b = breaker()
    fail(b, 3)
    with pytest.raises(pybreaker.CircuitBreakerError):
        b.admit()


def test_a_success_in_between_starts_the_count_anew(clock: Any) -> None:
    b = breaker()
    fail(b, 2)
    succeed(b)
    fail(b, 2)
    assert b.state == "closed"
    assert b.counts == Counts(failures=2, successes=0, probes=0)


def test_what_is_neither_counts_as_neither(clock: Any) -> None:
    b = breaker()
    fail(b, 2)
    b.release(b.admit())
    assert b.counts.failures == 2


def test_a_failure_rate_decides_alone_and_only_with_enough_calls(clock: Any) -> None:
    b = breaker(failure_rate=0.5, minimum_calls=10)
    succeed(b, 5)
    fail(b, 4)
    assert b.state == "closed"
    fail(b)
    assert b.state == "open"


def test_failures_older_than_the_window_count_for_nothing(clock: Any) -> None:
    b = breaker(failure_rate=0.5, minimum_calls=10, window=60)
    fail(b, 9)
    clock.tick(61)
    fail(b, 1)
    assert b.state == "closed"
    assert b.counts.window_calls == 1


def test_slow_calls_open_it_though_they_succeed(clock: Any) -> None:
    b = breaker(slow_call=2.0, slow_rate=0.5, minimum_calls=4)
    assert b.needs_elapsed
    succeed(b, 2, elapsed=0.1)
    succeed(b, 1, elapsed=2.0)
    assert b.state == "closed"
    succeed(b, 1, elapsed=3.0)
    assert b.state == "open"


def test_with_slow_calls_failures_in_a_row_still_open_it(clock: Any) -> None:
    b = breaker(slow_call=2.0)
    fail(b, 3)
    assert b.state == "open"


def test_a_slow_probe_has_failed(clock: Any) -> None:
    b = breaker(slow_call=2.0)
    b.half_open()
    succeed(b, elapsed=5.0)
    assert b.state == "open"


# --- half-open ---


@pytest.mark.parametrize("which", ["mono", "epoch"])
def test_after_its_time_by_either_clock_one_probe_goes(clock: Any, which: str) -> None:
    b = breaker()
    fail(b, 3)
    setattr(clock, which, getattr(clock, which) + 30)
    probe = b.admit()
    assert probe.probe
    assert b.state == "half-open"
    assert turned_away(b).retry_after == 1.0
    b.success(probe)
    assert b.state == "closed"


def test_a_wall_clock_set_back_keeps_it_open_no_longer(clock: Any) -> None:
    b = breaker()
    fail(b, 3)
    clock.epoch -= 3600
    assert turned_away(b).retry_after == pytest.approx(30)
    clock.mono += 30
    assert b.admit().probe


def test_as_many_probes_as_allowed_and_as_many_successes_as_needed(clock: Any) -> None:
    b = breaker(half_open_calls=2, success_threshold=3)
    b.half_open()
    first, second = b.admit(), b.admit()
    turned_away(b)
    b.success(first)
    b.success(second)
    assert b.state == "half-open"
    assert b.counts.successes == 2
    b.success(b.admit())
    assert b.state == "closed"


def test_each_failed_probe_doubles_the_time_up_to_the_most(clock: Any) -> None:
    b = breaker(reset_timeout=30, max_reset_timeout=100)
    fail(b, 3)
    for expected in (60, 100, 100):
        clock.tick(111)
        fail(b)
        waits = b.peek()
        assert waits is not None
        assert expected * 0.9 - 1e-6 <= waits <= min(expected * 1.1, 100) + 1e-6
    clock.tick(111)
    succeed(b)
    fail(b, 3)
    assert b.peek() == pytest.approx(30)


@pytest.mark.parametrize(("asked", "gets"), [(7, 7), (120, 120), (9999, 300), (0, 30), (None, 30)])
def test_what_the_dependency_asks_for_is_how_long_it_stays_open(clock: Any, asked: float, gets: float) -> None:
    b = breaker()
    fail(b, 3, retry_after=asked)
    assert b.peek() == pytest.approx(gets)


def test_a_cancelled_probe_frees_its_place(clock: Any) -> None:
    b = breaker()
    b.half_open()
    b.release(b.admit())
    assert b.due
    assert b.admit().probe


def test_a_probe_that_never_reports_is_given_up(clock: Any) -> None:
    b = breaker()
    b.half_open()
    lost = b.admit()
    clock.tick(29)
    turned_away(b)
    clock.tick(1)
    after = b.admit()
    b.failure(lost)
    assert b.state == "half-open"
    b.success(lost)
    assert b.state == "half-open"
    b.success(after)
    assert b.state == "closed"


def test_a_probe_past_its_lease_changes_nothing_even_if_nobody_took_its_place(clock: Any) -> None:
    b = breaker()
    b.half_open()
    lost = b.admit()
    clock.tick(30)
    b.success(lost)
    assert b.state == "half-open"


@pytest.mark.parametrize("answer", ["success", "failure", "release"])
def test_a_late_answer_of_an_older_generation_changes_nothing(clock: Any, answer: str) -> None:
    b = breaker(success_threshold=2)
    late = b.admit()
    fail(b, 3)
    clock.tick(30)
    probe = b.admit()
    getattr(b, answer)(late)
    assert (b.state, b.counts.successes, b.counts.probes) == ("half-open", 0, 1)
    b.close()
    getattr(b, answer)(late)
    getattr(b, answer)(probe)
    assert (b.state, b.counts.failures) == ("closed", 0)


def test_due_is_when_a_ping_may_be_the_probe(clock: Any) -> None:
    b = breaker()
    assert (b.due, b.peek()) == (False, None)
    fail(b, 3)
    assert (b.due, b.peek()) == (False, pytest.approx(30))
    clock.tick(30)
    assert (b.due, b.peek()) == (True, 0.0)
    assert b.state == "open"
    b.admit()
    assert (b.due, b.peek()) == (False, 1.0)
    b.isolate()
    assert (b.due, b.peek()) == (False, None)


# --- by hand ---


def test_by_hand(clock: Any) -> None:
    b = breaker()
    b.open()
    assert turned_away(b).retry_after == pytest.approx(30)
    b.half_open()
    assert b.admit().probe
    b.close()
    assert not b.admit().probe


def test_isolated_stays_open_until_closed(clock: Any) -> None:
    b = breaker()
    b.isolate()
    clock.tick(1e6)
    assert b.state == "isolated"
    assert turned_away(b).retry_after is None
    b.close()
    succeed(b)


def test_what_happens_is_told(clock: Any, heard: list[Any]) -> None:
    b = breaker()
    fail(b, 3)
    turned_away(b)
    clock.tick(30)
    succeed(b)
    name = b.dependency
    assert heard == [
        events.CircuitChanged(name, "closed", "open"),
        events.CircuitRejected(name, pytest.approx(30)),
        events.CircuitChanged(name, "open", "half-open"),
        events.CircuitChanged(name, "half-open", "closed"),
    ]


def test_a_listener_may_use_the_breaker(clock: Any) -> None:
    b = breaker()
    seen = []

    def on(event: Any) -> None:
        seen.append((event.new, b.state))
        if event.new == "open":
            b.close()

    stop = events.listen(on, events.CircuitChanged)
    fail(b, 3)
    stop()
    assert seen == [("open", "open"), ("closed", "closed")]


# --- cost ---


def test_while_all_goes_well_it_gives_everyone_the_same_permit_and_imports_nothing() -> None:
    code = """
import sys
from resilience.state.breaker import Breaker
b = Breaker("x")
p = b.admit(); b.success(p)
b.failure(b.admit()); b.success(b.admit())
assert b.admit() is p
assert "pybreaker" not in sys.modules and "random" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- threads ---


def together(work: Callable[[], object], threads: int) -> None:
    barrier = threading.Barrier(threads)

    def run() -> None:
        barrier.wait()
        work()

    all_of_them = [threading.Thread(target=run) for _ in range(threads)]
    for thread in all_of_them:
        thread.start()
    for thread in all_of_them:
        thread.join()


def test_of_64_threads_exactly_one_is_the_probe(clock: Any) -> None:
    b = breaker()
    fail(b, 3)
    clock.tick(30)
    probes, rejected = [], []

    def work() -> None:
        try:
            probes.append(b.admit())
        except CircuitOpen as error:
            rejected.append(error)

    together(work, 64)
    assert (len(probes), len(rejected)) == (1, 63)


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.slow
@pytest.mark.parametrize("storage", [False, True])
def test_threads_lose_no_failure(clock: Any, hasty_threads: None, storage: bool) -> None:
    kept = pybreaker.CircuitMemoryStorage("closed")
    b = breaker(fail_max=10**9, storage=kept if storage else None)
    together(lambda: fail(b, 2000), 16)
    assert b.counts.failures == 32_000
    assert kept.counter == (32_000 if storage else 0)


@pytest.mark.slow
def test_threads_through_every_state_raise_nothing_but_circuit_open(hasty_threads: None) -> None:
    b = breaker(fail_max=2, reset_timeout=0.0001, max_reset_timeout=0.0002)
    seen, errors = [], []
    stop = events.listen(seen.append, events.CircuitChanged)

    def work() -> None:
        for n in range(20_000):
            try:
                permit = b.admit()
            except CircuitOpen:
                continue
            except Exception as error:
                errors.append(error)
                return
            (b.failure if n % 3 else b.success)(permit)

    together(work, 8)
    stop()
    assert errors == []
    # Told in order: each transition begins where the one before ended.
    assert all(one.new == next_.old for one, next_ in itertools.pairwise(seen))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_lock_held_at_the_fork_is_free_in_the_child() -> None:
    # In a process of its own, where no other thread makes the fork a warning.
    code = """
import itertools
import os
from resilience.state.breaker import Breaker
from resilience.state.budget import RetryBudget
from resilience.state.gate import RateGate
b, budget, gate = Breaker("x"), RetryBudget(), RateGate()
gate.close(1)
b.open(); b.half_open(); lost = b.admit()
for thing in (b, budget, gate):
    thing._lock.acquire()
pid = os.fork()
if pid == 0:
    b.success(b.admit())
    assert b.state == "closed" and not b.admit().probe
    b.failure(b.admit()); budget.try_spend(); gate.reserve()
    os._exit(0)
for thing in (b, budget, gate):
    thing._lock.release()
assert b.counts.probes == 1
assert os.waitpid(pid, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
