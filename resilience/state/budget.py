"""How many retries a dependency may be sent, so that they cannot multiply an outage."""

from __future__ import annotations

import itertools
import threading

from resilience.core.clock import CLOCK
from resilience.state._fork import renew_in_child
from resilience.state.window import Window

__all__ = ["RetryBudget"]


class RetryBudget:
    """Retries in a sliding window are at most `max(floor, ratio × calls in that window)`.

    With the defaults, 500 calls within a minute of total outage are sent 600 times, however many attempts each may
    make. The idea is Finagle's retry budget (and Google's SRE book, "Handling Overload": a per-client retry ratio).

    ratio: retries per call, 0–1. floor: retries that are always allowed in one window, >= 0, so that a quiet function
    may retry at all. window: seconds, > 0.

    What changes: `_tick`, which the interpreter makes atomic; the window, what was last read from `_tick`, and when the
    bucket ends, under `_lock`.
    """

    __slots__ = ("__weakref__", "_bucket_ends", "_lock", "_read", "_tick", "_window", "floor", "ratio")

    def __init__(self, ratio: float = 0.2, floor: int = 20, window: float = 60.0) -> None:
        self.ratio = ratio
        self.floor = floor
        self._window = Window(window, kinds=2)
        self._lock = threading.Lock()
        # `+= 1` loses counts under threads, and a lock costs more than the count is worth; the step of a C iterator is
        # one operation, and needs neither.
        self._tick = itertools.count().__next__
        self._read = 0
        self._bucket_ends = self._window.ends
        renew_in_child(self)

    def note_call(self) -> None:
        """Count one call (not its retries); takes no lock but once per bucket."""
        if CLOCK.monotonic() >= self._bucket_ends:
            with self._lock:
                self._settle()
        self._tick()

    def try_spend(self) -> bool:
        """Take one retry if there is one: ask before sleeping, and retry only if it says True."""
        with self._lock:
            if self._left() < 1:
                return False
            self._window.add(0, 1)
            return True

    @property
    def available(self) -> int:
        """Retries that could be had now."""
        with self._lock:
            return max(int(self._left()), 0)

    def _left(self) -> float:
        self._settle()
        calls, retries = self._window.totals()
        # 0.2 × 15 must not come to a little less than 3.
        return max(self.floor, self.ratio * calls + 1e-9) - retries

    def _settle(self) -> None:
        """Put the calls counted since the last time into the bucket in which they were made."""
        ticks = self._tick()
        # The tick just taken to read the count is not a call.
        self._window.put(ticks - self._read, 0)
        self._read = ticks + 1
        self._window.advance()
        self._bucket_ends = self._window.ends

    def _renew(self) -> None:
        self._lock = threading.Lock()
