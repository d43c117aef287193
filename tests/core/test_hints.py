"""What counts as a hint to wait, and for how long."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from resilience.core.hints import lowered, retry_after

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC).timestamp()
YEAR = 366 * 86400


def wait(limits: bool = True, **headers: str) -> float | None:
    return retry_after({k.replace("_", "-"): v for k, v in headers.items()}, NOW, limits=limits)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("0.5", 0.5),
        (".5", 0.5),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("Sunday, 01-Mar-26 12:00:30 GMT", 30.0),
        ("Sun Mar  1 12:00:30 2026", 30.0),
        ("Sun, 01 Mar 2026 11:59:00 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0.0),
        ("Sun Nov  6 08:49:37 1994", 0.0),
        ("Sun, 01 Mar 2026 13:00:30 +0100", 30.0),
    ],
)
def test_given_a_well_formed_retry_after_then_it_is_the_seconds_from_now(text: str, seconds: float) -> None:
    assert wait(Retry_After=text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "-1", "-0.5", "+5", "nan", "inf", "-inf", "1e3", "1_0", "0x10", "１２", "5s", "soon", "1, 1", "1;2",
        "9" * 400, "Sun, 31 Feb 2026 12:00:30 GMT", "Sun, 01 Mar 2026 25:00:00 GMT",
        "Sun, 01 Foo 2026 12:00:30 GMT", "2026-03-01T12:00:30Z", "\x00",
        "tomorrow, 12:00",
    ],
)  # fmt: skip
def test_given_a_malformed_retry_after_then_there_is_no_hint(text: str) -> None:
    assert wait(Retry_After=text) is None


@pytest.mark.parametrize(
    "text", [str(YEAR + 1), "1000000000", "9" * 23, "Wed, 21 Oct 2099 07:28:00 GMT", "Sun, 01 Mar 9999 00:00:00 GMT"]
)
def test_given_a_hint_of_more_than_a_year_then_it_is_no_leave_to_ask_now(text: str) -> None:
    assert wait(Retry_After=text) == YEAR


def test_given_a_two_digit_year_then_it_is_at_most_fifty_years_ahead() -> None:
    # 76 is fifty years ahead, and so as long as a hint can be; 77 is 1977, so the past.
    assert wait(Retry_After="Sunday, 01-Mar-76 12:00:30 GMT") == YEAR
    assert wait(Retry_After="Sunday, 01-Mar-77 12:00:30 GMT") == 0.0


def test_given_several_headers_then_the_first_well_formed_one_in_order_holds() -> None:
    headers = {
        "retry-after-ms": "1500",
        "retry-after": "2",
        "x-amz-retry-after": "3000",
        "ratelimit": '"default";r=0;t=4',
        "ratelimit-reset": "5",
        "x-ratelimit-reset-requests": "6s",
    }
    order = list(headers)
    for at, expected in enumerate([1.5, 2.0, 3.0, 4.0, 5.0, 6.0]):
        fields = {name: "rubbish" if order.index(name) < at else value for name, value in headers.items()}
        assert retry_after(fields, NOW) == pytest.approx(expected)


def test_given_x_amz_retry_after_then_it_is_milliseconds() -> None:
    assert wait(x_amz_retry_after="1500") == 1.5


def test_given_limits_are_not_asked_for_then_only_explicit_hints_count() -> None:
    assert wait(limits=False, x_ratelimit_reset="30") is None
    assert wait(limits=False, RateLimit="limit=1, remaining=0, reset=50") is None
    assert wait(limits=False, Retry_After="3", x_ratelimit_reset="30") == 3.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("limit=100, remaining=0, reset=50", 50.0),
        ("limit=100,remaining=3,reset=50", 50.0),
        ('"default";r=0;t=30', 30.0),
        ("default;r=0;t=30", 30.0),
        ('"burst";r=9;t=2, "daily";r=0;t=600', 600.0),
        ('"burst";r=0;t=2, "daily";r=7;t=600', 2.0),
        ('"a,b;t=9";r=0; t=4', 4.0),
        ('"default";r=5', None),
        ('"default";r=0;t=-3', None),
        ("reset", None),
        ("limit=100, remaining=0", None),
        ('"' * 500, None),
        ("x" * 5000, None),
    ],
)
def test_given_a_ratelimit_field_then_the_limit_that_is_used_up_says_how_long(text: str, seconds: float | None) -> None:
    assert wait(RateLimit=text) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("6m0s", 360.0),
        ("250ms", 0.25),
        ("1h2m3.5s", 3723.5),
        ("1.5h", 5400.0),
        ("20µs", 2e-5),
        ("1d", 86400.0),
        ("42", 42.0),
        ("0.25", 0.25),
        (str(int(NOW) + 90), 90.0),
        (str((int(NOW) + 90) * 1000), 90.0),
        (str(int(NOW) - 90), 0.0),
        ("2026-03-01T12:00:09Z", 9.0),
        ("2026-03-01T14:00:09+02:00", 9.0),
        ("2026-03-01T12:00:09", 9.0),
        ("Sun, 01 Mar 2026 12:00:30 GMT", 30.0),
        ("-5", None),
        ("6m-1s", None),
        ("6 m", None),
        ("m6", None),
        ("40000000", YEAR),
        ("2027-13-01T00:00:00Z", None),
        ("2099-01-01T00:00:00Z", YEAR),
        ("0001-01-01T00:00:00+23:59", 0.0),
    ],
)
def test_given_the_reset_of_a_quota_then_every_common_spelling_is_understood(text: str, seconds: float | None) -> None:
    expected = None if seconds is None else pytest.approx(seconds)
    for name in ("x-ratelimit-reset", "x-ratelimit-reset-tokens", "X-Rate-Limit-Reset", "ratelimit-reset"):
        assert retry_after({name: text}, NOW) == expected
    assert retry_after({"anthropic-ratelimit-tokens-reset": text}, NOW) == expected


def test_given_two_quotas_then_the_one_that_is_used_up_decides() -> None:
    openai = {"x-ratelimit-reset-requests": "24h", "x-ratelimit-reset-tokens": "6s"}
    left = {"x-ratelimit-remaining-requests": "199", "x-ratelimit-remaining-tokens": "0"}
    assert retry_after(openai | left, NOW) == 6.0


def test_given_two_quotas_and_none_said_to_be_used_up_then_the_longer_wait_decides() -> None:
    openai = {"x-ratelimit-reset-requests": "2s", "x-ratelimit-reset-tokens": "6s"}
    assert retry_after(openai, NOW) == 6.0
    assert retry_after(openai | {"x-ratelimit-remaining-tokens": "3"}, NOW) == 6.0


def test_given_anthropics_quotas_then_the_one_that_is_used_up_decides() -> None:
    fields = {
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-03-01T12:05:00Z",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-input-tokens-reset": "2026-03-01T12:00:20Z",
    }
    assert retry_after(fields, NOW) == 20.0


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "7"},
        {"RETRY-AFTER": 7},
        {b"retry-after": b"7"},
        {"Retry-After": ["7"]},
        CaseInsensitiveDict({"rEtRy-aFtEr": "7"}),
        httpx.Headers({"Retry-After": "7"}),
        [("Retry-After", "7"), ("Retry-After", "9")],
        [(b"retry-after", b"7")],
        (("x", "y"), ["Retry-After", "7"]),
    ],
)
def test_given_headers_of_any_make_then_they_are_read_without_regard_to_case(headers: object) -> None:
    assert retry_after(headers, NOW) == 7.0


@pytest.mark.parametrize("headers", [None, 5, "Retry-After: 7", b"x", object(), [1, 2], [("a",)], {1: None}, {}])
def test_given_something_that_is_no_headers_then_there_is_no_hint(headers: object) -> None:
    assert retry_after(headers, NOW) is None


def test_given_headers_that_raise_then_what_was_read_before_counts() -> None:
    def pairs():  # type: ignore[no-untyped-def]
        yield "Retry-After", "7"
        raise RuntimeError("torn")

    assert lowered(pairs()) == {"retry-after": "7"}
    assert retry_after(pairs(), NOW) == 7.0


NAMES = [
    "Retry-After-Ms", "Retry-After", "X-Amz-Retry-After", "RateLimit", "RateLimit-Reset", "RateLimit-Remaining",
    "X-RateLimit-Reset", "X-RateLimit-Remaining", "X-RateLimit-Reset-Tokens", "anthropic-ratelimit-tokens-reset",
]  # fmt: skip
NEARLY = st.text(alphabet='0123456789.-+:;,= "TZGMThmsµdrnaeSu\t', max_size=40)
VALUES = st.one_of(st.text(), NEARLY, st.binary(), st.integers(), st.floats(), st.none(), st.lists(st.text()))


@given(st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(), st.binary()), VALUES), st.floats())
def test_given_arbitrary_headers_and_clock_then_a_hint_is_none_or_within_a_year(headers: dict, now: float) -> None:
    hint = retry_after(headers, now)
    assert hint is None or (math.isfinite(hint) and 0.0 <= hint <= YEAR)


@given(st.integers(min_value=0, max_value=YEAR), st.sampled_from(["imf", "rfc850", "asctime"]))
def test_given_any_moment_of_the_coming_year_in_any_form_then_it_is_read_back(ahead: int, form: str) -> None:
    moment = datetime.fromtimestamp(NOW + ahead, UTC)
    text = {
        "imf": format_datetime(moment, usegmt=True),
        "rfc850": moment.strftime("%A, %d-%b-%y %H:%M:%S GMT"),
        "asctime": moment.strftime("%a %b ") + f"{moment.day:2d}" + moment.strftime(" %H:%M:%S %Y"),
    }[form]
    assert wait(Retry_After=text) == ahead


@given(st.floats(min_value=0, max_value=YEAR))
def test_given_any_number_of_seconds_then_every_spelling_of_it_is_the_same(seconds: float) -> None:
    text = f"{seconds:.6f}"
    assert wait(Retry_After=text) == pytest.approx(seconds, abs=1e-5)
    assert wait(x_ratelimit_reset=text) == pytest.approx(seconds, abs=1e-5)
    assert wait(x_ratelimit_reset_requests=text + "s") == pytest.approx(seconds, abs=1e-5)
    assert wait(retry_after_ms=f"{seconds * 1000:.3f}") == pytest.approx(seconds, abs=1e-5)


@given(st.integers(0, 23), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_given_any_go_duration_then_its_parts_are_added(h: int, m: int, s: int, ms: int) -> None:
    assert wait(x_ratelimit_reset=f"{h}h{m}m{s}s{ms}ms") == pytest.approx(h * 3600 + m * 60 + s + ms / 1000)
