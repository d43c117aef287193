"""What the callers of one dependency share: the retry budget, the rate gate, and a quota of one's own."""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

import resilience
from resilience import ConfigurationError, RateLimited, pooled, retry_ratelimit
from resilience.core import events
from resilience.core.clock import CLOCK
from resilience.testing import FakeClock, Fault, FaultyAPI


class Odd(Exception):
    """An error that nothing is known of."""


class HeldClock(FakeClock):
    """Time goes only by hand, and who sleeps is held until then."""

    def __init__(self) -> None:
        super().__init__()
        self._moved = threading.Condition()
        self.asleep: list[float] = []

    def sleep(self, seconds: float) -> None:
        with self._moved:
            until = self.monotonic() + seconds
            self.asleep.append(until)
            self._moved.notify_all()
            assert self._moved.wait_for(lambda: self.monotonic() >= until, timeout=30)
            self.asleep.remove(until)
            self._moved.notify_all()

    def move(self, seconds: float) -> None:
        with self._moved:
            self.advance(seconds)
            self._moved.notify_all()

    def wait_for_sleepers(self, count: int) -> None:
        """Until so many sleep, none of them past its time."""
        with self._moved:
            settled = self._moved.wait_for(
                lambda: len(self.asleep) == count and all(t > self.monotonic() for t in self.asleep), timeout=30
            )
            assert settled, f"{len(self.asleep)} asleep"


@pytest.fixture
def held() -> Iterator[HeldClock]:
    with HeldClock() as clock:
        yield clock


def start(count: int, fn: Callable[[], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=fn, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


# ---- the budget


def outage(api: FaultyAPI, calls: int, **settings: Any) -> float:
    """Requests per call."""

    @pooled(base_url=api.base_url)
    @retry_ratelimit(**settings)
    def handler() -> requests.Response:
        return requests.get(api.base_url + "/models")

    api.outage("503")
    for _ in range(calls):
        assert handler().status_code == 503
    return api.count() / calls


def test_an_outage_is_sent_at_most_1_2_requests_a_call(api: FaultyAPI, clock: FakeClock) -> None:
    assert outage(api, 500) <= 1.2


@pytest.mark.parametrize("attempts", [2, 10])
def test_within_a_minute_that_holds_for_any_number_of_attempts(
    api: FaultyAPI, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, attempts: int
) -> None:
    # As if the calls were made side by side, so that their waits do not add up.
    monkeypatch.setattr(CLOCK, "sleep", lambda seconds: None)
    assert outage(api, 500, attempts=attempts) <= 1.2


def test_many_functions_that_ask_one_host_share_its_budget(
    api: FaultyAPI, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CLOCK, "sleep", lambda seconds: None)
    for _ in range(10):
        outage(api, 10, attempts=10)
    # The floor of 20 in all, and not for each.
    assert api.count() == 100 + 20


def test_a_spent_budget_says_so(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CLOCK, "sleep", lambda seconds: None)
    heard: list[Any] = []
    stop = resilience.listen(heard.append, events.RetryGivenUp)

    @retry_ratelimit(on=Odd, attempts=30)
    def call() -> None:
        raise Odd

    with pytest.raises(Odd) as caught:
        call()
    stop()
    assert "after attempt 21" in caught.value.__notes__[0]
    assert "the retry budget is spent" in caught.value.__notes__[0]
    assert [e.why for e in heard] == ["budget"]


def test_a_budget_of_none_is_no_budget(clock: FakeClock) -> None:
    attempts = []

    @retry_ratelimit(on=Odd, attempts=100, budget=None)
    def call() -> None:
        attempts.append(None)
        raise Odd

    with pytest.raises(Odd):
        call()
    assert len(attempts) == 100


def test_the_budget_is_whole_again_after_a_minute(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CLOCK, "sleep", lambda seconds: None)
    attempts = []

    @retry_ratelimit(on=Odd, attempts=30)
    def call() -> None:
        attempts.append(None)
        raise Odd

    for _ in range(2):
        with pytest.raises(Odd):
            call()
        clock.advance(61)
    assert len(attempts) == 2 * 21


# ---- the rate gate


def test_after_a_hint_nobody_goes_before_its_time_and_all_are_released_spread_out(held: HeldClock) -> None:
    times: list[float] = []

    @retry_ratelimit
    def handler() -> dict[str, Any]:
        times.append(held.monotonic())
        if len(times) == 1:
            return {"statusCode": 429, "headers": {"Retry-After": "10"}}
        return {"statusCode": 200}

    begun = held.monotonic()
    threads = start(1, handler)
    held.wait_for_sleepers(1)
    threads += start(15, handler)
    held.wait_for_sleepers(16)
    releases = sorted(held.asleep)
    assert releases[0] == begun + 10
    assert all(later - sooner > 0.01 for sooner, later in itertools.pairwise(releases))
    held.move(9.99)
    held.wait_for_sleepers(16)
    assert len(times) == 1
    held.move(10)
    join(threads)
    assert len(times) == 17
    assert all(t >= begun + 10 for t in times[1:])


def test_without_smoothing_they_go_within_a_tenth_of_the_hint(held: HeldClock) -> None:
    calls: list[None] = []

    @retry_ratelimit(smooth=False)
    def handler() -> dict[str, Any]:
        calls.append(None)
        return {"statusCode": 429 if len(calls) == 1 else 200, "headers": {"Retry-After": "10"}}

    begun = held.monotonic()
    threads = start(1, handler)
    held.wait_for_sleepers(1)
    threads += start(15, handler)
    held.wait_for_sleepers(16)
    assert all(begun + 10 <= until <= begun + 11 for until in held.asleep)
    held.move(11)
    join(threads)


def test_of_two_hints_the_later_holds_for_those_who_wait_already(held: HeldClock) -> None:
    times: list[float] = []
    inside, go_on = threading.Event(), threading.Event()

    @retry_ratelimit(name="api")
    def slow() -> dict[str, Any]:
        if not inside.is_set():
            inside.set()
            assert go_on.wait(30)
            return {"statusCode": 429, "headers": {"Retry-After": "30"}}
        times.append(held.monotonic())
        return {"statusCode": 200}

    @retry_ratelimit(name="api")
    def handler() -> dict[str, Any]:
        times.append(held.monotonic())
        return {"statusCode": 429 if len(times) == 1 else 200, "headers": {"Retry-After": "10"}}

    begun = held.monotonic()
    threads = start(1, slow)
    assert inside.wait(30)
    threads += start(1, handler)
    held.wait_for_sleepers(1)
    threads += start(4, handler)
    held.wait_for_sleepers(5)
    held.move(5)
    # The answer to a request made before the first hint was known.
    go_on.set()
    held.wait_for_sleepers(6)
    held.move(6)
    # Those who waited for the first hint wake, and wait for the second.
    held.wait_for_sleepers(6)
    assert times == [begun]
    held.move(60)
    join(threads)
    assert len(times) == 7
    assert all(t >= begun + 35 for t in times[1:])


async def test_tasks_wait_at_the_gate_too(clock: FakeClock) -> None:
    times: list[float] = []

    @retry_ratelimit
    async def handler() -> dict[str, Any]:
        times.append(clock.monotonic())
        return {"statusCode": 429 if len(times) == 1 else 200, "headers": {"Retry-After": "10"}}

    begun = clock.monotonic()
    answers = await asyncio.gather(*(handler() for _ in range(20)))
    assert [a["statusCode"] for a in answers] == [200] * 20
    assert all(t >= begun + 10 for t in times[1:])


def test_who_can_t_wait_for_the_gate_is_told_at_once(held: HeldClock) -> None:
    calls: list[None] = []

    def body() -> dict[str, Any]:
        calls.append(None)
        return {"statusCode": 429 if len(calls) == 1 else 200, "headers": {"Retry-After": "10"}}

    threads = start(1, retry_ratelimit(name="api")(body))
    held.wait_for_sleepers(1)
    with pytest.raises(RateLimited, match=r"api, asks for 10\.0 s; its rate limit ends after the deadline") as caught:
        retry_ratelimit(name="api", deadline=3)(body)()
    assert (caught.value.dependency, caught.value.retry_after) == ("api", 10.0)
    held.move(10)
    join(threads)


def test_a_request_that_can_t_wait_for_the_gate_raises_what_requests_users_catch(
    api: FaultyAPI, clock: FakeClock
) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit(deadline=5)
    def handler() -> Any:
        return requests.get(api.base_url + "/models")

    api.script([Fault.rate_limited("retry-after", 20)])
    assert handler().status_code == 429
    with pytest.raises(requests.RequestException) as caught:
        handler()
    assert isinstance(caught.value, RateLimited)
    assert api.count() == 1


@pytest.mark.slow
def test_everybody_gets_through_a_limit_that_holds(api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit(attempts=50, budget=None)
    def handler() -> int:
        return requests.get(api.base_url + "/models").status_code

    api.limit(10, per=0.2, hint="retry-after-ms")
    statuses: list[int] = []
    join(start(20, lambda: statuses.append(handler())))
    assert statuses == [200] * 20


# ---- a quota of one's own


@pytest.fixture
def ticking(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """`limits` reads the wall clock by itself."""
    monkeypatch.setattr(time, "time", clock.wall)
    return clock


def test_a_quota_of_ones_own_spreads_calls(ticking: FakeClock) -> None:
    times: list[float] = []

    @retry_ratelimit(limit="5/second")
    def call() -> None:
        times.append(ticking.wall())

    for _ in range(23):
        call()
    assert all(times[n + 5] - times[n] >= 0.99 for n in range(len(times) - 5))
    assert times[-1] - times[0] == pytest.approx(4, abs=0.2)


async def test_a_quota_holds_for_async_functions_and_retries(ticking: FakeClock) -> None:
    times: list[float] = []

    @retry_ratelimit(limit="2/minute", on=Odd, base=0.0)
    async def call() -> None:
        times.append(ticking.wall())
        if len(times) < 4:
            raise Odd

    await call()
    assert len(times) == 4
    assert times[2] - times[0] >= 59


def test_a_quota_that_ends_after_the_deadline_is_told_at_once(ticking: FakeClock) -> None:
    @retry_ratelimit(limit="1/minute", deadline=5, name="api")
    def call() -> str:
        return "answer"

    assert call() == "answer"
    with pytest.raises(RateLimited, match="limit='1/minute' ends after the deadline") as caught:
        call()
    assert caught.value.retry_after == pytest.approx(60, abs=1)
    assert ticking.slept == []


def test_two_functions_share_a_quota_by_name(ticking: FakeClock) -> None:
    settings: dict[str, Any] = {"limit": "1/hour", "name": "api"}
    assert retry_ratelimit(**settings)(lambda: "answer")() == "answer"
    with pytest.raises(RateLimited, match="exceeds max_retry_after"):
        retry_ratelimit(**settings)(lambda: "answer")()


def test_without_the_library_a_quota_is_an_error_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "limits", None)
    with pytest.raises(ConfigurationError) as caught:
        retry_ratelimit(limit="5/second")
    message = "retry_ratelimit: limit='5/second' needs the library limits: pip install 'serverless-resilience[limits]'"
    assert str(caught.value) == message
