"""The words by which providers say in a body or on an SDK's exception what the status alone does not."""

from __future__ import annotations

from typing import Any

__all__ = ["QUOTA", "codes_of_body", "codes_of_error", "throttled"]

#: OpenAI's, and the spend limits of OpenAI and Anthropic, which come as a 429 as well.
QUOTA = frozenset({"insufficient_quota", "credit_balance_exhausted", "enforced_spend_limit_reached"})
#: What botocore's standard retry mode takes for throttling, and the words of OpenAI, Anthropic and Google.
_THROTTLED = frozenset(
    {
        "bandwidthlimitexceeded",
        "limitexceededexception",
        "priorrequestnotcomplete",
        "rate_limit_error",
        "rate_limit_exceeded",
        "requestlimitexceeded",
        "resource_exhausted",
        "slowdown",
    }
)
_THROTTLED_STARTS = (
    "throttl",
    "toomanyrequests",
    "too_many_requests",
    "requestthrottled",
    "ec2throttled",
    "provisionedthroughputexceeded",
)
_MAX_BODY = 64 * 1024


def throttled(codes: frozenset[str]) -> bool:
    """Whether one of `codes` asks for patience."""
    return not codes.isdisjoint(_THROTTLED) or any(code.startswith(_THROTTLED_STARTS) for code in codes)


def codes_of_error(error: Exception) -> frozenset[str]:
    """The codes, in lower case, that an SDK has put on its exception."""
    # Only plain attributes: aiohttp's `code` is a property that warns.
    own = vars(error)
    codes = _words(own.get("code"), own.get("type"))
    response = own.get("response")
    if isinstance(response, dict) and isinstance(response.get("Error"), dict):
        codes |= _words(response["Error"].get("Code"))
    return codes | codes_of_body(own.get("body"))


def codes_of_body(body: Any) -> frozenset[str]:
    """The codes, in lower case, in a body: parsed already or, where it is short and names a quota, text or bytes."""
    if isinstance(body, (bytes, str)):
        wanted = [w.encode() for w in QUOTA] if isinstance(body, bytes) else list(QUOTA)
        # The words are looked for before the parse, so that nothing is parsed for the common 429.
        if len(body) > _MAX_BODY or not any(w in body for w in wanted):  # type: ignore[operator]
            return frozenset()
        import json

        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return frozenset()
    if not isinstance(body, dict):
        return frozenset()
    inner = body.get("error")
    if not isinstance(inner, dict):
        return _words(body.get("code"), body.get("type"), inner)
    details = inner.get("details")
    detail = details.get("error_code") if isinstance(details, dict) else None
    return _words(body.get("code"), body.get("type"), inner.get("code"), inner.get("type"), inner.get("status"), detail)


def _words(*values: Any) -> frozenset[str]:
    return frozenset(v.lower() for v in values if isinstance(v, str))
