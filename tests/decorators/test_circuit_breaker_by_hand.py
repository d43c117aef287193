"""What a user brings to `@circuit_breaker` (pybreaker's storages, listeners and breakers), and does to it by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pybreaker
import pytest
import requests

import resilience
from resilience import CircuitOpen, ConfigurationError, circuit_breaker, pooled, retry_ratelimit
from resilience.core import events
from resilience.testing import FakeClock, Fault, FaultyAPI


class Down(Exception):
    """What the function's dependency raises."""


class Neutral(Exception):
    """What the user's own breaker excludes."""


def fail(fn: Any, times: int, error: type[Exception] = Down) -> None:
    for _ in range(times):
        with pytest.raises(error):
            fn(error)


def raising(error: type[Exception] | None = None) -> str:
    if error is not None:
        raise error
    return "answer"


class Recorder(pybreaker.CircuitBreakerListener):
    def __init__(self) -> None:
        self.heard: list[Any] = []

    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        self.heard.append("before")

    def success(self, cb: Any) -> None:
        self.heard.append("success")

    def failure(self, cb: Any, exc: BaseException) -> None:
        self.heard.append(type(exc).__name__)

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        self.heard.append((old_state.name, new_state.name))


class DictStorage(pybreaker.CircuitBreakerStorage):
    """A storage as a user might write one, over a dict that could be a database."""

    def __init__(self, rows: dict[str, Any]) -> None:
        super().__init__("dict")
        self.rows = {} if rows is None else rows
        for key, value in {"state": "closed", "fails": 0, "successes": 0, "opened": None}.items():
            self.rows.setdefault(key, value)

    @property
    def state(self) -> str:
        return str(self.rows["state"])

    @state.setter
    def state(self, state: str) -> None:
        self.rows["state"] = state

    def increment_counter(self) -> None:
        self.rows["fails"] += 1

    def reset_counter(self) -> None:
        self.rows["fails"] = 0

    def increment_success_counter(self) -> None:
        self.rows["successes"] += 1

    def reset_success_counter(self) -> None:
        self.rows["successes"] = 0

    @property
    def counter(self) -> int:
        return int(self.rows["fails"])

    @property
    def success_counter(self) -> int:
        return int(self.rows["successes"])

    @property
    def opened_at(self) -> datetime | None:
        opened: datetime | None = self.rows["opened"]
        return opened

    @opened_at.setter
    def opened_at(self, when: datetime) -> None:
        self.rows["opened"] = when


# ---- listeners


def test_a_listener_hears_what_pybreaker_would_have_told_it(clock: FakeClock) -> None:
    recorder = Recorder()
    call = circuit_breaker(fail_max=2, listeners=(recorder,))(raising)
    call()
    fail(call, 2)
    clock.advance(30)
    call()
    assert recorder.heard == [
        *("before", "success"),
        *("before", "Down"),
        *("before", "Down", ("closed", "open")),
        *(("open", "half-open"), "before", ("half-open", "closed"), "success"),
    ]


async def test_a_listener_hears_of_async_calls_too() -> None:
    recorder = Recorder()

    @circuit_breaker(fail_max=1, listeners=[recorder])
    async def call() -> None:
        raise Down

    with pytest.raises(Down):
        await call()
    assert recorder.heard == ["before", "Down", ("closed", "open")]


def test_a_listener_that_raises_changes_nothing_for_the_caller() -> None:
    class Broken(Recorder):
        def state_change(self, *_: Any) -> None:
            raise RuntimeError("broken listener")

        success = failure = before_call = state_change

    call = circuit_breaker(fail_max=1, listeners=(Broken(),))(raising)
    assert call() == "answer"
    fail(call, 1)
    with pytest.raises(CircuitOpen):
        call()


# ---- storages


def test_a_memory_storage_of_pybreaker_is_the_source_of_truth(clock: FakeClock) -> None:
    storage = pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED)
    call = circuit_breaker(fail_max=2, store=storage)(raising)
    fail(call, 1)
    assert storage.counter == 1
    fail(call, 1)
    assert storage.state == "open"
    with pytest.raises(CircuitOpen):
        call()
    clock.advance(30)
    assert call() == "answer"
    assert (storage.state, storage.counter) == ("closed", 0)


def test_a_storage_that_says_open_turns_calls_away() -> None:
    call = circuit_breaker(store=pybreaker.CircuitMemoryStorage(pybreaker.STATE_OPEN), reset_timeout=30)(raising)
    # pybreaker's memory does not say when it was opened: long ago, so that this one is a probe.
    assert call() == "answer"


def test_two_functions_share_a_circuit_by_a_storage_of_the_users(clock: FakeClock) -> None:
    rows: dict[str, Any] = {}
    first = circuit_breaker(fail_max=2, store=DictStorage(rows))(raising)
    second = circuit_breaker(fail_max=2, store=DictStorage(rows))(raising)
    fail(first, 1)
    fail(second, 1)
    assert rows["state"] == "open"
    for call in (first, second):
        with pytest.raises(CircuitOpen):
            call()
    clock.advance(30)
    assert second() == "answer"
    assert first() == "answer"
    assert rows["state"] == "closed"


def test_a_storage_that_fails_is_replaced_by_memory() -> None:
    class Away(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise ConnectionError("the database is away")

        __setitem__ = __getitem__  # type: ignore[assignment]

    call = circuit_breaker(fail_max=2, store=DictStorage(Away()))(raising)
    assert call() == "answer"
    fail(call, 2)
    with pytest.raises(CircuitOpen):
        call()


def test_a_storage_without_a_hash_will_do() -> None:
    @dataclass
    class Row(pybreaker.CircuitMemoryStorage):
        # Dataclasses compare by value, and so have no hash.
        table: str = "circuits"

        def __post_init__(self) -> None:
            super().__init__(pybreaker.STATE_CLOSED)

    @circuit_breaker(name="billing", fail_max=1, store=Row(), listeners=[])
    def call(error: type[Exception] | None = None) -> str:
        return raising(error)

    assert call() == "answer"
    fail(call, 1)
    with pytest.raises(CircuitOpen):
        call()


# ---- a breaker of the user's


def test_a_breaker_of_pybreaker_lends_its_limits_and_its_exclusions(clock: FakeClock) -> None:
    recorder = Recorder()
    theirs = pybreaker.CircuitBreaker(
        fail_max=2, reset_timeout=7, exclude=[Neutral], listeners=[recorder], name="ledger"
    )
    call = circuit_breaker(breaker=theirs)(raising)
    fail(call, 1)
    fail(call, 3, Neutral)
    assert theirs.current_state == "closed"
    fail(call, 1)
    assert theirs.current_state == "open"
    assert ("closed", "open") in recorder.heard
    with pytest.raises(pybreaker.CircuitBreakerError) as caught:
        call()
    assert isinstance(caught.value, CircuitOpen)
    assert (caught.value.dependency, caught.value.retry_after) == ("ledger", 7.0)
    clock.advance(7)
    assert call() == "answer"
    assert theirs.current_state == "closed"


def test_a_hand_on_the_users_breaker_is_followed() -> None:
    theirs = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=60)
    call = circuit_breaker(breaker=theirs)(raising)
    assert call() == "answer"
    theirs.open()
    with pytest.raises(CircuitOpen):
        call()
    theirs.close()
    assert call() == "answer"


@pytest.mark.parametrize("brought", ["store", "breaker"])
def test_with_a_pool_it_is_the_circuit_of_the_requests_and_not_of_the_call(api: FaultyAPI, brought: str) -> None:
    theirs: dict[str, Any] = {
        "store": pybreaker.CircuitMemoryStorage(pybreaker.STATE_CLOSED),
        "breaker": pybreaker.CircuitBreaker(fail_max=2),
    }
    bodies = []

    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=2, **{brought: theirs[brought]})
    def handler() -> str:
        bodies.append(None)
        try:
            return str(requests.get(api.url + "/health").status_code)
        except requests.ConnectionError:
            return "degraded"

    api.script([Fault.status(503)] * 2)
    # The handler goes well each time, which says nothing of what it asked.
    assert [handler() for _ in range(3)] == ["503", "503", "degraded"]
    assert (len(bodies), api.count()) == (3, 2)


# ---- by hand


def test_the_circuit_of_a_function_obeys_the_hand(clock: FakeClock) -> None:
    call = circuit_breaker(reset_timeout=30)(raising)
    breaker = call.resilience.breaker
    assert breaker.state == "closed"
    breaker.open()
    assert breaker.state == "open"
    with pytest.raises(CircuitOpen):
        call()
    breaker.half_open()
    assert breaker.state == "half-open"
    assert call() == "answer"
    assert breaker.state == "closed"
    breaker.isolate()
    clock.advance(86_400)
    with pytest.raises(CircuitOpen, match="isolated by hand") as caught:
        call()
    assert caught.value.retry_after is None
    breaker.close()
    assert call() == "answer"
    assert repr(breaker) == f"<breakers {call.resilience.name}: closed>"


def test_the_breaker_of_one_dependency_can_be_named(api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker
    def handler() -> int:
        return requests.get(api.url + "/health").status_code

    handler.resilience.breaker[api.url].isolate()
    with pytest.raises(requests.ConnectionError):
        handler()
    handler.resilience.breaker[api.url].close()
    assert handler() == 200
    with pytest.raises(KeyError, match=api.url):
        handler.resilience.breaker["https://elsewhere.example:443"]


def test_opening_by_hand_means_the_requests_and_not_the_functions_body(api: FaultyAPI) -> None:
    bodies = []

    @pooled(base_url=api.base_url)
    @circuit_breaker
    def handler() -> str:
        bodies.append(None)
        try:
            return str(requests.get(api.url + "/health").status_code)
        except requests.ConnectionError:
            return "degraded"

    assert handler() == "200"
    handler.resilience.breaker.open()
    assert handler() == "degraded"
    assert (len(bodies), api.count()) == (2, 1)


def test_a_function_without_a_breaker_says_so() -> None:
    with pytest.raises(LookupError, match="has no @circuit_breaker"):
        _ = retry_ratelimit(raising).resilience.breaker


def test_two_breakers_on_one_function_need_names() -> None:
    with pytest.raises(
        ConfigurationError, match=r"@circuit_breaker stands twice on .*raising: give each a name= of its"
    ):
        circuit_breaker(circuit_breaker(raising))
    with pytest.raises(ConfigurationError, match="under the name 'a'"):
        circuit_breaker(name="a")(circuit_breaker(name="a")(raising))


def test_two_breakers_on_one_function_count_apart_and_can_both_be_reached() -> None:
    @circuit_breaker(name="strict", fail_max=1, counts=Down)
    @circuit_breaker(name="lenient", fail_max=3)
    def call(error: type[Exception] | None = None) -> str:
        return raising(error)

    breaker = call.resilience.breaker
    fail(call, 2, Neutral)
    assert (breaker["strict"].state, breaker["lenient"].state) == ("closed", "closed")
    fail(call, 1)
    assert (breaker["strict"].state, breaker["lenient"].state) == ("open", "open")
    breaker["lenient"].close()
    with pytest.raises(CircuitOpen) as caught:
        call()
    assert caught.value.dependency == "strict"
    breaker.close()
    assert {b.dependency: b.state for b in breaker} == {"strict": "closed", "lenient": "closed"}
    assert call() == "answer"


def test_functions_that_name_the_same_dependency_share_its_breaker() -> None:
    first = circuit_breaker(name="billing", fail_max=1)(raising)
    second = circuit_breaker(name="billing", fail_max=1)(raising)
    fail(first, 1)
    with pytest.raises(CircuitOpen):
        second()


def test_functions_without_a_name_have_breakers_of_their_own() -> None:
    first, second = circuit_breaker(fail_max=1)(raising), circuit_breaker(fail_max=1)(raising)
    fail(first, 1)
    assert second() == "answer"


# ---- events


def test_changes_and_rejections_are_told(api: FaultyAPI, clock: FakeClock) -> None:
    @pooled(base_url=api.base_url)
    @circuit_breaker(fail_max=1)
    def handler() -> int:
        return requests.get(api.url + "/health").status_code

    heard: list[Any] = []
    stop = resilience.listen(heard.append, events.CircuitChanged, events.CircuitRejected)
    api.script([Fault.status(503)])
    handler()
    with pytest.raises(CircuitOpen):
        handler()
    clock.advance(30)
    handler()
    stop()
    assert heard == [
        events.CircuitChanged(api.url, "closed", "open"),
        events.CircuitRejected(api.url, 30.0),
        events.CircuitChanged(api.url, "open", "half-open"),
        events.CircuitChanged(api.url, "half-open", "closed"),
    ]
