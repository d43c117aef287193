from __future__ import annotations

import itertools
import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience.state.gate import RateGate


def test_a_gate_that_was_never_closed_is_free(clock: Any) -> None:
    gate = RateGate()
    assert gate.closed_until is None
    assert gate.delay() == gate.reserve() == 0.0


def test_nobody_goes_before_the_hint(clock: Any) -> None:
    gate = RateGate()
    gate.close(10)
    clock.tick(4)
    assert gate.delay() == pytest.approx(6)
    assert gate.reserve() >= 6 - 1e-6


def test_those_waiting_are_released_one_after_the_other(clock: Any) -> None:
    gate = RateGate(spacing=0.5)
    gate.close(10)
    assert [gate.reserve() for _ in range(4)] == pytest.approx([10, 10.5, 11, 11.5])


def test_a_newcomer_queues_behind_those_still_waiting(clock: Any) -> None:
    gate = RateGate(spacing=0.5)
    gate.close(10)
    for _ in range(4):
        gate.reserve()
    clock.tick(10.25)
    assert gate.delay() == 0.0
    assert gate.reserve() == pytest.approx(1.75)


@pytest.mark.parametrize("smooth", [True, False])
def test_it_opens_by_itself_when_all_have_gone(clock: Any, smooth: bool) -> None:
    gate = RateGate(smooth=smooth)
    gate.close(10)
    gate.reserve()
    clock.tick(10.1)
    assert gate.reserve() == 0.0
    assert gate.closed_until is None


@pytest.mark.parametrize(("first", "second"), [(10, 3), (3, 10)])
def test_of_two_hints_the_later_holds(clock: Any, first: float, second: float) -> None:
    gate = RateGate()
    gate.close(first)
    gate.close(second)
    assert gate.delay() == pytest.approx(10)


def test_a_waiter_finds_the_hint_that_came_while_it_waited(clock: Any) -> None:
    gate = RateGate()
    gate.close(1)
    wait = gate.reserve()
    gate.close(5)
    clock.tick(wait)
    assert gate.delay() == pytest.approx(4)
    assert gate.reserve() == pytest.approx(4)


def test_a_storm_of_the_same_hint_is_spread_out(clock: Any) -> None:
    gate, slots = RateGate(spacing=0.02), []
    for _ in range(50):
        gate.close(1)
        slots.append(clock.mono + gate.reserve())
        clock.tick(0.001)
    assert all(later - sooner >= 0.02 - 1e-6 for sooner, later in itertools.pairwise(slots))


def test_without_smoothing_all_go_a_little_after_the_hint(clock: Any) -> None:
    gate = RateGate(smooth=False)
    gate.close(10)
    assert all(10 - 1e-6 <= gate.reserve() <= 11 for _ in range(100))


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_hint_of_nothing_closes_nothing(clock: Any, seconds: float) -> None:
    gate = RateGate()
    gate.close(seconds)
    assert gate.closed_until is None


def test_a_thaw_opens_it_by_the_wall_clock(clock: Any) -> None:
    gate = RateGate()
    gate.close(10)
    clock.epoch += 11
    assert gate.delay() == gate.reserve() == 0.0


def test_a_wall_clock_set_back_holds_nobody_longer(clock: Any) -> None:
    gate = RateGate()
    gate.close(10)
    clock.epoch -= 3600
    assert gate.delay() == pytest.approx(10)


@given(
    st.lists(st.one_of(st.tuples(st.just("close"), st.floats(0.1, 20)), st.tuples(st.just("tick"), st.floats(0, 5))))
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_happens_no_slot_is_before_the_latest_hint(clock: Any, steps: list[tuple[str, float]]) -> None:
    gate, latest, slots = RateGate(spacing=0.1), clock.mono, []
    for what, seconds in steps:
        if what == "tick":
            clock.tick(seconds)
        else:
            latest = max(latest, clock.mono + seconds)
            gate.close(seconds)
        wait = gate.reserve()
        assert clock.mono + wait >= latest - 1e-4
        assert clock.mono + gate.delay() == pytest.approx(max(latest, clock.mono), abs=1e-4)
        if wait:
            # Also of those handed out before a later hint, which moved it by little.
            assert all(abs(clock.mono + wait - slot) >= 0.1 - 1e-4 for slot in slots)
            slots.append(clock.mono + wait)


def test_64_threads_get_64_different_slots(clock: Any) -> None:
    gate, slots = RateGate(), []
    gate.close(10)
    threads = [threading.Thread(target=lambda: slots.append(round(gate.reserve(), 3))) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(slots)) == 64
    assert min(slots) == 10
