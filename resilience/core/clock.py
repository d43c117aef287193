"""The one place that reads the time.

In one call only the monotonic clock is read. Across calls (idle, open-until, expiry, last warm) both are: a platform
that freezes the process may stop the monotonic clock, and an operator may set the wall clock back. A thing is old if
*either* clock says so, and a wall clock that goes backwards makes nothing younger.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple


class Instant(NamedTuple):
    """A moment, by both clocks, in seconds."""

    monotonic: float
    wall: float


class Clock:
    """Both clocks and the two ways to wait.

    What changes: the four functions, by `install`, in tests only. Nothing guards them.
    """

    __slots__ = ("monotonic", "sleep", "sleep_async", "wall")

    monotonic: Callable[[], float]
    wall: Callable[[], float]
    sleep: Callable[[float], None]
    sleep_async: Callable[[float], Awaitable[None]]

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Go back to the real clocks."""
        self.monotonic = time.monotonic
        self.wall = time.time
        self.sleep = time.sleep
        self.sleep_async = _sleep_async

    def install(self, other: Any) -> None:
        """Read `other` from now on: any object with `monotonic`, `wall`, `sleep` and `sleep_async`."""
        self.monotonic = other.monotonic
        self.wall = other.wall
        self.sleep = other.sleep
        self.sleep_async = other.sleep_async

    def now(self) -> Instant:
        """This moment, by both clocks."""
        return Instant(self.monotonic(), self.wall())

    def since(self, then: Instant) -> float:
        """Seconds since `then`, by whichever clock says more; never negative."""
        return max(self.monotonic() - then[0], self.wall() - then[1], 0.0)


async def _sleep_async(seconds: float) -> None:
    # asyncio costs 47 ms to import; who waits asynchronously has it already.
    import asyncio

    await asyncio.sleep(seconds)


def replaced(other: Any) -> Iterator[None]:
    """Use as `contextlib.contextmanager(replaced)`: `other` is the clock inside."""
    CLOCK.install(other)
    try:
        yield
    finally:
        CLOCK.reset()


#: The process's clock.
CLOCK = Clock()
