"""What the server has seen."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from resilience.testing._wire import Headers, Request


@dataclass(slots=True)
class Record:
    """One request as the server saw it.

    t, wall: when it had been read, by `time.monotonic()` and `time.time()`.
    path: without the query. key: the bearer token, or None. connection: the connection's number, from 1.
    fault: the name of the fault it met; "limit" if the true rate limit turned it away, "replay" if it was answered
    from the store; else None.
    status: what was answered; None until then, and for good if the fault left no answer.
    """

    t: float
    wall: float
    method: str
    path: str
    query: dict[str, str]
    headers: Headers
    body: bytes
    connection: int
    key: str | None = field(default=None, repr=False)
    request_id: str | None = None
    idempotency_key: str | None = None
    fault: str | None = None
    status: int | None = None


class Ledger:
    """The half of FaultyAPI that a test reads: counts and records.

    What changes: everything below, guarded by `_ledger_lock`; a record's `fault` and `status`, set by its
    connection's thread before the answer is sent.
    """

    def __init__(self) -> None:
        self._ledger_lock = threading.Lock()
        self.reset_counts()

    def reset_counts(self) -> None:
        """Forget what was counted and recorded; keys, faults, limits and stored answers stay."""
        with self._ledger_lock:
            #: Connections accepted, and TLS handshakes completed.
            self.connections = self.handshakes = 0
            #: POSTs whose effect took place, and POSTs answered from the store instead.
            self.processed = self.replays = 0
            #: Faults that took effect, by name.
            self.injected: Counter[str] = Counter()
            self._requests: list[Record] = []

    @property
    def requests(self) -> list[Record]:
        """The requests read so far, in order; a copy of the list, not of the records."""
        with self._ledger_lock:
            return list(self._requests)

    def count(self, path: str | None = None, status: int | None = None, method: str | None = None) -> int:
        """How many requests were read, of those with this path (without query), answered status and method."""
        return sum(
            path in (None, record.path) and status in (None, record.status) and method in (None, record.method)
            for record in self.requests
        )

    @property
    def by_key(self) -> Counter[str | None]:
        """How many requests came with each key."""
        return Counter(record.key for record in self.requests)

    @property
    def by_id(self) -> Counter[str | None]:
        """How many requests came with each `X-Request-ID`."""
        return Counter(record.request_id for record in self.requests)

    def _add(self, name: str) -> None:
        with self._ledger_lock:
            setattr(self, name, getattr(self, name) + 1)

    def _inject(self, name: str) -> None:
        with self._ledger_lock:
            self.injected[name] += 1

    def _note(self, request: Request, connection: int) -> Record:
        headers = request.headers
        record = Record(
            t=time.monotonic(),
            wall=time.time(),
            method=request.method,
            path=request.path,
            query=request.query,
            headers=headers,
            body=request.body,
            connection=connection,
            key=request.key,
            request_id=headers.get("X-Request-ID"),
            idempotency_key=headers.get("Idempotency-Key"),
        )
        with self._ledger_lock:
            self._requests.append(record)
        return record
