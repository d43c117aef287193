from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilience.state.window import Window


def test_what_is_older_than_the_window_is_forgotten(clock: Any) -> None:
    window = Window(60, kinds=2)
    window.add(1, 5)
    clock.tick(30)
    window.add(1, 0)
    assert window.totals() == (2, 5)
    clock.tick(31)
    assert window.totals() == (1, 0)
    clock.tick(1000)
    assert window.totals() == (0, 0)


def test_a_frozen_monotonic_clock_does_not_keep_it(clock: Any) -> None:
    window = Window(60, kinds=1)
    window.add(1)
    clock.epoch += 61
    assert window.totals() == (0,)


def test_a_wall_clock_set_back_neither_keeps_nor_drops_anything(clock: Any) -> None:
    window = Window(60, kinds=1)
    clock.epoch += 4000
    window.add(1)
    clock.epoch -= 4000
    clock.tick(50)
    assert window.totals() == (1,)
    clock.tick(11)
    assert window.totals() == (0,)


def test_clear_forgets_everything(clock: Any) -> None:
    window = Window(60, kinds=1)
    window.add(3)
    window.clear()
    assert window.totals() == (0,)


@given(st.lists(st.tuples(st.floats(0, 40), st.integers(0, 3)), max_size=60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_it_agrees_with_a_list_of_times_to_within_a_bucket(clock: Any, steps: list[tuple[float, int]]) -> None:
    window, seen = Window(60, kinds=1), []
    for wait, count in steps:
        clock.tick(wait)
        window.add(count)
        seen.append((clock.mono, count))
        (total,) = window.totals()
        # A float's breadth of slack at the edges.
        surely = sum(n for at, n in seen if clock.mono - at < 60 - window.width - 1e-6)
        at_most = sum(n for at, n in seen if clock.mono - at < 60 + 1e-6)
        assert surely <= total <= at_most
