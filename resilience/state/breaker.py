"""A circuit breaker that holds no lock while the guarded call runs.

Guards use it so, for `def` and `async def` alike:

    permit = breaker.admit()            # or CircuitOpen
    ...                                 # the call
    breaker.success(permit)             # or .failure(permit, error), or .release(permit) when it was neither
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilience.core import events
from resilience.core.clock import CLOCK
from resilience.core.errors import CircuitOpen
from resilience.state._circuit import CLOSED, HALF_OPEN, ISOLATED, OPEN, BreakerSettings, Circuit, Counts, Permit
from resilience.state._fork import renew_in_child

if TYPE_CHECKING:
    from resilience.state._pybreaker import Machine

__all__ = ["Breaker", "BreakerSettings", "Counts", "Permit"]

_log = logging.getLogger("resilience")
_NEVER = math.inf


class Breaker(Circuit):
    """The breaker of one dependency.

    What changes: everything below the settings, under `_lock`, which is held only for arithmetic. `_shared` and
    `_quick` are read without it. Transitions queue up under the lock, and whichever thread finds the queue untended
    tells pybreaker and the listeners of them in order, with no lock of ours held: a listener may block, or use the
    breaker, and holds nobody else up.

    With the user's storage, listeners or breaker (`cb`), the storage is the source of truth, and asked at each call.
    """

    def __init__(self, dependency: str, settings: BreakerSettings | None = None) -> None:
        settings = settings or BreakerSettings()
        cb = settings.cb
        watched = cb is not None or settings.storage is not None or bool(settings.listeners)
        super().__init__(settings, watched)
        self.dependency = str((cb and cb.name) or dependency)
        #: Whether `success` and `failure` want to know how long the call took.
        self.needs_elapsed = settings.slow_call is not None
        self._lock = threading.Lock()
        self._telling = False
        self._error: type[CircuitOpen] | None = None
        self._machine: Machine | None = self._make_machine() if watched else None
        # The same, if there is anyone to be told of each call.
        self._watched = self._machine
        renew_in_child(self)

    # --- calls ---

    def admit(self, fn: Callable[..., Any] | None = None) -> Permit:
        """Leave to make one call; raises `CircuitOpen` where there is none. fn: what pybreaker's listeners are told."""
        answer = self._shared or self._ask(fn)
        if isinstance(answer, Permit):
            return answer
        raise answer

    def ask(self) -> Permit | CircuitOpen:
        """As `admit`; the error is returned, which costs a third of raising it."""
        return self._shared or self._ask(None)

    def _ask(self, fn: Callable[..., Any] | None) -> Permit | CircuitOpen:
        machine = self._watched
        if machine is not None:
            self._follow(machine)
        # Those turned away need no lock; `_left`, in line.
        ends = self._ends
        if ends is not None:
            left, by_wall = ends[0] - CLOCK.monotonic(), ends[1] - CLOCK.wall()
            if by_wall < left:
                left = by_wall
            if left > 0:
                return self._rejection(left if left < _NEVER else None)
        with self._lock:
            permit, wait = self._decide()
        if self._queue:
            self._tell()
        if permit is None:
            return self._rejection(wait)
        if machine is not None:
            machine.before_call(fn)
        return permit

    def success(self, permit: Permit, elapsed: float = 0.0) -> None:
        """The call went well; elapsed: seconds, looked at only if `needs_elapsed`."""
        # Closed, no failure to forget, and nobody to tell.
        if permit is not self._quick:
            self._success(permit, elapsed)

    def _success(self, permit: Permit, elapsed: float) -> None:
        slow = self._is_slow(elapsed)
        machine = self._watched
        with self._lock:
            if not self._holds(permit):
                return
            if not permit.probe:
                self._failures = 0
                self._count(False, slow)
            elif slow:
                self._reopen(None)
            else:
                self._successes += 1
                if machine is None and self._successes >= self._success_threshold:
                    self._move(CLOSED)
            generation = self._generation
        if machine is not None:
            together = machine.succeeded(permit.probe and not slow)
            with self._lock:
                enough = (self._successes if together is None else together) >= self._success_threshold
                if permit.probe and not slow and enough and generation == self._generation:
                    self._move(CLOSED)
        if self._queue:
            self._tell()
        if machine is not None:
            machine.success()

    def failure(
        self,
        permit: Permit,
        error: BaseException | None = None,
        retry_after: float | None = None,
        elapsed: float = 0.0,
    ) -> None:
        """The call failed; never raises. retry_after: seconds that the dependency asked for, which is how long the
        breaker stays open if this failure opens it, up to `max_reset_timeout`."""
        machine = self._watched
        if machine is not None and machine.excluded(error):
            self.release(permit)
            return
        with self._lock:
            if not self._holds(permit):
                return
            if permit.probe:
                self._reopen(retry_after)
            else:
                self._failures += 1
                self._quick = None
                self._count(True, self._is_slow(elapsed), retry_after)
                if machine is None:
                    self._trip_if(self._failures, permit, retry_after)
        if machine is not None:
            together = machine.failed()
            with self._lock:
                self._trip_if(self._failures if together is None else together, permit, retry_after)
            machine.failure(error)
        if self._queue:
            self._tell()

    def release(self, permit: Permit) -> None:
        """The call was cancelled, or its end says nothing of the dependency: frees the place of a probe."""
        if permit.probe:
            with self._lock:
                self._probes.pop(permit, None)

    # --- by hand, and to look at ---

    @property
    def state(self) -> str:
        """One of "closed", "open", "half-open", "isolated"; open stays open until someone asks for leave."""
        if self._watched is not None:
            self._follow(self._watched)
        return self._state

    @property
    def counts(self) -> Counts:
        """What has been counted."""
        with self._lock:
            seen = (self._failures, self._successes, len(self._probes))
            return Counts(*seen, *self._window.totals()) if self._window is not None else Counts(*seen)

    def peek(self) -> float | None:
        """Seconds until a probe would be let through, 0.0 if now; None while closed or isolated. Changes nothing."""
        with self._lock:
            if self._state == OPEN:
                return max(self._left(), 0.0)
            if self._state == HALF_OPEN:
                return 0.0 if self._free() else self._soon()
            return None

    @property
    def due(self) -> bool:
        """Whether a call made now would be a probe; a ping makes it, so that no user does."""
        return self._state != CLOSED and self.peek() == 0.0

    def open(self) -> None:
        """Open it for `reset_timeout` seconds."""
        self._by_hand(OPEN)

    def close(self) -> None:
        """Close it, and forget what was counted."""
        self._by_hand(CLOSED)

    def half_open(self) -> None:
        """Let probes through from now on."""
        self._by_hand(HALF_OPEN)

    def isolate(self) -> None:
        """Keep it open until `close()`, or another of these."""
        self._by_hand(ISOLATED)

    def __repr__(self) -> str:
        return f"<Breaker {self.dependency}: {self._state}>"

    # --- without the lock ---

    def _by_hand(self, new: str) -> None:
        with self._lock:
            self._backoff = self._reset_timeout
            self._move(new, math.inf if new == ISOLATED else self._reset_timeout)
        self._tell()

    def _rejection(self, wait: float | None) -> CircuitOpen:
        error = self._error
        if error is None:
            from resilience.state._pybreaker import OpenError

            error = self._error = OpenError
        if events.LISTENERS:
            events.emit(events.CircuitRejected(self.dependency, wait))
        return error(self.dependency, wait)

    def _make_machine(self) -> Machine:
        from resilience.state._pybreaker import Machine

        return Machine(self.dependency, self.settings)

    def _tell(self) -> None:
        """Tell pybreaker and whoever listens of what queues up; one thread at a time does, and none waits."""
        while True:
            with self._lock:
                if self._telling or not self._queue:
                    return
                self._telling = True
                old, new, followed = self._queue.popleft()
            try:
                if self._machine is None:
                    self._machine = self._make_machine()
                if followed:
                    self._machine.follow()
                else:
                    self._machine.apply(new)
                if old != new:
                    # The one thing that must be seen at 3 a.m. without having been asked for.
                    level = logging.WARNING if new in (OPEN, ISOLATED) else logging.INFO
                    _log.log(level, "circuit of %s: %s, was %s", self.dependency, new, old)
                if old != new and events.LISTENERS:
                    events.emit(events.CircuitChanged(self.dependency, old, new))
            finally:
                with self._lock:
                    self._telling = False

    def _follow(self, machine: Machine) -> None:
        """Go where the storage is, if someone else has moved it: another process, or a hand on pybreaker's breaker."""
        with self._lock:
            generation, state = self._generation, self._state
            # What pybreaker has not been told of yet, the storage cannot know.
            if state == ISOLATED or self._telling or self._queue:
                return
        seen = machine.storage.state
        # Where both are open, another process's probe may have failed since.
        if seen == state and (state != OPEN or self.peek() or not machine.reopened()):
            return
        opened = machine.opened() if seen == OPEN else None
        with self._lock:
            # What was read may be older than a transition of our own.
            if generation != self._generation:
                return
            self._backoff = self._reset_timeout
            # As with pybreaker, a time that is not known is long ago.
            left = 0.0 if opened is None else self._reset_timeout - CLOCK.since(opened)
            self._move(seen, left, followed=True)
        self._tell()

    def _renew(self) -> None:
        # The threads that held probes, told listeners or were half-way through a transition are not in the child.
        self._lock = threading.Lock()
        self._telling = False
        self._probes.clear()
        self._grant()
        if self._machine is not None:
            self._machine.renew()
