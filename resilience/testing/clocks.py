"""A clock that stands still until it is told otherwise."""

from __future__ import annotations

import threading
from typing import Any

from resilience.core.clock import CLOCK
from resilience.core.settings import Settings

__all__ = ["FakeClock"]

_check = Settings("FakeClock")


class FakeClock:
    """Both clocks of `resilience`, moved by hand; sleeping moves them at once.

    `with FakeClock() as clock:` puts it in the place of the real ones until the end of the block. `slept` lists what
    was slept, in seconds.

    What changes: the two times and `slept`, under `_lock`.
    """

    def __init__(self, start: float = 1_000_000.0) -> None:
        _check.number("start", start)
        self._monotonic = start
        self._wall = 1_700_000_000.0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Seconds of no particular beginning."""
        return self._monotonic

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._wall

    def sleep(self, seconds: float) -> None:
        """Return at once, `seconds` later."""
        with self._lock:
            self.slept.append(seconds)
        self.advance(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """The same; other tasks get their turn."""
        import asyncio

        self.sleep(seconds)
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        """Let time pass, at least 0 seconds."""
        _check.number("seconds", seconds)
        with self._lock:
            self._monotonic += seconds
            self._wall += seconds

    def advance_wall(self, seconds: float) -> None:
        """Set the wall clock alone, back too: a frozen process whose monotonic clock stood still, or an operator."""
        with self._lock:
            self._wall += seconds

    def advance_monotonic(self, seconds: float) -> None:
        """Let the monotonic clock alone go on, at least 0 seconds."""
        _check.number("seconds", seconds)
        with self._lock:
            self._monotonic += seconds

    def __enter__(self) -> FakeClock:
        CLOCK.install(self)
        return self

    def __exit__(self, *exc: Any) -> None:
        CLOCK.reset()
