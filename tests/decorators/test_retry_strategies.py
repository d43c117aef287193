"""tenacity's own strategies in `@retry_ratelimit(wait=, stop=, retry=)`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import requests
import tenacity

from resilience import pooled, retry_ratelimit
from resilience.testing import FakeClock, Fault, FaultyAPI


class Odd(Exception):
    """An error that nothing is known of."""


def failing(times: int, **settings: Any) -> tuple[Callable[[], str], list[None]]:
    """A function that fails so often, and the list of its attempts."""
    attempts: list[None] = []

    @retry_ratelimit(**{"on": Odd, **settings})
    def call() -> str:
        attempts.append(None)
        if len(attempts) <= times:
            raise Odd("odd")
        return "answer"

    return call, attempts


@pytest.mark.parametrize(
    ("wait", "waits"),
    [
        (tenacity.wait_fixed(3), [3, 3, 3]),
        (tenacity.wait_fixed(timedelta(minutes=1)), [60, 60, 60]),
        (tenacity.wait_incrementing(start=1, increment=2), [1, 3, 5]),
        (tenacity.wait_exponential(multiplier=1, max=3), [1, 2, 3]),
        (tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(9)), [1, 9, 9]),
        (tenacity.wait_fixed(1) + tenacity.wait_fixed(2), [3, 3, 3]),
        (tenacity.wait_none(), [0, 0, 0]),
    ],
)
def test_wait(clock: FakeClock, wait: Any, waits: list[float]) -> None:
    call, _ = failing(3, wait=wait)
    assert call() == "answer"
    assert clock.slept == waits


def test_a_wait_shorter_than_the_hint_is_not_believed(api: FaultyAPI, clock: FakeClock) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit(wait=tenacity.wait_fixed(1))
    def handler() -> int:
        return requests.get(api.base_url + "/models").status_code

    api.script([Fault.rate_limited("retry-after", 8), Fault.status(503)])
    assert handler() == 200
    assert clock.slept == [8.0, 1.0]


def test_the_default_is_exponential_with_full_jitter(clock: FakeClock) -> None:
    seen: list[list[float]] = []
    for _ in range(20):
        clock.slept.clear()
        call, _ = failing(5, attempts=6, base=1.0, max_wait=4.0, budget=None)
        call()
        seen.append(list(clock.slept))
    for n, most in enumerate((1, 2, 4, 4, 4)):
        assert all(0 <= waits[n] <= most for waits in seen)
        assert len({waits[n] for waits in seen}) > 1


def test_stop_after_attempt(clock: FakeClock) -> None:
    call, attempts = failing(9, stop=tenacity.stop_after_attempt(6))
    with pytest.raises(Odd):
        call()
    # In place of attempts=4.
    assert len(attempts) == 6


def test_the_clock_of_stop_after_delay_starts_with_the_first_attempt(clock: FakeClock) -> None:
    attempts = []

    @retry_ratelimit(on=Odd, stop=tenacity.stop_after_delay(8), wait=tenacity.wait_fixed(1))
    def call() -> None:
        attempts.append(None)
        clock.advance(4)
        raise Odd

    with pytest.raises(Odd):
        call()
    # They end after 4 and 9 seconds.
    assert len(attempts) == 2


def test_stop_before_delay_looks_at_the_wait_that_would_follow(clock: FakeClock) -> None:
    call, attempts = failing(9, stop=tenacity.stop_before_delay(5), wait=tenacity.wait_fixed(2))
    with pytest.raises(Odd):
        call()
    assert len(attempts) == 3
    assert clock.slept == [2, 2]


def test_stop_when_event_set(clock: FakeClock) -> None:
    enough = threading.Event()
    enough.set()
    call, attempts = failing(9, stop=tenacity.stop_when_event_set(enough) | tenacity.stop_after_attempt(3))
    with pytest.raises(Odd):
        call()
    assert len(attempts) == 1


def test_retry_if_result(clock: FakeClock) -> None:
    results = [None, None, "answer"]

    @retry_ratelimit(retry=tenacity.retry_if_result(lambda result: result is None))
    def call() -> str | None:
        return results.pop(0)

    assert call() == "answer"


async def test_retry_if_result_of_an_async_function(clock: FakeClock) -> None:
    results = [None, None, "answer"]

    @retry_ratelimit(retry=tenacity.retry_if_result(lambda result: result is None))
    async def call() -> str | None:
        return results.pop(0)

    assert await call() == "answer"


def test_the_last_result_is_returned_where_none_is_wanted(clock: FakeClock) -> None:
    @retry_ratelimit(attempts=3, retry=tenacity.retry_if_result(lambda result: result is None))
    def call() -> None:
        return None

    assert call() is None
    assert len(clock.slept) == 2


@pytest.mark.parametrize(
    ("retry", "attempts"),
    [
        (tenacity.retry_if_exception_type(Odd), 3),
        (tenacity.retry_if_exception_type(ValueError), 1),
        (tenacity.retry_if_not_exception_type(ValueError), 3),
        (tenacity.retry_if_exception_message(match="odd"), 3),
        (tenacity.retry_if_exception(lambda error: isinstance(error, LookupError)), 1),
        (tenacity.retry_if_exception_type(ValueError) | tenacity.retry_if_exception_type(Odd), 3),
        (tenacity.retry_never, 1),
    ],
)
def test_retry_decides_alone(clock: FakeClock, retry: Any, attempts: int) -> None:
    call, made = failing(9, retry=retry, attempts=3, on=())
    with pytest.raises(Odd):
        call()
    assert len(made) == attempts


def test_retry_is_asked_of_responses_where_requests_are_guarded_and_of_nothing_twice(
    api: FaultyAPI, clock: FakeClock
) -> None:
    asked: list[Any] = []

    def is_404(result: requests.Response) -> bool:
        asked.append(result)
        return result.status_code == 404

    @pooled(base_url=api.base_url)
    @retry_ratelimit(retry=tenacity.retry_if_result(is_404))
    def handler() -> dict[str, Any]:
        return {"statusCode": requests.get(api.base_url + "/models").status_code}

    api.script([Fault.status(404)])
    assert handler() == {"statusCode": 200}
    assert [r.status_code for r in asked] == [404, 200]


def test_a_strategy_of_the_users_that_raises_reaches_the_caller(clock: FakeClock) -> None:
    def broken(state: Any) -> float:
        raise ZeroDivisionError

    call, _ = failing(1, wait=broken)
    with pytest.raises(ZeroDivisionError):
        call()


def test_a_strategy_sees_what_tenacity_would_show_it(clock: FakeClock) -> None:
    seen: list[Any] = []

    def wait(state: tenacity.RetryCallState) -> float:
        assert state.outcome is not None
        seen.append((state.attempt_number, state.idle_for, type(state.outcome.exception()), state.outcome.failed))
        return 1.5

    call, _ = failing(2, wait=wait)
    call()
    assert seen == [(1, 0.0, Odd, True), (2, 1.5, Odd, True)]


def test_strategies_are_shared_by_threads(clock: FakeClock) -> None:
    local = threading.local()
    ends: list[Any] = []

    @retry_ratelimit(
        on=Odd,
        budget=None,
        wait=tenacity.wait_fixed(0.1) + tenacity.wait_random(0, 0.1),
        stop=tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(1e9),
        retry=tenacity.retry_if_exception_type(Odd),
    )
    def call(n: int) -> tuple[int, int]:
        local.tries = getattr(local, "tries", 0) + 1
        if local.tries % 3:
            raise Odd
        return n, local.tries

    def work(n: int) -> None:
        try:
            mine = [call(n) for _ in range(50)]
            ends.extend(mine)
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(ends) == sorted((n, 3 * (i + 1)) for n in range(16) for i in range(50))
