"""Where our breaker meets pybreaker. Imported at the first transition, because pybreaker costs 22 ms (133 with redis).

pybreaker keeps the states, tells the listeners and writes the storage; it never runs the function, since its `call`
holds a lock for as long as the function runs. Nothing here raises what a user's storage or listener raises.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import pybreaker

from resilience.core import events
from resilience.core.clock import CLOCK, Instant
from resilience.core.errors import CircuitOpen, ResilienceError, also

if TYPE_CHECKING:
    from resilience.state._circuit import BreakerSettings

__all__ = ["Machine", "OpenError", "Storage"]

_log = logging.getLogger("resilience")
_T = TypeVar("_T")

#: What an open breaker raises: `except pybreaker.CircuitBreakerError` written before us goes on working.
OpenError: type[CircuitOpen] = also(CircuitOpen, pybreaker.CircuitBreakerError)

#: Seconds for which a storage that failed is left in peace.
PAUSE = 5.0

_STATES = (pybreaker.STATE_CLOSED, pybreaker.STATE_OPEN, pybreaker.STATE_HALF_OPEN)


class Storage(pybreaker.CircuitBreakerStorage):
    """The user's storage, with memory to fall back on while it fails; or memory alone.

    What changes: the memory, and since when the user's storage is down; writes that must not be lost are made under
    `_lock`, which is re-entrant and never held while anything but the user's storage runs.
    """

    def __init__(self, inner: pybreaker.CircuitBreakerStorage | None = None) -> None:
        super().__init__("memory" if inner is None else str(getattr(inner, "name", type(inner).__name__)))
        self._memory = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
        self._inner = inner
        self._down: Instant | None = None
        # The state was changed while the user's storage was down, which does not know of it yet.
        self._unsaved = False
        self._lock = threading.RLock()

    def _use(self, call: Callable[[pybreaker.CircuitBreakerStorage], _T], instead: Callable[[], _T]) -> _T:
        """What `call` of the user's storage gives; where there is none, or it fails: what memory has."""
        if self._inner is None or (self._down is not None and CLOCK.since(self._down) < PAUSE):
            return instead()
        try:
            if self._unsaved:
                self._save(self._inner)
            given = call(self._inner)
        except Exception as error:
            self._failed(error)
            return instead()
        self._down = None
        return given

    def _save(self, inner: pybreaker.CircuitBreakerStorage) -> None:
        if self._memory.opened_at is not None:
            inner.opened_at = self._memory.opened_at
        inner.state = self._memory.state
        self._unsaved = False

    def _failed(self, error: Exception) -> None:
        with self._lock:
            first = self._down is None
            self._down = CLOCK.now()
        if first:
            # By its type only: the message of a connection error may hold the address with its password.
            kind = type(error).__name__
            _log.warning("the circuit storage %s failed (%s); memory serves in its place", self.name, kind)
            if events.LISTENERS:
                events.emit(events.StoreDegraded(self.name, kind))

    @property
    def degraded(self) -> bool:
        """Whether memory serves in the place of the user's storage."""
        return self._down is not None

    def remember(self, state: str) -> None:
        """Keep in memory what someone else has written to the user's storage."""
        self._memory.state = state

    @property
    def state(self) -> str:
        state = self._use(_read_state, lambda: self._memory.state)
        self._memory.state = state
        return state

    @state.setter
    def state(self, state: str) -> None:
        self._memory.state = state

        def write(inner: pybreaker.CircuitBreakerStorage) -> None:
            inner.state = state

        self._use(write, self._later)

    @property
    def opened_at(self) -> datetime | None:
        return self._use(lambda inner: inner.opened_at, lambda: self._memory.opened_at)

    @opened_at.setter
    def opened_at(self, when: datetime) -> None:
        self._memory.opened_at = when

        def write(inner: pybreaker.CircuitBreakerStorage) -> None:
            inner.opened_at = when

        self._use(write, self._later)

    def _later(self) -> None:
        self._unsaved = self._inner is not None

    @property
    def counter(self) -> int:
        return self._use(lambda inner: int(inner.counter), lambda: self._memory.counter)

    @property
    def success_counter(self) -> int:
        return self._use(lambda inner: int(inner.success_counter), lambda: self._memory.success_counter)

    def increment_counter(self) -> None:
        # A storage in memory adds without a lock of its own, since pybreaker calls it under one.
        with self._lock:
            self._memory.increment_counter()
            self._use(lambda inner: inner.increment_counter(), _nothing)

    def increment_success_counter(self) -> None:
        with self._lock:
            self._memory.increment_success_counter()
            self._use(lambda inner: inner.increment_success_counter(), _nothing)

    def reset_counter(self) -> None:
        self._memory.reset_counter()
        self._use(lambda inner: inner.reset_counter(), _nothing)

    def reset_success_counter(self) -> None:
        self._memory.reset_success_counter()
        self._use(lambda inner: inner.reset_success_counter(), _nothing)

    def renew(self) -> None:
        """A new lock, in a forked child."""
        self._lock = threading.RLock()


class Machine:
    """One `pybreaker.CircuitBreaker`, ours or the user's, and what is kept in its storage.

    What changes: `_opened_at`, by the one thread that tells pybreaker of transitions at a time; no lock guards it.
    """

    def __init__(self, dependency: str, settings: BreakerSettings) -> None:
        given: pybreaker.CircuitBreaker | None = settings.cb
        self._given = given
        if given is None:
            self.storage = Storage(settings.storage)
            self.cb = pybreaker.CircuitBreaker(
                fail_max=settings.fail_max,
                reset_timeout=settings.reset_timeout,
                success_threshold=settings.success_threshold,
                listeners=[_Quiet(listener) for listener in settings.listeners],
                state_storage=self.storage,
                name=dependency,
                throw_new_error_on_trip=False,
            )
        else:
            # There is no public way to the storage of a breaker.
            self.storage = Storage(given._state_storage)
            self.cb = given
            self.cb.add_listeners(*(_Quiet(listener) for listener in settings.listeners))
        self._opened_at: datetime | None = None

    def apply(self, state: str) -> None:
        """Make the transition: pybreaker writes the storage and tells the listeners."""
        step = {"closed": self.cb.close, "half-open": self.cb.half_open}.get(state, self.cb.open)
        try:
            step()
        except Exception:
            # Only with a breaker of the user's: its own storage or listener failed before the state was written.
            _log.exception("pybreaker could not go to %s", state)
            if step == self.cb.open:
                self.storage.opened_at = datetime.fromtimestamp(CLOCK.wall(), UTC)
            self.storage.state = shown(state)
        self.storage.remember(shown(state))
        if step == self.cb.open:
            # To be told from an opening by another process.
            self._opened_at = self.storage.opened_at

    def follow(self) -> None:
        """Let pybreaker notice, and tell its listeners, that the storage was changed by someone else."""
        try:
            _ = self.cb.state
        except Exception:
            _log.exception("pybreaker could not follow its storage")
        self._opened_at = self.storage.opened_at

    def opened(self) -> Instant | None:
        """When the storage says that the circuit was opened, by both clocks; None: it does not say."""
        when = self.storage.opened_at
        if when is None:
            return None
        # pybreaker writes UTC; a storage that drops the zone still means it.
        wall = (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).timestamp()
        now = CLOCK.now()
        age = max(now.wall - wall, 0.0)
        return Instant(now.monotonic - age, now.wall - age)

    def reopened(self) -> bool:
        """Whether another process has opened the circuit again since we last looked."""
        return self.storage.opened_at != self._opened_at

    def failed(self) -> int | None:
        """Count a failure; how many there are in a row, by all who share the storage; None: it does not answer."""
        self.storage.increment_counter()
        count = self.storage.counter
        return None if self.storage.degraded else count

    def succeeded(self, probe: bool) -> int | None:
        """Count a success; how many probes succeeded, by all who share the storage; None: it does not answer."""
        self.storage.reset_counter()
        if not probe:
            return None
        self.storage.increment_success_counter()
        count = self.storage.success_counter
        return None if self.storage.degraded else count

    def excluded(self, error: BaseException | None) -> bool:
        """Whether the user's own breaker was told that this error is none."""
        if self._given is None or error is None:
            return False
        try:
            return not self._given.is_system_error(error)
        except Exception:
            _log.exception("an `exclude` of pybreaker failed")
            return False

    def before_call(self, fn: Callable[..., Any] | None) -> None:
        """Tell the listeners that a call begins."""
        self._tell("before_call", guarded_call if fn is None else fn)

    def success(self) -> None:
        """Tell the listeners that a call went well."""
        self._tell("success")

    def failure(self, error: BaseException | None) -> None:
        """Tell the listeners that a call failed."""
        self._tell("failure", ResilienceError("the dependency answered with an error") if error is None else error)

    def _tell(self, what: str, *about: Any) -> None:
        for listener in self.cb.listeners:
            try:
                getattr(listener, what)(self.cb, *about)
            except Exception:
                _log.exception("a pybreaker listener failed on %s", what)

    def renew(self) -> None:
        """New locks, in a forked child."""
        self.storage.renew()
        self.cb._lock = threading.RLock()


def shown(state: str) -> str:
    """The state by a name that pybreaker knows: it has no isolation."""
    return pybreaker.STATE_OPEN if state == "isolated" else state


def guarded_call() -> None:
    """Stands for the call in `before_call` where no function is known, as with a request."""


def _nothing() -> None:
    pass


def _read_state(inner: pybreaker.CircuitBreakerStorage) -> str:
    state = inner.state
    if state not in _STATES:
        raise ValueError(f"unknown state {state!r}")
    return state


class _Quiet(pybreaker.CircuitBreakerListener):
    """A listener whose errors stop neither the transition nor the listeners after it."""

    def __init__(self, listener: pybreaker.CircuitBreakerListener) -> None:
        self._listener = listener

    def before_call(self, cb: pybreaker.CircuitBreaker, func: Any, *args: Any, **kwargs: Any) -> None:
        self._listener.before_call(cb, func, *args, **kwargs)

    def success(self, cb: pybreaker.CircuitBreaker) -> None:
        self._listener.success(cb)

    def failure(self, cb: pybreaker.CircuitBreaker, exc: BaseException) -> None:
        self._listener.failure(cb, exc)

    def state_change(self, cb: pybreaker.CircuitBreaker, old_state: Any, new_state: Any) -> None:
        try:
            self._listener.state_change(cb, old_state, new_state)
        except Exception:
            _log.exception("a pybreaker listener failed on state_change")
