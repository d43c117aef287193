"""The states of a breaker, what is counted in them, and when it goes from one to another. Knows of no lock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from resilience.core.clock import CLOCK, Instant
from resilience.state.window import Window

if TYPE_CHECKING:
    import pybreaker

__all__ = ["CLOSED", "HALF_OPEN", "ISOLATED", "OPEN", "BreakerSettings", "Circuit", "Counts", "Permit"]

CLOSED, OPEN, HALF_OPEN, ISOLATED = "closed", "open", "half-open", "isolated"

#: Seconds after which a probe that has not reported is taken for dead, if `reset_timeout` is less.
LEASE = 30.0

#: Seconds after which one turned away in half-open may ask again, if `reset_timeout` is not less.
SOON = 1.0


class BreakerSettings(NamedTuple):
    """What a breaker is made with, checked by whoever reads the settings.

    fail_max: failures in a row that open it, >= 1; not looked at where `failure_rate` is set, which then decides alone.
    reset_timeout: seconds that it stays open at first, > 0. max_reset_timeout: the most that it grows to.
    success_threshold: probes that must succeed to close it, >= 1. half_open_calls: probes under way at a time, >= 1.
    failure_rate: share of failures, (0, 1], over the last `window` seconds that opens it, once `minimum_calls` were
    made in them. slow_call: seconds from which on a call is slow (a slow probe has failed); slow_rate: share of slow
    calls, (0, 1], over the same window, that opens it, beside whichever rule counts failures.
    storage, listeners: the user's own, of pybreaker. cb: the user's own breaker; its fail_max, reset_timeout,
    success_threshold, name, listeners, storage and excluded errors (which count as neither) hold instead of those here.
    """

    fail_max: int = 5
    reset_timeout: float = 30.0
    success_threshold: int = 1
    failure_rate: float | None = None
    window: float = 60.0
    minimum_calls: int = 10
    slow_call: float | None = None
    slow_rate: float = 1.0
    half_open_calls: int = 1
    max_reset_timeout: float = 300.0
    storage: pybreaker.CircuitBreakerStorage | None = None
    cb: pybreaker.CircuitBreaker | None = None
    listeners: Sequence[pybreaker.CircuitBreakerListener] = ()


class Permit:
    """Leave to make one call. While the breaker is closed all calls share one; each probe has its own."""

    __slots__ = ("probe",)

    def __init__(self, probe: bool) -> None:
        #: Whether the call decides about a breaker that is half-open.
        self.probe = probe


class Counts(NamedTuple):
    """What a breaker has counted in its present state; the last three only where a rate is set."""

    #: In a row, while closed.
    failures: int
    #: Probes that succeeded, while half-open.
    successes: int
    #: Probes under way.
    probes: int
    window_calls: int = 0
    window_failures: int = 0
    window_slow: int = 0


class Circuit:
    """The state machine, without what makes it safe to share.

    What changes: everything below the settings. Nothing here guards it: the lock of `Breaker`, which this is the inner
    half of, is held in every method here. Each transition is put into `_queue`, for whoever is to be told.
    """

    def __init__(self, settings: BreakerSettings, watched: bool) -> None:
        self.settings = settings
        cb = settings.cb
        self._fail_max = cb.fail_max if cb else settings.fail_max
        self._reset_timeout = float(cb.reset_timeout if cb else settings.reset_timeout)
        self._success_threshold = cb.success_threshold if cb else settings.success_threshold
        self._longest = max(settings.max_reset_timeout, self._reset_timeout)
        self._lease = max(self._reset_timeout, LEASE)
        # Someone is to be told of each call and transition, so that there are no short cuts.
        self._is_watched = watched
        rates = settings.failure_rate is not None or settings.slow_call is not None
        self._window = Window(settings.window, kinds=3) if rates else None

        self._state = CLOSED
        # When its time is past, by both clocks; set while it is open (never, if isolated), and replaced whole.
        self._ends: Instant | None = None
        # How long it stayed open last, without jitter and hints: what doubles.
        self._backoff = self._reset_timeout
        self._failures = self._successes = 0
        self._probes: dict[Permit, Instant] = {}
        # Old state, new state, and whether it was the storage that went first.
        self._queue: deque[tuple[str, str, bool]] = deque()
        # Grows with each transition.
        self._generation = 0
        # What all calls share while it is closed; the same if `admit` need look at nothing else; and if `success` need.
        self._permit: Permit | None = None
        self._shared: Permit | None = None
        self._quick: Permit | None = None
        self._grant()

    def _decide(self) -> tuple[Permit | None, float | None]:
        if self._state == OPEN:
            left = self._left()
            if left > 0:
                return None, left
            self._move(HALF_OPEN)
        if self._state == HALF_OPEN:
            if not self._free():
                return None, self._soon()
            permit = Permit(True)
            self._probes[permit] = CLOCK.now()
            return permit, None
        return self._permit, None

    def _left(self) -> float:
        # Past by either clock is past.
        ends = self._ends
        if ends is None:
            return 0.0
        left, by_wall = ends[0] - CLOCK.monotonic(), ends[1] - CLOCK.wall()
        return left if left < by_wall else by_wall

    def _soon(self) -> float:
        return min(SOON, self._reset_timeout)

    def _free(self) -> bool:
        for permit, since in list(self._probes.items()):
            if CLOCK.since(since) >= self._lease:
                del self._probes[permit]
        return len(self._probes) < self.settings.half_open_calls

    def _holds(self, permit: Permit) -> bool:
        """Whether this permit still counts; that of a probe is used up."""
        if not permit.probe:
            return permit is self._permit
        since = self._probes.pop(permit, None)
        return since is not None and CLOCK.since(since) < self._lease

    def _is_slow(self, elapsed: float) -> bool:
        return self.settings.slow_call is not None and elapsed >= self.settings.slow_call

    def _count(self, failed: bool, slow: bool, retry_after: float | None = None) -> None:
        if not failed and not self._is_watched and self._window is None:
            self._quick = self._permit
        if self._window is None:
            return
        self._window.add(1, failed, slow)
        calls, failures, slows = self._window.totals()
        rate = self.settings.failure_rate
        if calls >= self.settings.minimum_calls and (
            (rate is not None and failures >= rate * calls)
            or (self.settings.slow_call is not None and slows >= self.settings.slow_rate * calls)
        ):
            self._trip(retry_after)

    def _trip_if(self, failures: int, permit: Permit, retry_after: float | None) -> None:
        if permit is self._permit and self.settings.failure_rate is None and failures >= self._fail_max:
            self._trip(retry_after)

    def _trip(self, retry_after: float | None) -> None:
        self._backoff = self._reset_timeout
        self._move(OPEN, self._hinted(retry_after, self._backoff))

    def _reopen(self, retry_after: float | None) -> None:
        # random costs 4 ms to import; who gets here has other troubles.
        import random

        self._backoff = min(self._backoff * 2, self._longest)
        jittered = self._backoff * random.uniform(0.9, 1.1)  # noqa: S311 — spreads load, guards nothing
        self._move(OPEN, self._hinted(retry_after, min(jittered, self._longest)))

    def _hinted(self, retry_after: float | None, otherwise: float) -> float:
        return min(retry_after, self._longest) if retry_after is not None and retry_after > 0 else otherwise

    def _move(self, new: str, open_for: float = math.inf, followed: bool = False) -> None:
        """Go to another state, if to open then for that long: nothing given out before counts any more."""
        old, self._state = self._state, new
        if new in (OPEN, ISOLATED):
            now = CLOCK.now()
            self._ends = Instant(now.monotonic + open_for, now.wall + open_for)
        else:
            self._ends = None
        self._probes.clear()
        self._successes = 0
        if new == CLOSED:
            self._failures = 0
            if self._window is not None:
                self._window.clear()
        self._generation += 1
        self._grant()
        if old != new or self._is_watched:
            self._queue.append((old, new, followed))

    def _grant(self) -> None:
        """The permit that all share while it is closed, and the two short cuts to it."""
        self._permit = Permit(False) if self._state == CLOSED else None
        self._shared = self._permit if not self._is_watched else None
        self._quick = self._shared if self._window is None else None
