"""What an attempt ended in, and what that means for retry, breaker and credentials. The one place that decides."""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple


class Meaning(Enum):
    """The rows of the outcome table."""

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    QUOTA_EXHAUSTED = "quota_exhausted"
    UNAUTHORIZED = "unauthorized"
    UNREACHABLE = "unreachable"
    DROPPED = "dropped"
    SERVER_ERROR = "server_error"
    CLIENT_ERROR = "client_error"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"


class Retry(Enum):
    """Whether another attempt is allowed, as far as the outcome alone can tell."""

    NEVER = "never"
    ALWAYS = "always"
    IF_IDEMPOTENT = "if idempotent"


class Outcome(NamedTuple):
    """The meaning of one attempt's end."""

    meaning: Meaning
    #: The HTTP status, where there was one.
    status: int | None = None
    #: Seconds that the dependency asked us to wait, where it did.
    retry_after: float | None = None
    retry: Retry = Retry.NEVER
    #: It belongs to a request that was guarded by itself, and is neither retried nor counted again.
    guarded: bool = False


OK = Outcome(Meaning.OK)


def of_result(result: Any) -> Outcome:
    raise NotImplementedError


def of_error(error: BaseException, *, sent: bool | None = None) -> Outcome:
    raise NotImplementedError
