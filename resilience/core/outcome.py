"""What an attempt ended in, and what that means for retry, breaker and credentials. The one place that decides.

Nothing is imported to recognise what other libraries return and raise: a response is known by its attributes, an
exception by the names of its classes (`_transport`). What only failures need (`_failure`) is loaded at the first one.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

from resilience.core.errors import CircuitOpen, RateLimited, ResilienceError

__all__ = [
    "IDEMPOTENT_METHODS",
    "OK",
    "Meaning",
    "Outcome",
    "Retry",
    "label",
    "mark_guarded",
    "of_error",
    "of_result",
]


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

    @property
    def failure(self) -> bool:
        """Whether it speaks against the dependency's health (what a breaker counts), `guarded` left aside."""
        meaning = self.meaning
        return meaning is Meaning.UNREACHABLE or meaning is Meaning.DROPPED or meaning is Meaning.SERVER_ERROR


#: The one outcome of everything that is well; it is never copied, so `outcome is OK` is the cheapest question.
OK = Outcome(Meaning.OK)

#: RFC 9110 §9.2.2: sent twice, they do what they do once.
IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})

CANCELLED = Outcome(Meaning.CANCELLED)
UNKNOWN = Outcome(Meaning.UNKNOWN)
#: Where `mark_guarded` puts its mark.
MARK = "_resilience_guarded"
# The commonest results, none of which can be a response.
_PLAIN = frozenset({type(None), str, bytes, bytearray, int, float, complex, bool, list, tuple, set, frozenset})


def of_result(result: Any) -> Outcome:
    """What a returned value means: a response or a Lambda proxy result of status 400 or more is not `ok`. Never raises.

    A body is never read for it.
    """
    kind = type(result)
    if kind is dict:
        if "statusCode" not in result:
            return OK
    elif kind in _PLAIN:
        return OK
    try:
        status = http_status(result.get("statusCode")) if isinstance(result, dict) else status_of(result)
        if status is None or status < 400:
            return OK
        from resilience.core import _failure

        return _failure.of_answer(status, result)
    except Exception:
        return OK


def of_error(error: BaseException, *, sent: bool | None = None) -> Outcome:
    """What an exception means. Never raises.

    sent: whether the request had begun to be sent, by one who knows (False makes every transport failure `unreachable`,
        True makes it `dropped`); None infers it from the type, and where the type leaves it open takes it as sent.
    """
    try:
        if isinstance(error, ResilienceError):
            return of_ours(error)
        if not isinstance(error, Exception):
            # KeyboardInterrupt, SystemExit, GeneratorExit, asyncio's and trio's cancellation.
            return CANCELLED
        from resilience.core import _failure

        return _failure.of_exception(error, sent)
    except Exception:
        return UNKNOWN


def mark_guarded(obj: Any) -> None:
    """Note on a response or an exception that its request was guarded by itself; where that fails, it goes unnoted."""
    try:
        setattr(obj, MARK, True)
    except Exception:
        return


def label(error: BaseException | None) -> str | None:
    """The exception's class, for events; without its message, which may hold a secret."""
    if error is None:
        return None
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def of_ours(error: ResilienceError) -> Outcome:
    """What an error of our own means: what it tells of was decided before."""
    if isinstance(error, RateLimited):
        return Outcome(Meaning.RATE_LIMITED, None, error.retry_after, Retry.NEVER, True)
    wait = error.retry_after if isinstance(error, CircuitOpen) else None
    return Outcome(Meaning.UNKNOWN, None, wait, Retry.NEVER, True)


def http_status(value: Any) -> int | None:
    """`value` as a status of 100 to 599, or None; a proxy result may have it as text."""
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, (int, str, float)):
            return None
        try:
            value = int(value)
        except (ValueError, OverflowError):
            return None
    return int(value) if 100 <= value <= 599 else None


def status_of(obj: Any) -> int | None:
    """The HTTP status of a response of whichever library, or None."""
    value = getattr(obj, "status_code", None)
    if value is None:
        # aiohttp, urllib3 and http.client say `status`, and so do many things that are no response.
        value = getattr(obj, "status", None)
        if value is None or not hasattr(obj, "headers"):
            return None
    return http_status(value) if isinstance(value, int) else None
