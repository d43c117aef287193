"""What can go wrong with one request, as values to put into `FaultyAPI.script` and `FaultyAPI.rate`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from resilience.core.settings import Settings

__all__ = ["HINTS", "MIXED", "Fault", "hint_headers"]

#: The longest time, in seconds, that a setting may name.
DAY = 86_400.0

_check = Settings("Fault")


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, for one request. Make it by one of the class methods; `name` is the method's name.

    Faults that replace the answer (`status`, `rate_limited`, `quota_exhausted`) leave the request unprocessed. Faults
    of delivery (`reset_after_reading`, `eof_after_reading`, `hang`, `stall_before_headers`, `drip`, `drip_headers`,
    `truncated_body`, `close_when_idle`) come after the request has been processed, as happens in life.
    """

    name: str
    code: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    hint: str = ""
    seconds: float = 0.0
    size: int = 1
    total: float | None = None

    @classmethod
    def status(cls, code: int, headers: Mapping[str, str] | None = None, body: Any = None) -> Fault:
        """Answer `code` (200 to 599) with `headers` and `body`: bytes, a string, or anything that JSON can hold."""
        _check.integer("code", code, least=200, most=599)
        if body is None:
            body = {"error": {"message": f"scripted {code}", "type": "server_error", "code": None}}
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return cls("status", code=code, headers=tuple((headers or {}).items()), body=body)

    @classmethod
    def rate_limited(cls, hint: str = "retry-after", seconds: float = 1.0) -> Fault:
        """Answer 429, asking to wait `seconds` (0 to 86400) by one kind of `hint`: see `HINTS`.

        It limits nothing by itself; `FaultyAPI.limit` is a limit that holds.
        """
        _check.choice("hint", hint, HINTS)
        _check.number("seconds", seconds, most=DAY)
        return cls("rate_limited", code=429, body=RATE_LIMITED, hint=hint, seconds=seconds)

    @classmethod
    def quota_exhausted(cls) -> Fault:
        """Answer 429 with OpenAI's error code `insufficient_quota`: waiting does not help."""
        return cls("quota_exhausted", code=429, body=QUOTA_EXHAUSTED)

    @classmethod
    def reset_before_reading(cls) -> Fault:
        """Reset the connection (RST) when a request begins to arrive; it is neither read, recorded nor processed."""
        return cls("reset_before_reading")

    @classmethod
    def reset_after_reading(cls) -> Fault:
        """Process the request, then reset the connection (RST) without an answer."""
        return cls("reset_after_reading")

    @classmethod
    def eof_after_reading(cls) -> Fault:
        """Process the request, then close the connection (FIN) without an answer."""
        return cls("eof_after_reading")

    @classmethod
    def close_when_idle(cls) -> Fault:
        """Answer, then close the connection without having announced it by `Connection: close`."""
        return cls("close_when_idle")

    @classmethod
    def stall_before_headers(cls, seconds: float) -> Fault:
        """Process the request, then send nothing for `seconds` (0 to 86400), then answer."""
        _check.number("seconds", seconds, most=DAY)
        return cls("stall_before_headers", seconds=seconds)

    @classmethod
    def hang(cls) -> Fault:
        """Process the request and never answer."""
        return cls("hang")

    @classmethod
    def drip(cls, interval: float, size: int = 1, total: float | None = None) -> Fault:
        """Send the headers, then `size` bytes of the body every `interval` seconds.

        interval: 0 to 86400. size: 1 to 1048576. total: seconds (0 to 86400) after which the rest is sent at once;
        None drips to the end.
        """
        return cls._dripping("drip", interval, size, total)

    @classmethod
    def drip_headers(cls, interval: float, size: int = 1, total: float | None = None) -> Fault:
        """As `drip`, from the first byte of the status line on."""
        return cls._dripping("drip_headers", interval, size, total)

    @classmethod
    def _dripping(cls, name: str, interval: float, size: int, total: float | None) -> Fault:
        _check.number("interval", interval, most=DAY)
        _check.integer("size", size, least=1, most=1 << 20)
        _check.number("total", total, most=DAY, optional=True)
        return cls(name, seconds=interval, size=size, total=total)

    @classmethod
    def truncated_body(cls) -> Fault:
        """Send the headers and half of the body that they promise, then close (FIN)."""
        return cls("truncated_body")

    @classmethod
    def tls_failure(cls) -> Fault:
        """Answer the next connection's ClientHello with rubbish.

        A request that draws this fault on a connection already open is answered, and that connection is closed, so
        that there is a next one. Without TLS the next connection is reset.
        """
        return cls("tls_failure")

    def all_headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of the answer, the hint's included, counted from now."""
        return self.headers + tuple(hint_headers(self.hint, self.seconds).items())


RATE_LIMITED = json.dumps(
    {"error": {"message": "Rate limit reached", "type": "requests", "param": None, "code": "rate_limit_exceeded"}}
).encode()
QUOTA_EXHAUSTED = json.dumps(
    {
        "error": {
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "type": "insufficient_quota",
            "param": None,
            "code": "insufficient_quota",
        }
    }
).encode()


def hint_headers(hint: str, seconds: float) -> dict[str, str]:
    """The headers that ask for a wait of `seconds`, by one kind of `hint`; what must be whole is rounded up.

    hint: one of `HINTS`, or "" for none.
    """
    return HINTS[hint](seconds) if hint else {}


def _whole_seconds(seconds: float) -> str:
    return str(math.ceil(seconds))


def _milliseconds(seconds: float) -> str:
    # Rounded first: 0.07 * 1000 is 70.00000000000001.
    return str(math.ceil(round(seconds * 1000, 6)))


def _fraction(seconds: float) -> str:
    return f"{int(_milliseconds(seconds)) / 1000:.3f}"


def _http_date(seconds: float) -> str:
    return formatdate(math.ceil(time.time() + seconds), usegmt=True)


def _go_duration(seconds: float) -> str:
    """As OpenAI writes it: `6m0s`, `1.5s`, `250ms`."""
    ms = int(_milliseconds(seconds))
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 1000:g}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text


#: How a 429 may say when to come back: the kind of hint, and what makes its headers of a number of seconds.
HINTS: dict[str, Callable[[float], dict[str, str]]] = {
    # RFC 9110 §10.2.3: whole seconds or a date.
    "retry-after": lambda s: {"Retry-After": _whole_seconds(s)},
    "http-date": lambda s: {"Retry-After": _http_date(s)},
    # Not allowed by the RFC, and sent all the same.
    "fraction": lambda s: {"Retry-After": _fraction(s)},
    # OpenAI, Azure.
    "retry-after-ms": lambda s: {"retry-after-ms": _milliseconds(s)},
    "x-ratelimit-reset-requests": lambda s: {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": _go_duration(s),
    },
    # AWS: milliseconds, by its SDKs' retry specification.
    "x-amz-retry-after": lambda s: {"x-amz-retry-after": _milliseconds(s)},
    # draft-ietf-httpapi-ratelimit-headers: up to version 7, from 8 on, and up to 6.
    "ratelimit": lambda s: {"RateLimit": f"limit=60, remaining=0, reset={_whole_seconds(s)}"},
    "ratelimit-draft-8": lambda s: {"RateLimit": f'"default";r=0;t={_whole_seconds(s)}'},
    "ratelimit-reset": lambda s: {
        "RateLimit-Limit": "60",
        "RateLimit-Remaining": "0",
        "RateLimit-Reset": _whole_seconds(s),
    },
    "malformed": lambda s: {"Retry-After": "soon; say, -1.5e"},
    "none": lambda s: {},
}

#: Faults as a busy service has them, with weights: for `FaultyAPI.rate(MIXED, probability=0.15)`.
MIXED: dict[Fault, float] = {
    Fault.rate_limited("retry-after-ms", 0.05): 4,
    Fault.status(503): 4,
    Fault.status(502): 2,
    Fault.reset_before_reading(): 2,
    Fault.eof_after_reading(): 1,
    Fault.close_when_idle(): 1,
    Fault.stall_before_headers(0.1): 1,
}
