"""What an attempt ended in, and what that means for retry, breaker and credentials. The one place that decides.

Nothing is imported to recognise what other libraries return and raise: a response is known by its attributes, an
exception by the names of its classes (`_transport`).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, NamedTuple

from resilience.core._provider import QUOTA, codes_of_body, codes_of_error, throttled
from resilience.core._transport import class_names, maybe_sent, unwrapped
from resilience.core.clock import CLOCK
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

_CANCELLED = Outcome(Meaning.CANCELLED)
_UNKNOWN = Outcome(Meaning.UNKNOWN)
_UNREACHABLE = Outcome(Meaning.UNREACHABLE, retry=Retry.ALWAYS)
_DROPPED = Outcome(Meaning.DROPPED, retry=Retry.IF_IDEMPOTENT)
_MARK = "_resilience_guarded"
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
        status = _http_status(result.get("statusCode")) if isinstance(result, dict) else _status_of(result)
        if status is None or status < 400:
            return OK
        return _guard(_of_answer(status, result), _marked(result))
    except Exception:
        return OK


def of_error(error: BaseException, *, sent: bool | None = None) -> Outcome:
    """What an exception means. Never raises.

    sent: whether the request had begun to be sent, by one who knows (False makes every transport failure `unreachable`,
        True makes it `dropped`); None infers it from the type, and where the type leaves it open takes it as sent.
    """
    try:
        if not isinstance(error, Exception) or "CancelledError" in class_names(error):
            # KeyboardInterrupt, SystemExit, GeneratorExit, asyncio's and trio's cancellation.
            return _CANCELLED
        chain = list(unwrapped(error))
        ours = next((e for e in chain if isinstance(e, ResilienceError)), None)
        if ours is not None:
            return _of_ours(ours)
        return _guard(_of_foreign(error, chain, sent), any(map(_marked, chain)))
    except Exception:
        return _UNKNOWN


def mark_guarded(obj: Any) -> None:
    """Note on a response or an exception that its request was guarded by itself; where that fails, it goes unnoted."""
    try:
        setattr(obj, _MARK, True)
    except Exception:
        return


def label(error: BaseException | None) -> str | None:
    """The exception's class, for events; without its message, which may hold a secret."""
    if error is None:
        return None
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _guard(outcome: Outcome, marked: bool) -> Outcome:
    return outcome._replace(guarded=True) if marked else outcome


def _marked(obj: Any) -> bool:
    # `is True`: a mock has every attribute.
    return _get(obj, _MARK) is True or _get(_get(obj, "response"), _MARK) is True


def _get(obj: Any, name: str) -> Any:
    """An attribute, or None; also where reading it raises, as some properties do."""
    try:
        return getattr(obj, name, None)
    except Exception:
        return None


def _of_ours(error: ResilienceError) -> Outcome:
    if isinstance(error, RateLimited):
        return Outcome(Meaning.RATE_LIMITED, None, error.retry_after, Retry.NEVER, True)
    wait = error.retry_after if isinstance(error, CircuitOpen) else None
    return Outcome(Meaning.UNKNOWN, None, wait, Retry.NEVER, True)


def _of_foreign(error: Exception, chain: list[BaseException], sent: bool | None) -> Outcome:
    status, source = _answer_of(error, chain)
    codes = codes_of_error(error)
    if status is not None:
        return _of_answer(status, source, codes)
    inferred = maybe_sent(chain)
    if inferred is not None:
        return _DROPPED if (inferred if sent is None else sent) else _UNREACHABLE
    # An error event inside a stream that began with 200 has no status but the provider's word.
    if codes & QUOTA:
        return Outcome(Meaning.QUOTA_EXHAUSTED)
    if throttled(codes):
        return Outcome(Meaning.RATE_LIMITED, retry=Retry.ALWAYS)
    if "overloaded_error" in codes:
        return Outcome(Meaning.SERVER_ERROR, retry=Retry.ALWAYS)
    return _UNKNOWN


# -- HTTP answers ------------------------------------------------------------------------------------------------------

#: 529 is Anthropic's `overloaded_error`.
_ALWAYS = frozenset({502, 503, 504, 529})
#: 520-528 are Cloudflare's; a 408 (RFC 9110 §15.5.9) and a 425 (RFC 8470 §5.2) may be repeated too.
_IF_IDEMPOTENT = frozenset({408, 425, 500, *range(520, 529)})


def _of_answer(status: int, source: Any, codes: frozenset[str] = frozenset()) -> Outcome:
    """The meaning of `status` (400-599).

    source: what has the headers and perhaps a body; codes: the provider's words, where they are known already.
    """
    # Its patterns take 3 ms to compile: not before something has failed.
    from resilience.core import hints

    fields = _headers_of(source)
    now = CLOCK.wall()
    wait = hints.retry_after(fields, now, limits=False)
    if status == 429 and not codes & QUOTA:
        codes |= codes_of_body(_body_of(source))
    if status == 402 or (status == 429 and codes & QUOTA):
        meaning, retry = Meaning.QUOTA_EXHAUSTED, Retry.NEVER
    elif (
        status == 429
        or throttled(codes)
        or (status == 503 and wait is not None)
        # GitHub's rate limit is a 403.
        or (status == 403 and (wait is not None or fields.get("x-ratelimit-remaining") == "0"))
    ):
        meaning, retry = Meaning.RATE_LIMITED, Retry.ALWAYS
        wait = hints.retry_after(fields, now)
    else:
        meaning = Meaning.SERVER_ERROR if status >= 500 else Meaning.CLIENT_ERROR
        if status == 401:
            meaning = Meaning.UNAUTHORIZED
        retry = Retry.ALWAYS if status in _ALWAYS else Retry.IF_IDEMPOTENT if status in _IF_IDEMPOTENT else Retry.NEVER
    said = fields.get("x-should-retry", "").lower()
    if said in ("true", "false"):
        retry = Retry.ALWAYS if said == "true" else Retry.NEVER
    return Outcome(meaning, status, wait, retry)


def _http_status(value: Any) -> int | None:
    """`value` as a status of 100 to 599, or None; a proxy result may have it as text."""
    if type(value) is not int:
        if isinstance(value, bool) or not isinstance(value, (int, str, float)):
            return None
        try:
            value = int(value)
        except (ValueError, OverflowError):
            return None
    return int(value) if 100 <= value <= 599 else None


def _status_of(obj: Any) -> int | None:
    value = getattr(obj, "status_code", None)
    if value is None:
        # aiohttp, urllib3 and http.client say `status`, and so do many things that are no response.
        value = getattr(obj, "status", None)
        if value is None or not hasattr(obj, "headers"):
            return None
    return _http_status(value) if isinstance(value, int) else None


def _answer_of(error: Exception, chain: list[BaseException]) -> tuple[int | None, Any]:
    """(status of 400 or more, or None; what holds its headers and body) of the answer that an exception stands for."""
    response = _get(error, "response")
    if isinstance(response, dict):
        # botocore.exceptions.ClientError
        metadata = response.get("ResponseMetadata") or {}
        status = _http_status(metadata.get("HTTPStatusCode"))
        if status is not None and status >= 400:
            return status, {"headers": metadata.get("HTTPHeaders")}
        return None, None
    for source in (response, error):
        status = None if source is None else _status_of(source)
        if status is not None and status >= 400:
            return status, source
    code = _get(error, "code") if _get(error, "status") is None else None
    # werkzeug, google.api_core: `code` is a status only where the error is like an HTTP answer in other ways too.
    if isinstance(code, int) and any(hasattr(error, n) for n in ("headers", "get_headers", "response")):
        status = _http_status(code)
        if status is not None and status >= 400:
            return status, error if response is None else response
    for inner in chain:
        # urllib3's own Retry gave up: its ResponseError has the status in its text alone.
        if "ResponseError" in class_names(inner) and (told := re.fullmatch(_GAVE_UP, str(inner))):
            return _http_status(told[1]), None
    return None, None


_GAVE_UP = r"too many ([45][0-9]{2}) error responses"


def _headers_of(source: Any) -> dict[str, str]:
    from resilience.core import hints

    if isinstance(source, dict):
        # API Gateway and ALB: lists of values under a second name.
        many = hints.lowered(source.get("multiValueHeaders"))
        return {**many, **hints.lowered(source.get("headers"))}
    return hints.lowered(_get(source, "headers"))


def _body_of(source: Any) -> Any:
    """The body as far as it has been read already; never reads one."""
    if isinstance(source, dict):
        return source.get("body")
    own = _get(source, "__dict__") or {}
    # requests and httpx; urllib3 and aiohttp; Starlette
    return next((own[name] for name in ("_content", "_body", "body") if own.get(name)), None)
