"""Where a credential comes from, kept while it is good, and asked for once by all who wait.

A refresh belongs to no call: it runs on a thread of its own, so that no caller's deadline ends it and each caller waits
only as long as it can. A failed refresh is not remembered: a credential may be there a moment later, and whoever asks
too often is held back by the retry budget and the breaker. Only those who waited share the error.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from resilience.core import events
from resilience.core.call import CURRENT, Call
from resilience.core.clock import CLOCK, Instant
from resilience.core.errors import ConfigurationError, CredentialUnavailable
from resilience.http.credential import Credential, EnvProvider, Provider, problem_with
from resilience.http.flight import PATIENCE, Flight, run_awaitable

if TYPE_CHECKING:
    from cachetools import TLRUCache

__all__ = ["CredentialSource", "resolving"]

#: Seconds for which a provider's plain string is good.
TTL = 300.0
#: A credential is given up this many seconds before its end (a request takes time), or a tenth of its life if that is
#: less.
_MARGIN, _MARGIN_SHARE = 10.0, 0.1
#: It is refreshed ahead from somewhere in this part of its life on: not by all instances of a fleet at once.
_AHEAD_FROM, _AHEAD_TO = 0.8, 0.9
#: After a refresh ahead has failed, the next follows after this share of its life, and not sooner than a second.
_AHEAD_PAUSE = 0.05

_KEY = "credential"

#: The source that the code running here resolves.
_resolving: contextvars.ContextVar[CredentialSource | None] = contextvars.ContextVar(
    "resilience.resolving", default=None
)

#: Guards what changes in all sources. It is held for the time of a dictionary access, never while a provider runs, and
#: over a fork, so that the child finds all of it whole and the lock free.
_lock = threading.Lock()


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _lock.acquire(), after_in_parent=lambda: _lock.release(), after_in_child=_after_fork
    )


def resolving() -> CredentialSource | None:
    """The source whose provider is running here, or None: a request that it makes needs no credential from us."""
    return _resolving.get()


class _Held:
    """A credential in the cache; `life`: seconds from when it was asked for until it is given up. Immutable."""

    __slots__ = ("credential", "life")

    def __init__(self, credential: Credential, life: float) -> None:
        self.credential = credential
        self.life = life


class _Ready:
    """A credential that needs no thought until it is `until` seconds old. Immutable."""

    __slots__ = ("asked_at", "credential", "until")

    def __init__(self, credential: Credential, asked_at: Instant, until: float) -> None:
        self.credential = credential
        self.asked_at = asked_at
        self.until = until


class CredentialSource:
    """Resolves a credential: from an environment variable each time, or from a provider and kept while it is good.

    env: the variable's name. One of env and provider.
    provider: a callable, sync or async, returning a `str` or a `Credential`; an async one runs on an event loop of our
        own in a thread, the same each time.
    ttl: seconds, above 0, for which a plain string is good; a shipped provider's own `ttl` goes before it.
    Raises `ConfigurationError` for other settings.

    What changes, guarded by `_lock`: `_cache` and `_asked_at`, the credential held and when it was asked for (by both
    clocks: it is old if either says so); `_ahead`, the age at which it is refreshed ahead; `_flight`, the refresh under
    way; `_failed`, the last one if it was to replace a refused credential and failed; `_why`, why the cache is empty;
    and `_ready`, what is in the cache while it is young, replaced whole, so that the hot path takes no lock.
    """

    def __init__(
        self, *, env: str | None = None, provider: Callable[[], Any] | None = None, ttl: float | None = None
    ) -> None:
        if (env is None) == (provider is None):
            raise ConfigurationError("one of env= and provider= must be given, and not both")
        if provider is not None and not callable(provider):
            raise ConfigurationError(f"provider={provider!r}: must be a callable that returns a str or a Credential")
        ttl = TTL if ttl is None else ttl
        if isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not 0 < ttl < float("inf"):
            raise ConfigurationError(f"ttl={ttl!r}: must be a number of seconds above 0")
        self._provider: Callable[[], Any] = provider if provider is not None else EnvProvider(env or "")
        own = self._provider if isinstance(self._provider, Provider) else None
        self._ttl = ttl if own is None or own.ttl is None else own.ttl
        self._direct = own is not None and own.direct
        #: How events and errors call it.
        self.name = own.name if own is not None else _name_of(self._provider)
        self._cache: TLRUCache[str, _Held] | None = None
        self._asked_at = Instant(0.0, 0.0)
        self._ahead = 0.0
        self._flight: Flight | None = None
        self._failed: Flight | None = None
        self._why = "first"
        self._ready: _Ready | None = None

    @property
    def can_refresh(self) -> bool:
        """Whether asking again may help although the value is the same."""
        return not self._direct

    def get(self, deadline: float | None = None) -> Credential:
        """The credential of now; waits for a refresh until `deadline` (monotonic seconds), and 30 s at most.

        Raises `CredentialUnavailable`, from the provider's error; `DeadlineExceeded`.
        """
        ready = self._ready
        if ready is not None and CLOCK.since(ready.asked_at) < ready.until:
            return ready.credential
        if self._direct:
            return self._read()
        found = self._decide()
        return found if isinstance(found, Credential) else found.wait(deadline)

    async def get_async(self, deadline: float | None = None) -> Credential:
        """As `get`, without blocking the event loop."""
        if self._direct:
            return self._read()
        found = self._decide()
        return found if isinstance(found, Credential) else await found.wait_async(deadline)

    def renew(self, stale: Credential, deadline: float | None = None) -> Credential | None:
        """What to send once more after `stale` was refused (401); None if there is nothing else to send.

        All who hold the same stale credential cause one refresh, and share its result or its error.
        """
        if self._direct:
            return self._reread(stale)
        found = self._decide(stale)
        return found if isinstance(found, Credential) else found.wait(deadline)

    async def renew_async(self, stale: Credential, deadline: float | None = None) -> Credential | None:
        """As `renew`, without blocking the event loop."""
        if self._direct:
            return self._reread(stale)
        found = self._decide(stale)
        return found if isinstance(found, Credential) else await found.wait_async(deadline)

    def invalidate(self, credential: Credential) -> None:
        """Drop `credential` if it is still the one held: whoever holds an older one must not cause another refresh."""
        with _lock:
            held = self._held()
            if held is not None and held.credential is credential:
                self._forget("unauthorized")

    def drop(self) -> None:
        """Forget everything, a refresh under way included (before a snapshot)."""
        with _lock:
            self._forget("first")
            self._flight = None
        if isinstance(self._provider, Provider):
            self._provider.drop()

    def _read(self) -> Credential:
        try:
            return self._accept(self._provider())
        except CredentialUnavailable:
            raise
        except Exception as error:
            raise CredentialUnavailable(f"{self.name}: {type(error).__name__}") from error

    def _reread(self, stale: Credential) -> Credential | None:
        if isinstance(self._provider, Provider):
            self._provider.drop()
        fresh = self._read()
        return None if fresh == stale else fresh

    def _decide(self, stale: Credential | None = None) -> Credential | Flight:
        """The credential held, unless it is `stale`, or the refresh to wait for; begins one where that is due."""
        if _resolving.get() is self:
            raise CredentialUnavailable(f"{self.name}: the provider asks for the credential that it should provide")
        begun: Flight | None = None
        with _lock:
            held = self._held()
            if held is not None and held.credential is stale:
                self._forget("unauthorized")
                held = None
            flight = self._flight if self._flight is not None and self._flight.is_alive() else None
            if held is not None:
                if flight is None and CLOCK.since(self._asked_at) >= self._ahead:
                    begun = self._begin("ahead")
            elif flight is not None:
                flight.joined += 1
                flight.renewing |= stale is not None
            elif stale is not None and self._failed is not None:
                flight = self._failed
            else:
                flight = begun = self._begin(self._why)
                flight.renewing = stale is not None
        if begun is not None:
            self._launch(begun)
        if held is not None:
            return held.credential
        assert flight is not None
        return flight

    def _held(self) -> _Held | None:
        """What is in the cache and not old; under `_lock`."""
        if self._cache is None:
            return None
        held = self._cache.get(_KEY)
        if held is None and self._why == "held":
            # Dropped for good: a wall clock that is set back would make it young again.
            self._forget("expiry")
        return held

    def _begin(self, why: str) -> Flight:
        """A refresh that others may join from now on; under `_lock`."""
        self._failed = None
        self._flight = flight = Flight(self.name, why)
        return flight

    def _forget(self, why: str) -> None:
        """Empty the cache; under `_lock`."""
        if self._cache is not None:
            self._cache.clear()
        self._ready = None
        self._failed = None
        self._why = why

    def _launch(self, flight: Flight) -> None:
        fly = contextvars.Context().run
        try:
            threading.Thread(target=fly, args=(self._fly, flight), name="resilience-credential", daemon=True).start()
        except RuntimeError:
            # No threads here (Pyodide, or an interpreter about to end).
            with _lock:
                put_off = flight.why == "ahead" and not flight.joined
                if put_off:
                    self._ahead, self._flight = float("inf"), None
            if not put_off:
                fly(self._fly, flight)
                if isinstance(flight.error, (KeyboardInterrupt, SystemExit)):
                    raise flight.error from None

    def _fly(self, flight: Flight) -> None:
        """Ask the provider, keep the answer, and tell those who wait."""
        _resolving.set(self)
        CURRENT.set(_nobodys_call())
        asked_at = CLOCK.now()
        try:
            flight.credential = self._ask()
        except BaseException as error:
            flight.error = error
        with _lock:
            # One that was given up as stuck, or that began before a snapshot, leaves nothing behind.
            if self._flight is flight:
                self._flight = None
                self._land(flight, asked_at)
        try:
            if events.LISTENERS:
                events.emit(events.CredentialRefreshed(self.name, flight.why, flight.error is None))
        finally:
            flight.land()

    def _land(self, flight: Flight, asked_at: Instant) -> None:
        """Keep what came of a refresh; under `_lock`."""
        if flight.credential is not None:
            self._store(flight.credential, asked_at)
        elif flight.renewing:
            self._failed = flight
        held = self._held()
        if flight.credential is None and held is not None:
            self._ahead = CLOCK.since(self._asked_at) + max(held.life * _AHEAD_PAUSE, 1.0)

    def _store(self, credential: Credential, asked_at: Instant) -> None:
        # At first use.
        from random import uniform

        life = self._ttl
        if credential.expires_at is not None:
            life = credential.expires_at - asked_at.wall
            life -= min(_MARGIN, life * _MARGIN_SHARE)
        if self._cache is None:
            from cachetools import TLRUCache

            # Its time is the age of the one thing in it, by both clocks.
            self._cache = TLRUCache(1, ttu=lambda _, held, __: held.life, timer=lambda: CLOCK.since(self._asked_at))
        self._cache.clear()
        self._failed = None
        self._asked_at = asked_at
        self._ahead = life * uniform(_AHEAD_FROM, _AHEAD_TO)  # noqa: S311 - spread, not secrecy
        self._why = "held"
        self._cache[_KEY] = _Held(credential, life)
        self._ready = _Ready(credential, asked_at, self._ahead)

    def _ask(self) -> Credential:
        if isinstance(self._provider, Provider):
            return self._accept(self._provider())
        return self._accept(_finished(self._provider()))

    def _accept(self, answer: Any) -> Credential:
        """A provider's answer as a credential of our own: no other refresh has the same object."""
        if isinstance(answer, Credential):
            return answer if self._direct else Credential(answer.value, answer.expires_at)
        problem = problem_with(answer)
        if problem is not None:
            del answer
            raise CredentialUnavailable(f"{self.name}: the provider's answer {problem}")
        return Credential(answer)

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"CredentialSource({self.name})"


def _finished(answer: Any) -> Any:
    return run_awaitable(answer, PATIENCE) if isinstance(answer, Awaitable) else answer


def _nobodys_call() -> Call:
    """A call that is over.

    What a provider sends belongs neither to the call that needed the credential nor to the one a platform runs alone.
    """
    call = Call()
    call.ended = True
    return call


def _name_of(provider: Any) -> str:
    # functools.partial has the name inside.
    inner = getattr(provider, "func", provider)
    return str(getattr(inner, "__qualname__", type(inner).__name__))
