"""A clock that stands still until it is told otherwise."""

from __future__ import annotations

import threading
from types import SimpleNamespace

from resilience.core.clock import CLOCK
from resilience.core.settings import Settings

__all__ = ["FakeClock"]

_check = Settings("FakeClock")


class FakeClock:
    """Both clocks of `resilience`, moved by hand; sleeping moves them at once.

    start: the first reading of the monotonic one, in seconds.

    `with FakeClock() as clock:` puts it in the place of the clock before it until the end of the block. `slept` lists
    what was slept, in seconds. Any number of threads and tasks may use it; each that sleeps moves it for all.

    What changes: the two times and `slept`, under `_lock`; `_before`, by whoever enters and leaves the block.
    """

    def __init__(self, start: float = 1_000_000.0) -> None:
        _check.number("start", start)
        self._monotonic = start
        self._wall = 1_700_000_000.0
        self._lock = threading.Lock()
        self._before: list[SimpleNamespace] = []
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Seconds of no particular beginning."""
        return self._monotonic

    def wall(self) -> float:
        """Seconds since 1970."""
        return self._wall

    def sleep(self, seconds: float) -> None:
        """Return at once, `seconds` later; ValueError if negative, as `time.sleep` says."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        with self._lock:
            self.slept.append(seconds)
            self._monotonic += seconds
            self._wall += seconds

    async def sleep_async(self, seconds: float) -> None:
        """The same; other tasks get their turn. A negative length is 0, as in asyncio."""
        import asyncio

        self.sleep(max(seconds, 0.0))
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
        names = ("monotonic", "wall", "sleep", "sleep_async")
        self._before.append(SimpleNamespace(**{name: getattr(CLOCK, name) for name in names}))
        CLOCK.install(self)
        return self

    def __exit__(self, *exc: object) -> None:
        CLOCK.install(self._before.pop())
