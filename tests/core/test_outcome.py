"""What results and exceptions of other libraries mean: the outcome table, row by row."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import botocore.exceptions as aws
import httpx
import openai
import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from resilience.core import errors
from resilience.core.outcome import (
    IDEMPOTENT_METHODS,
    OK,
    Meaning,
    Outcome,
    Retry,
    label,
    mark_guarded,
    of_error,
    of_result,
)

M, R = Meaning, Retry
POOL: Any = None


def brief(outcome: Outcome) -> tuple[Meaning, Retry]:
    return outcome.meaning, outcome.retry


def requests_response(
    status: int, headers: dict[str, str] | None = None, body: bytes | None = None
) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers = CaseInsensitiveDict(headers or {})
    if body is not None:
        response._content = body
    return response


def httpx_response(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> httpx.Response:
    return httpx.Response(status, headers=headers, content=body, request=httpx.Request("GET", "https://api.test/"))


def raised(fn: Callable[[], Any]) -> BaseException:
    try:
        fn()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def openai_error(status: int, body: Any, headers: dict[str, str] | None = None) -> BaseException:
    """As the real client makes it from an answer."""
    client = openai.OpenAI(api_key="k", base_url="https://api.test/v1", max_retries=0)
    httpx2 = openai._exceptions.httpx2  # type: ignore[attr-defined]
    request = httpx2.Request("POST", "https://api.test/v1/chat/completions")
    response = httpx2.Response(status, headers=headers, content=json.dumps(body).encode(), request=request)
    return client._make_status_error_from_response(response)


def caused_by(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


# -- results -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "result",
    [
        None, "", "503", b"x", bytearray(), 0, 503, 1.5, True, [], [503], (), ("body", 503), set(), frozenset(),
        {}, {"a": 1}, {"status": 503}, {"statusCode": 200}, {"statusCode": "204"}, {"statusCode": None},
        {"statusCode": "soon"}, {"statusCode": True}, {"statusCode": []}, {"statusCode": 99999},
        {"statusCode": float("nan")}, object(), object, MagicMock(), SimpleNamespace(status="failed", headers={}),
        SimpleNamespace(status=503),
        SimpleNamespace(status_code=200), SimpleNamespace(status_code="503"), SimpleNamespace(status_code=True),
        requests_response(399), httpx_response(304),
    ],
    ids=repr,
)  # fmt: skip
def test_given_a_result_that_is_no_bad_answer_then_it_is_the_one_ok(result: object) -> None:
    assert of_result(result) is OK


TABLE = [
    (400, M.CLIENT_ERROR, R.NEVER),
    (401, M.UNAUTHORIZED, R.NEVER),
    (402, M.QUOTA_EXHAUSTED, R.NEVER),
    (403, M.CLIENT_ERROR, R.NEVER),
    (404, M.CLIENT_ERROR, R.NEVER),
    (408, M.CLIENT_ERROR, R.IF_IDEMPOTENT),
    (409, M.CLIENT_ERROR, R.NEVER),
    (425, M.CLIENT_ERROR, R.IF_IDEMPOTENT),
    (429, M.RATE_LIMITED, R.ALWAYS),
    (500, M.SERVER_ERROR, R.IF_IDEMPOTENT),
    (501, M.SERVER_ERROR, R.NEVER),
    (502, M.SERVER_ERROR, R.ALWAYS),
    (503, M.SERVER_ERROR, R.ALWAYS),
    (504, M.SERVER_ERROR, R.ALWAYS),
    (520, M.SERVER_ERROR, R.IF_IDEMPOTENT),
    (528, M.SERVER_ERROR, R.IF_IDEMPOTENT),
    (529, M.SERVER_ERROR, R.ALWAYS),
]

RESULTS: dict[str, Callable[[int, dict[str, str]], Any]] = {
    "requests": requests_response,
    "httpx": httpx_response,
    "urllib3": lambda status, headers: urllib3.HTTPResponse(status=status, headers=headers),
    "proxy result": lambda status, headers: {"statusCode": status, "headers": headers},
    "proxy result as text": lambda status, headers: {"statusCode": str(status), "headers": headers},
    "ALB result": lambda s, headers: {"statusCode": s, "multiValueHeaders": {k: [v] for k, v in headers.items()}},
    "pairs": lambda status, headers: SimpleNamespace(status_code=status, headers=list(headers.items())),
    "raw pairs": lambda status, headers: SimpleNamespace(
        status=status, headers=[(k.encode(), v.encode()) for k, v in headers.items()]
    ),
}


def botocore_error(status: int, headers: dict[str, str], code: str = "Oops") -> Exception:
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": {k.lower(): v for k, v in headers.items()}}
    return aws.ClientError({"Error": {"Code": code}, "ResponseMetadata": metadata}, "GetItem")  # type: ignore[arg-type]


def urllib_error(status: int, headers: dict[str, str]) -> Exception:
    message = Message()
    for name, value in headers.items():
        message[name] = value
    return urllib.error.HTTPError("https://api.test/", status, "", message, None)


class AiohttpLike(Exception):
    """aiohttp.ClientResponseError: `status` and `headers`, and a `code` that must not be read."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status = status
        self.headers = headers

    @property
    def code(self) -> int:
        raise AssertionError("deprecated")


class StatusCodeError(Exception):
    """What Starlette, FastAPI and Django REST framework raise."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.status_code = status
        self.headers = headers


class CodeError(Exception):
    """What google.api_core raises: an int `code`, and the answer."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        self.code = status
        self.response = SimpleNamespace(headers=headers)


ERRORS: dict[str, Callable[[int, dict[str, str]], BaseException]] = {
    "requests": lambda status, headers: raised(requests_response(status, headers).raise_for_status),
    "httpx": lambda status, headers: raised(httpx_response(status, headers).raise_for_status),
    "openai": lambda status, headers: openai_error(status, {}, headers),
    "botocore": botocore_error,
    "urllib": urllib_error,
    "aiohttp": AiohttpLike,
    "starlette": StatusCodeError,
    "google": CodeError,
}


@pytest.mark.parametrize(("status", "meaning", "retry"), TABLE)
@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS)
def test_given_an_answer_of_any_make_then_its_status_decides(
    make: Callable[..., Any], status: int, meaning: Meaning, retry: Retry
) -> None:
    assert of_result(make(status, {})) == Outcome(meaning, status, None, retry)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize(("status", "meaning", "retry"), TABLE)
@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_given_an_exception_for_an_answer_then_its_status_decides(
    make: Callable[..., BaseException], status: int, meaning: Meaning, retry: Retry
) -> None:
    assert of_error(make(status, {})) == Outcome(meaning, status, None, retry)


@pytest.mark.parametrize("make", [*RESULTS.values(), *ERRORS.values()], ids=[*RESULTS, *(f"{e} error" for e in ERRORS)])
def test_given_headers_of_any_make_then_hint_and_advice_are_found(make: Callable[..., Any]) -> None:
    made = make(503, {"Retry-After": "7", "X-Should-Retry": "false"})
    outcome = of_error(made) if isinstance(made, BaseException) else of_result(made)
    assert outcome == Outcome(M.RATE_LIMITED, 503, 7.0, R.NEVER)


# -- rate limits and quotas ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hint", ["soon", "-1", "", "nan"])
def test_given_a_503_with_a_malformed_hint_then_it_is_a_server_error(hint: str) -> None:
    assert of_result(requests_response(503, {"Retry-After": hint})) == Outcome(M.SERVER_ERROR, 503, None, R.ALWAYS)


def test_given_a_503_with_a_quota_header_alone_then_it_is_a_server_error_without_a_hint() -> None:
    assert of_result(requests_response(503, {"RateLimit-Reset": "9"})) == Outcome(M.SERVER_ERROR, 503, None, R.ALWAYS)


def test_given_a_429_with_a_quota_header_then_it_is_a_hint() -> None:
    assert of_result(requests_response(429, {"x-ratelimit-reset-tokens": "6m0s"})).retry_after == 360.0


def test_given_a_529_with_retry_after_then_it_is_a_server_error_with_a_hint() -> None:
    assert of_result(requests_response(529, {"Retry-After": "4"})) == Outcome(M.SERVER_ERROR, 529, 4.0, R.ALWAYS)


@pytest.mark.parametrize("headers", [{"Retry-After": "60"}, {"x-ratelimit-remaining": "0"}])
def test_given_githubs_403_then_it_is_a_rate_limit(headers: dict[str, str]) -> None:
    assert brief(of_result(requests_response(403, headers))) == (M.RATE_LIMITED, R.ALWAYS)


def test_given_a_403_with_requests_left_then_it_is_a_client_error() -> None:
    assert of_result(requests_response(403, {"x-ratelimit-remaining": "12"})).meaning is M.CLIENT_ERROR


@pytest.mark.parametrize(
    "code",
    [
        "Throttling", "ThrottlingException", "ThrottledException", "TooManyRequestsException", "RequestLimitExceeded",
        "ProvisionedThroughputExceededException", "SlowDown", "LimitExceededException", "RequestThrottled",
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [200, 400, 403, 503])
def test_given_a_throttling_code_of_aws_then_it_is_a_rate_limit_whatever_the_status(code: str, status: int) -> None:
    assert brief(of_error(botocore_error(status, {}, code))) == (M.RATE_LIMITED, R.ALWAYS)


@pytest.mark.parametrize("code", ["AccessDenied", "ValidationException", "ResourceNotFoundException"])
def test_given_another_code_of_aws_then_the_status_decides(code: str) -> None:
    assert brief(of_error(botocore_error(400, {}, code))) == (M.CLIENT_ERROR, R.NEVER)


QUOTA_BODIES = [
    {"error": {"code": "insufficient_quota", "message": "m"}},
    {"error": {"type": "insufficient_quota", "code": None}},
    {"code": "insufficient_quota"},
    {"type": "error", "error": {"type": "rate_limit_error", "details": {"error_code": "enforced_spend_limit_reached"}}},
]


@pytest.mark.parametrize("body", QUOTA_BODIES)
def test_given_a_429_whose_body_says_that_the_quota_is_spent_then_it_is_not_retried(body: dict[str, Any]) -> None:
    text = json.dumps(body)
    for made in (
        requests_response(429, {}, text.encode()),
        httpx_response(429, {}, text.encode()),
        urllib3.HTTPResponse(text.encode(), status=429),
        {"statusCode": 429, "body": text},
    ):
        assert brief(of_result(made)) == (M.QUOTA_EXHAUSTED, R.NEVER)
    for error in (
        raised(requests_response(429, {}, text.encode()).raise_for_status),
        raised(httpx_response(429, {}, text.encode()).raise_for_status),
        openai_error(429, body),
    ):
        assert brief(of_error(error)) == (M.QUOTA_EXHAUSTED, R.NEVER)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"code": "rate_limit_exceeded", "message": "not insufficient_quota"}}',
        b'{"error": "insufficient_quota',
        b'["insufficient_quota"]',
        b'"insufficient_quota"',
        b'{"error": {"code": "insufficient_quota"}, "pad": "' + b"x" * 65536 + b'"}',
        b"[" * 60000 + b"insufficient_quota",
        b"\xff\xfe",
        b"",
    ],
    ids=["in the message", "torn", "list", "string", "too long", "deep", "no text", "empty"],
)
def test_given_a_429_whose_body_does_not_say_so_then_it_is_a_rate_limit(body: bytes) -> None:
    assert of_result(requests_response(429, {}, body)).meaning is M.RATE_LIMITED


def test_given_a_429_whose_body_has_not_been_read_then_it_is_not_read() -> None:
    class Raw:
        def read(self, *_: object) -> bytes:
            raise AssertionError("read")

        stream = read

    response = requests_response(429)
    response.raw = Raw()
    assert of_result(response).meaning is M.RATE_LIMITED

    stream = httpx.Response(429, stream=httpx.ByteStream(b"insufficient_quota"))
    assert of_result(stream).meaning is M.RATE_LIMITED
    assert not stream.is_stream_consumed


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"code": "insufficient_quota"}, (M.QUOTA_EXHAUSTED, R.NEVER)),
        ({"code": "rate_limit_exceeded"}, (M.RATE_LIMITED, R.ALWAYS)),
        ({"error": {"type": "rate_limit_error"}}, (M.RATE_LIMITED, R.ALWAYS)),
        ({"type": "error", "error": {"type": "overloaded_error"}}, (M.SERVER_ERROR, R.ALWAYS)),
        ({"code": "other"}, (M.UNKNOWN, R.NEVER)),
        ("text", (M.UNKNOWN, R.NEVER)),
        (None, (M.UNKNOWN, R.NEVER)),
    ],
)
def test_given_an_error_event_in_a_stream_then_the_providers_word_decides(
    body: Any, expected: tuple[Meaning, Retry]
) -> None:
    error = openai.APIError("m", request=MagicMock(), body=body)
    assert brief(of_error(error)) == expected


@pytest.mark.parametrize(("status", "meaning", "_"), TABLE)
@pytest.mark.parametrize(("said", "retry"), [("true", R.ALWAYS), ("False", R.NEVER)])
def test_given_x_should_retry_then_it_overrides_the_retry_but_not_the_meaning(
    status: int, meaning: Meaning, _: Retry, said: str, retry: Retry
) -> None:
    assert brief(of_result(requests_response(status, {"x-should-retry": said}))) == (meaning, retry)


def test_given_x_should_retry_that_says_neither_then_it_is_ignored() -> None:
    assert of_result(requests_response(502, {"x-should-retry": "maybe"})).retry is R.ALWAYS


def test_given_a_date_then_the_hint_counts_from_the_processes_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    from resilience.core.clock import CLOCK

    monkeypatch.setattr(CLOCK, "wall", lambda: 784111777.0)
    response = requests_response(429, {"Retry-After": "Sun, 06 Nov 1994 08:50:00 GMT"})
    assert of_result(response).retry_after == 23.0


# -- cancellation and our own --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        asyncio.CancelledError(), concurrent.futures.CancelledError(), KeyboardInterrupt(), SystemExit(503),
        GeneratorExit(), type("Cancelled", (BaseException,), {})(),
    ],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("sent", [None, True, False])
def test_given_a_cancellation_then_it_is_nobodys_failure(error: BaseException, sent: bool | None) -> None:
    outcome = of_error(error, sent=sent)
    assert outcome == Outcome(M.CANCELLED)
    assert not outcome.failure


@pytest.mark.parametrize(
    ("error", "meaning", "wait"),
    [
        (errors.CircuitOpen("d", 3.0), M.UNKNOWN, 3.0),
        (errors.CircuitOpen("d"), M.UNKNOWN, None),
        (errors.also(errors.CircuitOpen, requests.ConnectionError)("d", 3.0), M.UNKNOWN, 3.0),
        (errors.DeadlineExceeded("late"), M.UNKNOWN, None),
        (errors.also(errors.DeadlineExceeded, requests.Timeout)("late"), M.UNKNOWN, None),
        (errors.RateLimited("d", 9.0), M.RATE_LIMITED, 9.0),
        (errors.CredentialUnavailable("no"), M.UNKNOWN, None),
        (errors.ConfigurationError("no"), M.UNKNOWN, None),
        (errors.StoreUnavailable("no"), M.UNKNOWN, None),
        (caused_by(openai.APIConnectionError(request=POOL), errors.CircuitOpen("d", 3.0)), M.UNKNOWN, 3.0),
        (requests.ConnectionError(errors.CircuitOpen("d", 3.0)), M.UNKNOWN, 3.0),
    ],
    ids=repr,
)
def test_given_an_error_of_ours_then_it_is_neither_retried_nor_counted(
    error: BaseException, meaning: Meaning, wait: float | None
) -> None:
    outcome = of_error(error)
    assert outcome == Outcome(meaning, None, wait, R.NEVER, guarded=True)
    assert not outcome.failure


# -- marks ---------------------------------------------------------------------------------------------------


def test_given_a_marked_response_then_it_and_the_exception_made_of_it_are_guarded() -> None:
    response = requests_response(503)
    assert not of_result(response).guarded
    mark_guarded(response)
    assert of_result(response) == Outcome(M.SERVER_ERROR, 503, None, R.ALWAYS, guarded=True)
    assert of_error(raised(response.raise_for_status)) == Outcome(M.SERVER_ERROR, 503, None, R.ALWAYS, guarded=True)


def test_given_a_marked_response_that_is_well_then_it_is_the_one_ok() -> None:
    response = requests_response(200)
    mark_guarded(response)
    assert of_result(response) is OK


@pytest.mark.parametrize("error", [requests.ReadTimeout(), ValueError(), httpx.ConnectError("no")])
def test_given_a_marked_exception_then_it_is_guarded_and_means_what_it_meant(error: Exception) -> None:
    before = of_error(error)
    mark_guarded(error)
    assert of_error(error) == before._replace(guarded=True)


def test_given_a_marked_exception_inside_a_wrapper_then_the_wrapper_is_guarded() -> None:
    inner = requests.ConnectionError()
    mark_guarded(inner)
    assert of_error(caused_by(openai.APIConnectionError(request=POOL), inner)).guarded


@pytest.mark.parametrize("thing", [None, 5, "text", {}, object()])
def test_given_something_that_cannot_be_marked_then_nothing_happens(thing: object) -> None:
    mark_guarded(thing)


def test_given_a_mock_then_it_does_not_count_as_marked() -> None:
    assert not of_result(MagicMock(status_code=503)).guarded


# -- odds and ends -------------------------------------------------------------------------------------------


class Hostile(Exception):
    """Every attribute raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


def test_given_an_object_whose_attributes_raise_then_a_result_is_ok_and_an_error_unknown() -> None:
    assert of_result(Hostile()) is OK
    assert of_error(Hostile()) == Outcome(M.UNKNOWN)


def test_given_one_property_that_raises_then_the_others_still_count() -> None:
    class Half(Exception):
        status_code = 502
        headers = property(lambda self: 1 / 0)
        response = property(lambda self: 1 / 0)

    assert of_error(Half()) == Outcome(M.SERVER_ERROR, 502, None, R.ALWAYS)
    assert of_result(Half()) == Outcome(M.SERVER_ERROR, 502, None, R.ALWAYS)


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"ResponseMetadata": None},
        {"ResponseMetadata": []},
        {"ResponseMetadata": {"HTTPStatusCode": "x"}},
        {"Error": 5},
        {"Error": {"Code": 7}},
    ],
)
def test_given_a_botocore_answer_that_is_malformed_then_it_is_unknown(response: dict[str, Any]) -> None:
    error = Exception()
    error.response = response  # type: ignore[attr-defined]
    assert of_error(error).meaning is M.UNKNOWN


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=6,
)


@given(anything, anything, anything)
def test_given_any_proxy_result_then_it_has_an_outcome(status: Any, headers: Any, body: Any) -> None:
    for code in (status, 429, "403"):
        outcome = of_result({"statusCode": code, "headers": headers, "multiValueHeaders": body, "body": body})
        assert isinstance(outcome, Outcome)


@given(
    st.dictionaries(
        st.sampled_from(["status_code", "status", "code", "headers", "response", "body", "type", "reason"]), anything
    )
)
def test_given_any_attributes_then_an_error_has_an_outcome_and_is_never_ok(attributes: dict[str, Any]) -> None:
    error = Exception()
    vars(error).update(attributes)
    assert of_error(error).meaning not in (M.OK, M.CANCELLED)
    assert isinstance(of_result(SimpleNamespace(**attributes)), Outcome)


@given(st.integers(), st.booleans())
def test_given_any_status_then_results_and_errors_agree(status: int, marked: bool) -> None:
    response = requests_response(status)
    if marked:
        mark_guarded(response)
    from_result, from_error = of_result(response), of_error(requests.HTTPError(response=response))
    if 400 <= status <= 599:
        assert from_result == from_error
        assert from_result.status == status
        assert from_result.guarded is marked
        assert from_result.failure == (status >= 500)
    else:
        assert from_result is OK
        assert from_error.meaning is M.UNKNOWN


def test_given_each_meaning_then_failure_is_what_a_breaker_counts() -> None:
    assert {m for m in Meaning if Outcome(m).failure} == {M.UNREACHABLE, M.DROPPED, M.SERVER_ERROR}


def test_given_the_methods_of_rfc_9110_then_those_that_may_be_repeated_are_listed() -> None:
    assert "PUT" in IDEMPOTENT_METHODS
    assert not {"POST", "PATCH", "CONNECT"} & IDEMPOTENT_METHODS


def test_given_an_error_then_its_label_is_its_class_without_its_message() -> None:
    assert label(None) is None
    assert label(ValueError("secret")) == "ValueError"
    assert label(requests.ConnectionError("secret")) == "requests.exceptions.ConnectionError"


def test_given_a_bare_interpreter_then_the_outcome_needs_no_library_to_be_imported() -> None:
    import subprocess
    import sys

    code = """if True:
        import sys
        from resilience.core.outcome import of_error, of_result
        of_error(TimeoutError())
        of_error(OSError(113, "x"))
        of_result({"statusCode": 429, "headers": {"retry-after": "5"}})
        heavy = {"requests", "urllib3", "httpx", "asyncio", "email", "json", "ssl", "http", "datetime"}
        print(sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
