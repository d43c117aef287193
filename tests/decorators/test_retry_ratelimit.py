"""`@retry_ratelimit` as its user sees it: hints, deadlines, what is tried again and what is not, and what it says."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
import requests

import resilience
from resilience import DeadlineExceeded, RateLimited, circuit_breaker, fresh_auth, pooled, retry_ratelimit
from resilience.core import events
from resilience.core.outcome import label
from resilience.decorators import _retrying
from resilience.testing import FakeClock, Fault, FaultyAPI, LambdaContext
from resilience.testing.faults import HINTS

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


class Odd(Exception):
    """An error that nothing is known of."""


def asking(api: FaultyAPI, **settings: Any) -> Callable[..., requests.Response]:
    """A handler that asks once, and returns what `requests` gives."""

    @pooled(base_url=api.base_url)
    @retry_ratelimit(**settings)
    def handler(event: Any = None, context: Any = None) -> requests.Response:
        return requests.post(api.base_url + "/chat/completions", json=QUESTION)

    return handler


def failing(times: int, error: type[Exception] = Odd, **settings: Any) -> tuple[Callable[[], str], list[None]]:
    """A function that fails so often, and the list of its attempts."""
    attempts: list[None] = []

    @retry_ratelimit(on=Odd, **settings)
    def call() -> str:
        attempts.append(None)
        if len(attempts) <= times:
            raise error("odd")
        return "answer"

    return call, attempts


# ---- hints


@pytest.mark.parametrize("hint", [h for h in HINTS if h not in ("malformed", "none")])
def test_a_429_is_never_tried_again_before_its_hint(api: FaultyAPI, clock: FakeClock, hint: str) -> None:
    # The server writes dates by the real clock.
    clock.advance_wall(max(time.time() - clock.wall(), 0.0))
    api.script([Fault.rate_limited(hint, 7.5)])
    assert asking(api)().status_code == 200
    assert sum(clock.slept) >= 7.5
    assert api.count() == 2


@pytest.mark.parametrize("hint", ["malformed", "none"])
def test_a_429_without_a_usable_hint_is_tried_again_after_a_backoff(
    api: FaultyAPI, clock: FakeClock, hint: str
) -> None:
    api.script([Fault.rate_limited(hint)])
    assert asking(api, base=0.5)().status_code == 200
    assert 0 <= sum(clock.slept) <= 0.5


def test_a_503_with_a_hint_is_not_tried_again_before_it(api: FaultyAPI, clock: FakeClock) -> None:
    api.script([Fault.status(503, {"Retry-After": "9"})])
    assert asking(api)().status_code == 200
    assert sum(clock.slept) >= 9


@pytest.mark.slow
def test_retry_after_1_takes_a_second_and_the_handlers_body_runs_once(api: FaultyAPI) -> None:
    bodies = []

    @pooled(base_url=api.base_url)
    @retry_ratelimit
    def handler(event: Any) -> Any:
        bodies.append(None)
        with requests.Session() as session:
            return session.post(api.base_url + "/chat/completions", json=QUESTION).json()

    api.script([Fault.rate_limited("retry-after", 1)])
    assert handler({})["object"] == "chat.completion"
    first, second = api.requests
    assert second.t - first.t >= 1.0
    assert len(bodies) == 1


async def test_an_async_function_is_not_tried_again_before_the_hint(clock: FakeClock) -> None:
    answers = [{"statusCode": 429, "headers": {"Retry-After": "7"}}, {"statusCode": 200}]

    @retry_ratelimit
    async def handler() -> dict[str, Any]:
        return answers.pop(0)

    assert await handler() == {"statusCode": 200}
    assert sum(clock.slept) >= 7


def test_a_hint_longer_than_the_user_waits_is_answered_at_once(api: FaultyAPI, clock: FakeClock) -> None:
    handler = asking(api, max_retry_after=60)
    api.script([Fault.rate_limited("retry-after", 61)])
    response: Any = handler()
    assert response.status_code == 429
    assert (response.resilience.why, response.resilience.retry_after) == ("hint", 61.0)
    assert clock.slept == []
    # Whoever comes next is not sent there before its time, either.
    with pytest.raises(RateLimited, match="exceeds max_retry_after"):
        handler()
    assert api.count() == 1


# ---- deadlines


def test_with_3_seconds_left_and_a_hint_of_10_the_answer_comes_at_once_and_says_so(
    api: FaultyAPI, clock: FakeClock
) -> None:
    api.script([Fault.rate_limited("retry-after", 10)])
    response: Any = asking(api)({}, LambdaContext(remaining=3))
    assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert response.resilience.why == "deadline"
    assert (response.resilience.attempts, response.resilience.retry_after) == (1, 10.0)
    assert (clock.slept, api.count()) == ([], 1)


def test_no_wait_is_begun_that_does_not_fit(clock: FakeClock) -> None:
    call, attempts = failing(10, attempts=10, deadline=5, wait=lambda state: 2.0)
    with pytest.raises(Odd) as caught:
        call()
    # At 0, 2 and 4 seconds; the next would begin at 6.
    assert len(attempts) == 3
    assert clock.slept == [2.0, 2.0]
    assert "another would not have ended by the deadline" in caught.value.__notes__[0]


@pytest.mark.parametrize(("queue", "waits"), [(1, 1), (3, 0)])
def test_the_deadline_holds_for_the_place_in_the_queue_too(clock: FakeClock, queue: int, waits: int) -> None:
    answers = [{"statusCode": 200}, {"statusCode": 429, "headers": {"Retry-After": "9.95"}}]

    @retry_ratelimit(name="api", deadline=10)
    def call() -> dict[str, Any]:
        return answers.pop()

    def others_queue_up(event: Any) -> None:
        for _ in range(queue):
            _retrying._gates["api", True].reserve()

    # Told of when the gate has closed, and before the call takes its own place.
    stop = resilience.listen(others_queue_up, events.RateLimited)
    call()
    stop()
    assert len(clock.slept) == waits
    assert all(wait < 10 for wait in clock.slept)


@pytest.mark.parametrize("deadline", [None, 4])
def test_the_shorter_of_both_deadlines_holds(api: FaultyAPI, clock: FakeClock, deadline: float | None) -> None:
    api.script([Fault.rate_limited("retry-after", 5)])
    response: Any = asking(api, deadline=deadline)({}, LambdaContext(remaining=20))
    assert response.status_code == (200 if deadline is None else 429)


async def test_an_async_function_that_hangs_ends_at_its_deadline() -> None:
    begun = []

    @retry_ratelimit(deadline=0.05)
    async def call() -> None:
        begun.append(None)
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match="the deadline passed while it ran") as caught:
        await call()
    assert isinstance(caught.value, TimeoutError)
    assert len(begun) == 1


async def test_an_async_function_that_hangs_speaks_against_its_dependency() -> None:
    @circuit_breaker(fail_max=1)
    @retry_ratelimit(deadline=0.05)
    async def call() -> None:
        await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded):
        await call()
    assert call.resilience.breaker.state == "open"


async def test_a_timeout_of_the_functions_own_is_not_taken_for_the_deadline() -> None:
    @retry_ratelimit(deadline=60)
    async def call() -> None:
        async with asyncio.timeout(0.001):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError) as caught:
        await call()
    assert not isinstance(caught.value, DeadlineExceeded)


# ---- other clients


@pytest.mark.parametrize("theirs", [openai.RateLimitError, openai.APIStatusError, RateLimited])
def test_openais_rate_limit_that_does_not_fit_is_both_errors(
    api: FaultyAPI, clock: FakeClock, theirs: type[Exception]
) -> None:
    client = openai.OpenAI(base_url=api.base_url, api_key=api.key, max_retries=0)

    @retry_ratelimit(deadline=5)
    def handler() -> Any:
        return client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])

    api.script([Fault.rate_limited("retry-after-ms", 12.5)])
    with pytest.raises(theirs) as caught:
        handler()
    error: Any = caught.value
    assert isinstance(error, openai.RateLimitError)
    assert isinstance(error, RateLimited)
    assert (error.retry_after, error.status_code, error.code) == (12.5, 429, "rate_limit_exceeded")
    assert error.dependency == handler.resilience.name
    assert error.response.headers["retry-after-ms"] == "12500"
    assert "Rate limit reached" in str(error)
    assert isinstance(error.__cause__, openai.RateLimitError)
    assert clock.slept == []
    client.close()


def test_openais_rate_limit_that_fits_is_waited_for(api: FaultyAPI, clock: FakeClock) -> None:
    client = openai.OpenAI(base_url=api.base_url, api_key=api.key, max_retries=0)

    @retry_ratelimit
    def handler() -> str:
        answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        return str(answer.choices[0].message.content)

    api.script([Fault.rate_limited("retry-after-ms", 12.5)])
    assert handler() == "You said: hi"
    assert sum(clock.slept) >= 12.5
    client.close()


def test_httpxs_rate_limit_that_does_not_fit_is_both_errors(api: FaultyAPI, clock: FakeClock) -> None:
    @retry_ratelimit(max_retry_after=5)
    def handler() -> Any:
        with httpx.Client() as client:
            return client.get(api.url + "/health").raise_for_status()

    api.script([Fault.rate_limited("retry-after", 30)])
    with pytest.raises(httpx.HTTPStatusError, match="429") as caught:
        handler()
    error: Any = caught.value
    assert isinstance(error, RateLimited)
    assert (error.retry_after, error.response.status_code) == (30.0, 429)
    assert error.request.url == api.url + "/health"
    assert "longer pause than max_retry_after" in error.__notes__[-1]


async def test_the_async_client_of_httpx_is_retried_as_a_call(api: FaultyAPI, clock: FakeClock) -> None:
    @retry_ratelimit
    async def handler() -> int:
        async with httpx.AsyncClient() as client:
            return (await client.get(api.url + "/health")).raise_for_status().status_code

    api.script([Fault.rate_limited("retry-after", 3), Fault.status(503)])
    assert await handler() == 200
    assert sum(clock.slept) >= 3
    assert api.count() == 3


# ---- what is tried again


@pytest.mark.parametrize("status", [502, 503, 504, 529])
def test_an_answer_that_nothing_was_done_is_tried_again_for_any_method(
    api: FaultyAPI, clock: FakeClock, status: int
) -> None:
    api.script([Fault.status(status)])
    assert asking(api)().status_code == 200


def test_a_500_to_a_post_is_tried_again_only_if_it_is_idempotent(api: FaultyAPI, clock: FakeClock) -> None:
    api.script([Fault.status(500)])
    response: Any = asking(api)()
    assert (response.status_code, response.resilience.why) == (500, "idempotency")
    api.script([Fault.status(500)])
    assert asking(api, idempotent=True)().status_code == 200


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_the_client_did_wrong_is_not_tried_again(api: FaultyAPI, clock: FakeClock, status: int) -> None:
    api.script([Fault.status(status)])
    response = asking(api)()
    assert (response.status_code, api.count()) == (status, 1)
    assert not hasattr(response, "resilience")


@pytest.mark.parametrize("fault", [Fault.quota_exhausted(), Fault.status(402, {"Retry-After": "1"})])
def test_money_that_is_spent_does_not_come_back_by_waiting(api: FaultyAPI, clock: FakeClock, fault: Fault) -> None:
    api.script([fault])
    assert asking(api)().status_code in (429, 402)
    assert (api.count(), clock.slept) == (1, [])


def test_the_provider_may_say_whether_to_try_again(api: FaultyAPI, clock: FakeClock) -> None:
    api.script([Fault.status(503, {"x-should-retry": "false"})])
    assert asking(api)().status_code == 503
    api.script([Fault.status(409, {"x-should-retry": "true"})])
    assert asking(api)().status_code == 200


def test_an_error_nobody_knows_is_tried_again_only_where_it_is_named(clock: FakeClock) -> None:
    call, attempts = failing(2)
    assert call() == "answer"
    assert len(attempts) == 3
    call, attempts = failing(1, error=ValueError)
    with pytest.raises(ValueError) as caught:
        call()
    assert len(attempts) == 1
    assert not hasattr(caught.value, "__notes__")


# ---- what may have been processed


@pytest.mark.parametrize("fault", [Fault.reset_after_reading(), Fault.eof_after_reading(), Fault.hang()])
@pytest.mark.parametrize("on", [(), requests.RequestException])
def test_a_post_that_may_have_been_processed_is_not_sent_twice(api: FaultyAPI, fault: Fault, on: Any) -> None:
    @pooled(base_url=api.base_url, timeout=(3, 0.2))
    @retry_ratelimit(base=0.001, on=on)
    def handler() -> Any:
        return requests.post(api.base_url + "/chat/completions", json=QUESTION)

    api.script([fault])
    with pytest.raises(requests.RequestException) as caught:
        handler()
    assert (api.processed, api.count()) == (1, 1)
    assert "it may have been processed and is not idempotent" in caught.value.__notes__[0]


@pytest.mark.parametrize("fault", [Fault.reset_after_reading(), Fault.eof_after_reading(), Fault.hang()])
def test_it_is_sent_again_where_the_user_says_that_it_may_be(api: FaultyAPI, fault: Fault) -> None:
    @pooled(base_url=api.base_url, timeout=(3, 0.2))
    @retry_ratelimit(base=0.001, idempotent=True)
    def handler() -> int:
        return requests.post(api.base_url + "/chat/completions", json=QUESTION).status_code

    api.script([fault])
    assert handler() == 200
    assert api.processed == 2


@pytest.mark.parametrize("header", [True, False])
def test_with_an_idempotency_key_it_is_sent_again_and_takes_effect_once(
    api: FaultyAPI, clock: FakeClock, header: bool
) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit
    @fresh_auth(provider=lambda: api.key, hosts="localhost", idempotency_key=not header)
    def handler() -> int:
        headers = {"Idempotency-Key": "order-1"} if header else {}
        return requests.post(api.base_url + "/chat/completions", json=QUESTION, headers=headers).status_code

    api.script([Fault.reset_after_reading()])
    assert handler() == 200
    assert (api.processed, api.replays) == (1, 1)
    first, second = api.requests
    assert first.idempotency_key == second.idempotency_key
    assert first.idempotency_key


def test_a_get_is_sent_again(api: FaultyAPI, clock: FakeClock) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit
    def handler() -> int:
        return requests.get(api.base_url + "/models").status_code

    api.script([Fault.reset_after_reading(), Fault.eof_after_reading()])
    assert handler() == 200
    assert api.count() == 3


def test_a_get_is_not_sent_again_where_the_user_says_that_it_has_an_effect(api: FaultyAPI, clock: FakeClock) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit(idempotent=False)
    def handler() -> int:
        return requests.get(api.base_url + "/models").status_code

    api.script([Fault.reset_after_reading()])
    with pytest.raises(requests.ConnectionError):
        handler()
    assert api.count() == 1


def test_a_post_that_never_left_is_sent_again(api: FaultyAPI, clock: FakeClock) -> None:
    api.script([Fault.tls_failure(), Fault.tls_failure()])

    @pooled(base_url=api.base_url, max_idle=1)
    @retry_ratelimit
    def handler() -> int:
        return requests.post(api.base_url + "/chat/completions", json=QUESTION).status_code

    assert handler() == 200
    assert (api.processed, api.injected["tls_failure"]) == (1, 2)


def test_a_body_that_can_t_be_sent_again_is_not(api: FaultyAPI, clock: FakeClock) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit
    def handler() -> Any:
        return requests.post(api.base_url + "/echo", data=(part for part in (b"a", b"b")))

    api.script([Fault.status(503)])
    response = handler()
    assert (response.status_code, response.resilience.why, api.count()) == (503, "body", 1)


def test_a_file_is_sent_again_from_where_it_stood(api: FaultyAPI, clock: FakeClock, tmp_path: Any) -> None:
    path = tmp_path / "body.txt"
    path.write_text("all of it")

    @pooled(base_url=api.base_url)
    @retry_ratelimit
    def handler() -> Any:
        with path.open("rb") as file:
            return requests.post(api.base_url + "/echo", data=file).json()

    api.script([Fault.status(503)])
    assert handler()["body"] == "all of it"


# ---- guard once, and scope


def test_the_handler_is_not_run_again_because_its_second_request_failed(api: FaultyAPI, clock: FakeClock) -> None:
    bodies = []

    @pooled(base_url=api.base_url)
    @retry_ratelimit(attempts=2)
    def handler() -> None:
        bodies.append(None)
        requests.get(api.base_url + "/models").raise_for_status()
        requests.get(api.base_url + "/echo").raise_for_status()

    api.script([Fault.status(503), Fault.status(200), Fault.status(503), Fault.status(503)])
    with pytest.raises(requests.HTTPError) as caught:
        handler()
    assert (len(bodies), api.count()) == (1, 4)
    assert caught.value.response.resilience.why == "attempts"


@pytest.mark.parametrize("outer_breaker", [False, True])
def test_the_call_scope_runs_the_handler_again(api: FaultyAPI, clock: FakeClock, outer_breaker: bool) -> None:
    bodies = []

    def handler() -> None:
        bodies.append(None)
        requests.get(api.base_url + "/models").raise_for_status()

    guarded = retry_ratelimit(scope="call")(pooled(handler))
    if outer_breaker:
        # A guard of requests marks what it has seen, which is no matter to a guard of calls.
        guarded = circuit_breaker(guarded)
    api.script([Fault.status(503), Fault.status(429)])
    guarded()
    assert (len(bodies), api.count()) == (3, 3)


def test_the_call_scope_judges_what_the_handler_returns(api: FaultyAPI, clock: FakeClock) -> None:
    @circuit_breaker
    @retry_ratelimit(scope="call")
    @pooled
    def handler() -> dict[str, int]:
        return {"statusCode": requests.get(api.base_url + "/models").status_code}

    api.script([Fault.status(503)])
    assert handler() == {"statusCode": 200}
    assert api.count() == 2


def test_the_request_scope_leaves_the_call_alone(api: FaultyAPI, clock: FakeClock) -> None:
    bodies = []

    @retry_ratelimit(scope="request", on=Odd)
    @pooled
    def handler() -> None:
        bodies.append(None)
        raise Odd

    with pytest.raises(Odd):
        handler()
    assert len(bodies) == 1


# ---- what it says


def test_the_last_error_says_how_often_how_long_and_why(clock: FakeClock) -> None:
    call, _ = failing(9, attempts=3, wait=lambda state: 1.5)
    with pytest.raises(Odd) as caught:
        call()
    assert caught.value.__notes__ == [
        f"resilience: gave up on {call.resilience.name} after attempt 3 (unknown {label(caught.value)}), 3.0 s waited:"
        " that was the last attempt"
    ]


def test_the_last_response_says_how_often_how_long_and_why(api: FaultyAPI, clock: FakeClock) -> None:
    api.script([Fault.status(503)] * 3)
    response: Any = asking(api, attempts=3, wait=lambda state: 1.5)()
    assert response.resilience == ("attempts", 3, 3.0, None)


def test_one_attempt_is_no_retry(clock: FakeClock) -> None:
    call, attempts = failing(1, attempts=1)
    with pytest.raises(Odd):
        call()
    assert len(attempts) == 1


def test_the_events_of_a_retried_request_come_in_order(api: FaultyAPI, clock: FakeClock) -> None:
    heard: list[Any] = []
    stop = resilience.listen(
        heard.append,
        *(events.AttemptFailed, events.RateLimited, events.RetryScheduled, events.RetryGivenUp, events.CallFinished),
    )
    api.script([Fault.rate_limited("retry-after", 4), Fault.status(503), Fault.status(500)])
    handler = asking(api, wait=lambda state: 1.0)
    handler()
    stop()
    where = api.url
    assert heard == [
        events.AttemptFailed(where, 1, "rate_limited", 429, None),
        events.RateLimited(where, 4.0),
        events.RetryScheduled(where, 1, 4.0, 4.0, "rate_limited"),
        events.AttemptFailed(where, 2, "server_error", 503, None),
        events.RetryScheduled(where, 2, 1.0, None, "server_error"),
        events.AttemptFailed(where, 3, "server_error", 500, None),
        events.RetryGivenUp(where, 3, 5.0, "idempotency", "server_error"),
        events.CallFinished(
            name=handler.resilience.name,
            platform="plain",
            request_id=None,
            cold=heard[-1].cold,
            meaning="ok",
            ms=5000.0,
            attempts=1,
            requests=1,
        ),
    ]


def test_a_circuit_that_opens_meanwhile_does_not_hide_what_happened(api: FaultyAPI, clock: FakeClock) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit
    @circuit_breaker(fail_max=2)
    def handler() -> Any:
        return requests.get(api.base_url + "/models")

    api.script([Fault.status(503), Fault.status(502, body="the news")])
    response = handler()
    assert (response.status_code, response.text, response.resilience.why) == (502, "the news", "circuit")


# ---- errors that are set in their ways


@dataclasses.dataclass(frozen=True)
class Frozen(ConnectionRefusedError):
    """Refuses every attribute, a note's too."""

    status_code: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class Noted(ConnectionRefusedError):
    """Has something else where its notes would be."""

    __notes__ = "none"


@pytest.mark.parametrize("error", [Frozen(), Frozen(429, {"Retry-After": "3600"}), Noted()])
def test_an_error_that_takes_no_note_is_raised_as_it_is(clock: FakeClock, error: Exception) -> None:
    @circuit_breaker
    @retry_ratelimit
    def call() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        call()
    assert error in (raised.value, raised.value.__cause__)
