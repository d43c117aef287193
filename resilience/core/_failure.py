"""What a failure means: the half of `outcome` that no success needs, loaded at the first failure."""

from __future__ import annotations

import re
from typing import Any

from resilience.core import hints
from resilience.core._provider import QUOTA, codes_of_body, codes_of_error, throttled
from resilience.core._transport import class_names, maybe_sent, unwrapped
from resilience.core.clock import CLOCK
from resilience.core.errors import ResilienceError
from resilience.core.outcome import CANCELLED, MARK, UNKNOWN, Meaning, Outcome, Retry, http_status, of_ours, status_of

__all__ = ["of_answer", "of_exception"]

_UNREACHABLE = Outcome(Meaning.UNREACHABLE, retry=Retry.ALWAYS)
_DROPPED = Outcome(Meaning.DROPPED, retry=Retry.IF_IDEMPOTENT)


def of_answer(status: int, result: Any) -> Outcome:
    """The meaning of a returned value whose status (400 to 599) is that of a failure."""
    return _guard(_of_answer(status, result), _marked(result))


def of_exception(error: Exception, sent: bool | None) -> Outcome:
    """The meaning of an exception that is not of our own; sent: see `outcome.of_error`."""
    if "CancelledError" in class_names(error):
        # That of concurrent.futures is an Exception.
        return CANCELLED
    chain = list(unwrapped(error))
    ours = next((e for e in chain if isinstance(e, ResilienceError)), None)
    if ours is not None:
        return of_ours(ours)
    return _guard(_of_foreign(error, chain, sent), any(map(_marked, chain)))


def _guard(outcome: Outcome, marked: bool) -> Outcome:
    return outcome._replace(guarded=True) if marked else outcome


def _marked(obj: Any) -> bool:
    # `is True`: a mock has every attribute.
    return _get(obj, MARK) is True or _get(_get(obj, "response"), MARK) is True


def _get(obj: Any, name: str) -> Any:
    """An attribute, or None; also where reading it raises, as some properties do."""
    try:
        return getattr(obj, name, None)
    except Exception:
        return None


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
    return UNKNOWN


# -- HTTP answers ------------------------------------------------------------------------------------------------------

#: 529 is Anthropic's `overloaded_error`.
_ALWAYS = frozenset({502, 503, 504, 529})
#: 520-528 are Cloudflare's; a 408 (RFC 9110 §15.5.9) and a 425 (RFC 8470 §5.2) may be repeated too.
_IF_IDEMPOTENT = frozenset({408, 425, 500, *range(520, 529)})


def _of_answer(status: int, source: Any, codes: frozenset[str] = frozenset()) -> Outcome:
    """The meaning of `status` (400-599).

    source: what has the headers and perhaps a body; codes: the provider's words, where they are known already.
    """
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


def _answer_of(error: Exception, chain: list[BaseException]) -> tuple[int | None, Any]:
    """(status of 400 or more, or None; what holds its headers and body) of the answer that an exception stands for."""
    response = _get(error, "response")
    if isinstance(response, dict):
        # botocore.exceptions.ClientError
        metadata = response.get("ResponseMetadata") or {}
        status = http_status(metadata.get("HTTPStatusCode"))
        if status is not None and status >= 400:
            return status, {"headers": metadata.get("HTTPHeaders")}
        return None, None
    for source in (response, error):
        status = None if source is None else status_of(source)
        if status is not None and status >= 400:
            return status, source
    code = _get(error, "code") if _get(error, "status") is None else None
    # werkzeug, google.api_core: `code` is a status only where the error is like an HTTP answer in other ways too.
    if isinstance(code, int) and any(hasattr(error, n) for n in ("headers", "get_headers", "response")):
        status = http_status(code)
        if status is not None and status >= 400:
            return status, error if response is None else response
    for inner in chain:
        # urllib3's own Retry gave up: its ResponseError has the status in its text alone.
        if "ResponseError" in class_names(inner) and (told := re.fullmatch(_GAVE_UP, str(inner))):
            return http_status(told[1]), None
    return None, None


_GAVE_UP = r"too many ([45][0-9]{2}) error responses"


def _headers_of(source: Any) -> dict[str, str]:
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
