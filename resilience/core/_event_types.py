"""The events themselves: see `events` for who tells whom.

A module of its own, because `dataclasses` and what it makes of these classes would cost every cold start 10 ms, and
nobody needs them until somebody listens.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """The base of all events."""


@dataclass(frozen=True, slots=True)
class ColdStart(Event):
    """The first call of this process began; platform: where."""

    platform: str
    request_id: str | None


@dataclass(frozen=True, slots=True)
class WarmedUp(Event):
    """Warming up ended: by whom it was asked for (init, ping, quiet, heartbeat, restore), ms it took, connections
    opened, what failed."""

    reason: str
    ms: float
    connections: int
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConnectionOpened(Event):
    """A new connection; prewarmed: the handshake was done before it was needed."""

    dependency: str
    ms: float
    prewarmed: bool = False


@dataclass(frozen=True, slots=True)
class ConnectionRetired(Event):
    """A pooled connection was closed instead of used; why: idle, dropped, fork, snapshot, outage."""

    dependency: str
    why: str
    idle: float


@dataclass(frozen=True, slots=True)
class CredentialRefreshed(Event):
    """A provider was asked; why: first, expiry, ahead, unauthorized. ok: whether it answered."""

    source: str
    why: str
    ok: bool


@dataclass(frozen=True, slots=True)
class AttemptFailed(Event):
    """One attempt did not end in `ok`; meaning: a word of the outcome table."""

    dependency: str
    attempt: int
    meaning: str
    status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class RetryScheduled(Event):
    """Another attempt follows after `wait` seconds; hint: seconds that the dependency asked for."""

    dependency: str
    attempt: int
    wait: float
    hint: float | None
    meaning: str


@dataclass(frozen=True, slots=True)
class RetryGivenUp(Event):
    """No further attempt; why: attempts, deadline, budget, hint, idempotency, body, circuit."""

    dependency: str
    attempts: int
    waited: float
    why: str
    meaning: str


@dataclass(frozen=True, slots=True)
class RateLimited(Event):
    """The dependency asked for a pause of `retry_after` seconds (None: it did not say how long)."""

    dependency: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class CircuitChanged(Event):
    """A breaker went from one state to another: closed, open, half-open, isolated."""

    dependency: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class CircuitRejected(Event):
    """A call was turned away by an open breaker."""

    dependency: str
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class StoreDegraded(Event):
    """The store failed, and memory serves in its place."""

    store: str
    error: str


@dataclass(frozen=True, slots=True)
class CallFinished(Event):
    """A call of a decorated function ended; ms: all of it; requests: those made through the pool."""

    name: str
    platform: str
    request_id: str | None
    cold: bool
    meaning: str
    ms: float
    attempts: int
    requests: int
