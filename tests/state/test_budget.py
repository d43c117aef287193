from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience.state.budget import RetryBudget


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_an_outage_of_500_calls_is_sent_at_most_600_times(clock: Any) -> None:
    budget, sent = RetryBudget(), 0
    for _ in range(500):
        budget.note_call()
        sent += 1
        for _ in range(3):
            if budget.try_spend():
                sent += 1
        clock.tick(0.1)
    assert sent <= 600


def test_the_floor_lets_a_quiet_function_retry(clock: Any) -> None:
    budget = RetryBudget(floor=20)
    budget.note_call()
    assert budget.available == 20
    assert sum(budget.try_spend() for _ in range(30)) == 20
    assert budget.available == 0


def test_retries_come_back_when_the_window_has_passed(clock: Any) -> None:
    budget = RetryBudget(floor=1)
    assert budget.try_spend()
    assert not budget.try_spend()
    clock.tick(61)
    assert budget.try_spend()


def test_calls_of_an_hour_ago_earn_nothing(clock: Any) -> None:
    budget = RetryBudget(floor=0)
    for _ in range(1000):
        budget.note_call()
    clock.tick(3600)
    budget.note_call()
    assert not budget.try_spend()


def test_no_floor_and_no_ratio_is_no_retry(clock: Any) -> None:
    budget = RetryBudget(ratio=0.0, floor=0)
    budget.note_call()
    assert not budget.try_spend()


def test_looking_counts_nothing(clock: Any) -> None:
    budget = RetryBudget(ratio=1.0, floor=0)
    for _ in range(50):
        assert budget.available == 0
    budget.note_call()
    assert budget.available == 1


steps = st.lists(st.tuples(st.floats(0, 30), st.integers(0, 3)), min_size=1, max_size=500)


@given(steps, st.integers(0, 20), st.sampled_from([0.0, 0.1, 0.2, 1.0]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_in_any_pattern_no_window_holds_more_retries_than_it_may(
    clock: Any, steps: list[tuple[float, int]], floor: int, ratio: float
) -> None:
    budget = RetryBudget(ratio=ratio, floor=floor)
    calls: list[float] = []
    retries: list[float] = []
    for wait, wanted in steps:
        clock.tick(wait)
        calls.append(clock.mono)
        budget.note_call()
        retries += [clock.mono for _ in range(wanted) if budget.try_spend()]
        # A bucket (3 s) is forgotten at once, so that the oldest retries may be before the oldest calls are.
        lately = sum(at > clock.mono - 57 + 1e-6 for at in retries)
        if retries and retries[-1] == clock.mono:
            assert lately <= max(floor, ratio * sum(at > clock.mono - 60 - 1e-6 for at in calls) + 1e-6)


@pytest.mark.slow
def test_threads_lose_no_call_and_spend_none_twice(hasty_threads: None) -> None:
    budget, granted = RetryBudget(ratio=0.5, floor=0, window=3600.0), []

    def work() -> None:
        for n in range(20_000):
            budget.note_call()
            if n % 100 == 0:
                assert budget.available >= 0

    def spend() -> None:
        granted.append(sum(budget.try_spend() for _ in range(60_000)))

    for target in (work, spend):
        threads = [threading.Thread(target=target) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(granted) == 80_000
