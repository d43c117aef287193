"""What one invocation of `LambdaRuntime` came to."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["Answer"]


class Answer:
    """What one invocation came to.

    payload: the decoded JSON of the answer; bytes where the handler returned bytes.
    error: `errorType`, `errorMessage`, `stackTrace`, or None.
    cold: whether it was the first of its sandbox. timed_out: whether it was killed at its deadline.
    duration_ms: from the event's handing out to the answer.
    init_ms: for a cold start, from the process's start to its first request for an event, or, with SnapStart, from the
        restore to it; else 0. total_ms: all that the caller waited.
    billed_ms, billed_init_ms: rounded up to whole milliseconds, as AWS bills; init counted apart.
    log: what was printed from the time it was asked for until it was answered; for a cold start, the init phase's too.
    """

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.payload: Any = None
        self.error: dict[str, Any] | None = None
        self.cold = False
        self.timed_out = False
        self.duration_ms = 0.0
        self.init_ms = 0.0
        self.total_ms = 0.0
        self.log = ""

    @property
    def ok(self) -> bool:
        """Whether the handler returned."""
        return self.error is None

    @property
    def billed_ms(self) -> int:
        """Milliseconds of the invocation that are billed."""
        return math.ceil(self.duration_ms)

    @property
    def billed_init_ms(self) -> int:
        """Milliseconds of the init phase that are billed."""
        return math.ceil(self.init_ms)

    def __repr__(self) -> str:
        what = "ok" if self.ok else (self.error or {}).get("errorType")
        return f"<Answer {what} in {self.duration_ms:.1f} ms{f', init {self.init_ms:.0f} ms' if self.cold else ''}>"
