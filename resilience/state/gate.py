"""Who was told to wait, waits; and so does everyone else who would ask the same dependency."""

from __future__ import annotations

import threading

from resilience.core.clock import CLOCK, Instant
from resilience.state._fork import renew_in_child

__all__ = ["RateGate"]


class RateGate:
    """Closed after a hint such as `Retry-After`; opens by itself when its time is past.

    The hot path costs one attribute: `if gate.closed_until is not None: wait = gate.reserve()`. Who has waited asks
    `delay()` again, because a later hint may have come meanwhile, and if that is not 0.0 reserves anew.

    spacing: seconds between two of those released. smooth: release one after the other; False: all at their hint plus
    0–10 % of what they had to wait.

    What changes: `closed_until` and `_next`, under `_lock`. Both are read without it: a reader sees the gate as it was
    a moment ago.
    """

    __slots__ = ("__weakref__", "_lock", "_next", "closed_until", "smooth", "spacing")

    def __init__(self, spacing: float = 0.02, smooth: bool = True) -> None:
        self.spacing = spacing
        self.smooth = smooth
        #: When the hint ends, by both clocks; None: free, and nobody is queueing.
        self.closed_until: Instant | None = None
        # The next slot, if it is after the hint. A later hint does not free those handed out: a burst of answers to one
        # storm, each with the same hint, moves it by a millisecond at a time, and all would go at once.
        self._next: Instant | None = None
        self._lock = threading.Lock()
        renew_in_child(self)

    def close(self, seconds: float) -> None:
        """Let nobody go for `seconds`; of two hints the later holds. Nothing happens unless `seconds` > 0."""
        if not seconds > 0:
            return
        with self._lock:
            held = self.closed_until
            if held is None or seconds > _left(held):
                self.closed_until = _after(seconds)

    def delay(self) -> float:
        """Seconds until the hint is over; 0.0 when it is. Takes no slot."""
        until = self.closed_until
        if until is None:
            return 0.0
        left = _left(until)
        if left > 0:
            return left
        self._open()
        return 0.0

    def _open(self) -> None:
        """The hint is over and nobody queues: the next caller need not look at a clock."""
        with self._lock:
            until, last = self.closed_until, self._next
            if until is not None and _left(until) <= 0 and (last is None or _left(last) <= 0):
                self.closed_until = self._next = None

    def reserve(self) -> float:
        """Seconds until the caller may go: its own slot, never before the hint; 0.0: now."""
        if self.closed_until is None:
            return 0.0
        with self._lock:
            until = self.closed_until
            if until is None:
                return 0.0
            wait = _left(until) if self._next is None else max(_left(until), _left(self._next))
            if wait <= 0:
                self.closed_until = self._next = None
                return 0.0
            if self.smooth:
                self._next = _after(wait + self.spacing)
                return wait
            # random costs 4 ms to import, and most processes never see a hint.
            import random

            return wait * random.uniform(1.0, 1.1)  # noqa: S311 — spreads load, guards nothing

    def _renew(self) -> None:
        self._lock = threading.Lock()


def _after(seconds: float) -> Instant:
    now = CLOCK.now()
    return Instant(now.monotonic + seconds, now.wall + seconds)


def _left(until: Instant) -> float:
    # Past by either clock is past; a wall clock set back delays nobody.
    return min(until.monotonic - CLOCK.monotonic(), until.wall - CLOCK.wall())
