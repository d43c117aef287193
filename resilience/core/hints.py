"""How long a dependency asks us to wait, read from the headers of its answer.

A malformed hint is no hint and never an exception: the next header is asked in its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["lowered", "retry_after"]

#: Seconds. A longer hint is taken for this one, which nobody waits for either.
_YEAR = 366 * 86400.0
# Longer names and values, and more headers than this, are nobody's hint; the bounds keep a hostile answer cheap.
_MAX_NAME, _MAX_VALUE, _MAX_HEADERS = 128, 1024, 256

_NUMBER = re.compile(r"[0-9]{1,64}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?)(ns|us|µs|μs|ms|s|m|h|d)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ISO = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}\S*")
# RFC 9110 §5.6.7: IMF-fixdate, RFC 850 (the two-digit year), asctime. A numeric zone, as in mail, is let pass.
_CLOCK = r"[0-9]{2}:[0-9]{2}:[0-9]{2}"
_HTTP_DATE = re.compile(
    rf"[A-Z][a-z]{{2}}, [0-9]{{1,2}} [A-Z][a-z]{{2}} [0-9]{{4}} {_CLOCK} (?:GMT|UTC|UT|Z|[+-][0-9]{{4}})"
    rf"|[A-Z][a-z]{{5,8}}, [0-9]{{2}}-[A-Z][a-z]{{2}}-(?P<short>[0-9]{{2}}) {_CLOCK} (?:GMT|UTC)"
    rf"|[A-Z][a-z]{{2}} [A-Z][a-z]{{2}} (?:[0-9]{{2}}| [0-9]) {_CLOCK} [0-9]{{4}}"
)
# One member of a structured list, commas inside quotes not counted (RFC 9651).
_MEMBER = re.compile(r'(?:[^,"]|"[^"]*")+')
_PARAMETER = re.compile(r"([a-z]+) *= *([0-9.]+)")
# x-ratelimit-reset, x-ratelimit-reset-tokens, x-rate-limit-reset, anthropic-ratelimit-tokens-reset
_RESET_NAME = re.compile(r"[a-z]+-rate-?limit-(?:[a-z0-9_-]+-)?reset(?:-[a-z0-9_-]+)?")


def retry_after(headers: Any, now_wall: float, *, limits: bool = True) -> float | None:
    """Seconds (0 to 366 days) that `headers` ask the client to wait, or None if they do not ask.

    headers: a mapping of any case, a list of pairs, or None; names and values may be bytes.
    now_wall: the wall clock, seconds since 1970, against which dates are held; a date in the past is 0.0.
    limits: read RateLimit-type headers too. They accompany good answers as well and say when a quota is whole again, so
        only the caller, who knows the status, can tell whether they ask for a pause.

    The first well-formed one holds, in this order: `retry-after-ms`, `Retry-After` (RFC 9110 §10.2.3; fractions are let
    pass), `x-amz-retry-after` (milliseconds, as botocore's standard retry mode reads it: boto/botocore#3678),
    `RateLimit` and `RateLimit-Reset` (draft-ietf-httpapi-ratelimit-headers), `x-ratelimit-reset*` and its kin.
    Never raises.
    """
    try:
        fields = lowered(headers)
        for found in _hints(fields, now_wall, limits):
            if found is not None:
                return found
    except Exception:
        return None
    return None


def lowered(headers: Any) -> dict[str, str]:
    """`headers` as a plain dict of lower-case names; the first of a repeated name holds. Never raises."""
    fields: dict[str, str] = {}
    try:
        for at, (name, value) in enumerate(_pairs(headers)):
            if at >= _MAX_HEADERS:
                break
            key = _text(name).lower()
            if value is not None and len(key) <= _MAX_NAME:
                fields.setdefault(key, _text(value).strip())
    except Exception:
        return fields
    return fields


def _pairs(headers: Any) -> Iterable[Any]:
    if headers is None:
        return ()
    items = getattr(headers, "items", None)
    found: Iterable[Any] = items() if callable(items) else headers
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray)):
        return value.decode("latin-1")
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return str(value)


def _hints(fields: dict[str, str], now: float, limits: bool) -> Iterator[float | None]:
    yield _sane(_number(fields.get("retry-after-ms")), 1e-3)
    yield _delay_or_date(fields.get("retry-after"), now)
    yield _sane(_number(fields.get("x-amz-retry-after")), 1e-3)
    if limits:
        yield _binding(_structured(fields.get("ratelimit")))
        yield _binding(_named(fields, now, lambda name: name == "ratelimit-reset"))
        yield _binding(_named(fields, now, _RESET_NAME.fullmatch))


def _sane(seconds: float | None, scale: float = 1.0) -> float | None:
    if seconds is None or not math.isfinite(seconds) or seconds < 0.0:
        return None
    # Longer than anybody waits is still no leave to ask now.
    return min(seconds * scale, _YEAR)


def _number(text: str | None) -> float | None:
    # float() alone would also take "1e9", "1_0", "nan" and the digits of other scripts.
    return float(text) if text and _NUMBER.fullmatch(text) else None


def _delay_or_date(text: str | None, now: float) -> float | None:
    if not text or len(text) > _MAX_VALUE:
        return None
    number = _number(text)
    return _sane(number) if number is not None else _until(_http_date(text, now), now)


def _until(moment: float | None, now: float) -> float | None:
    return None if moment is None else _sane(max(moment - now, 0.0))


def _http_date(text: str, now: float) -> float | None:
    """Seconds since 1970 of an HTTP date in any of the three forms, or None."""
    shape = _HTTP_DATE.fullmatch(text)
    if shape is None:
        return None
    # email.utils costs 10 ms and more to import; only a date needs it.
    from datetime import UTC, datetime
    from email.utils import parsedate_tz

    parts = parsedate_tz(text)
    if parts is None:
        return None
    year, month, day, hour, minute, second = parts[:6]
    try:
        if shape["short"]:
            # RFC 9110 §5.6.7: a two-digit year more than 50 years ahead is one of the past.
            this_year = datetime.fromtimestamp(now, UTC).year
            year = this_year // 100 * 100 + int(shape["short"])
            year -= 100 if year > this_year + 50 else 0
        # datetime knows no leap second.
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return moment.timestamp() - (parts[9] or 0)


def _reset(text: str, now: float) -> float | None:
    """Seconds until a quota is whole again: a delay, a Go duration, an epoch in s or ms, an ISO or HTTP date."""
    if not text or len(text) > _MAX_VALUE:
        return None
    number = _number(text)
    if number is not None:
        # GitHub and others send the moment in place of the delay: 1e9 is in 2001, and 1e12 the same year in ms.
        if number < 1e9:
            return _sane(number)
        return _until(number / 1000 if number >= 1e12 else number, now)
    units = _DURATION.findall(text)
    if units and "".join(n + unit for n, unit in units) == text:
        return _sane(sum(float(n) * _UNITS[unit] for n, unit in units))
    return _until(_iso_date(text) if _ISO.fullmatch(text) else _http_date(text, now), now)


def _iso_date(text: str) -> float | None:
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _structured(text: str | None) -> Iterator[tuple[float, float | None]]:
    """(reset, remaining) of each limit in a `RateLimit` field, of the newer drafts or the older."""
    if not text or len(text) > _MAX_VALUE:
        return
    old: dict[str, float | None] = {}
    for member in _MEMBER.findall(text):
        name, *rest = member.split(";")
        found = {k: _number(v) for k, v in (p.groups() for p in map(_PARAMETER.fullmatch, map(str.strip, rest)) if p)}
        wait = _sane(found.get("t"))
        if wait is not None:
            # draft 08 and later: "default";r=0;t=30
            yield wait, found.get("r")
        elif whole := _PARAMETER.fullmatch(name.strip()):
            # draft 07 and earlier: limit=100, remaining=0, reset=50
            old[whole[1]] = _number(whole[2])
    wait = _sane(old.get("reset"))
    if wait is not None:
        yield wait, old.get("remaining")


def _named(fields: dict[str, str], now: float, wanted: Any) -> Iterator[tuple[float, float | None]]:
    """(reset, remaining) of each limit that has its own headers, where `wanted(name of the reset header)`."""
    for name, text in fields.items():
        if wanted(name):
            wait = _reset(text, now)
            if wait is not None:
                yield wait, _number(fields.get(name.replace("reset", "remaining")))


def _binding(limits: Iterable[tuple[float, float | None]]) -> float | None:
    """The longest wait among the limits that are used up; where none says that it is, among all of them."""
    known = list(limits)
    used_up = [wait for wait, remaining in known if remaining == 0]
    return max(used_up or (wait for wait, _ in known), default=None)
