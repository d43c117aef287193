"""A clock that moves only when told to."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from resilience.core.clock import CLOCK
from resilience.testing import FakeClock


def test_it_stands_still() -> None:
    clock = FakeClock()
    assert (clock.monotonic(), clock.wall()) == (clock.monotonic(), clock.wall())


def test_sleeping_moves_both_clocks_at_once_and_is_recorded() -> None:
    clock = FakeClock()
    monotonic, wall = clock.monotonic(), clock.wall()
    clock.sleep(1.5)
    clock.sleep(2)
    assert clock.slept == [1.5, 2]
    assert (clock.monotonic() - monotonic, clock.wall() - wall) == (3.5, 3.5)


def test_a_negative_sleep_is_the_error_that_it_is_in_life() -> None:
    clock = FakeClock()
    with pytest.raises(ValueError):
        clock.sleep(-1)
    assert clock.slept == []


async def test_sleeping_in_a_task_lets_the_others_run() -> None:
    clock = FakeClock()
    ran = []
    other = asyncio.ensure_future(_note(ran))
    await clock.sleep_async(60)
    assert ran == [True]
    assert clock.slept == [60]
    await other


async def _note(ran: list[bool]) -> None:
    ran.append(True)


def test_either_clock_can_be_moved_alone() -> None:
    clock = FakeClock()
    monotonic, wall = clock.monotonic(), clock.wall()
    clock.advance_wall(10)
    assert (clock.monotonic() - monotonic, clock.wall() - wall) == (0, 10)
    clock.advance_wall(-20)
    assert (clock.monotonic() - monotonic, clock.wall() - wall) == (0, -10)
    clock.advance_monotonic(5)
    assert (clock.monotonic() - monotonic, clock.wall() - wall) == (5, -10)
    clock.advance(1)
    assert (clock.monotonic() - monotonic, clock.wall() - wall) == (6, -9)


@pytest.mark.parametrize("move", ["advance", "advance_monotonic"])
@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "1"])
def test_the_monotonic_clock_never_goes_back(move: str, seconds: Any) -> None:
    clock = FakeClock()
    with pytest.raises(ValueError, match="seconds="):
        getattr(clock, move)(seconds)


def test_inside_the_block_it_is_the_clock_of_the_package() -> None:
    with FakeClock() as clock:
        before = CLOCK.now()
        CLOCK.sleep(7)
        assert CLOCK.since(before) == 7
        assert clock.slept == [7]
    assert abs(CLOCK.wall() - time.time()) < 60


def test_after_a_block_the_clock_before_it_is_back() -> None:
    with FakeClock() as outer:
        with FakeClock():
            CLOCK.sleep(1)
        CLOCK.sleep(2)
        assert outer.slept == [2]
    assert CLOCK.monotonic is time.monotonic


def test_no_sleep_of_many_threads_is_lost() -> None:
    clock = FakeClock()
    before = clock.monotonic()
    threads = [threading.Thread(target=lambda: [clock.sleep(1) for _ in range(500)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.monotonic() - before == len(clock.slept) == 4000
