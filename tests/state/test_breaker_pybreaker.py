"""What a user of pybreaker brings along: listeners, storages, a breaker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pybreaker
import pytest

from resilience.core import events
from resilience.core.errors import CircuitOpen
from resilience.state.breaker import Breaker, BreakerSettings


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


class Flaky(pybreaker.CircuitMemoryStorage):
    """A storage that can be taken down."""

    def __init__(self) -> None:
        self.down = False
        super().__init__("closed")

    def __getattribute__(self, name: str) -> Any:
        if name not in ("down", "name", "__class__", "__dict__", "_name") and self.down:
            raise ConnectionError("redis://:secret@host is away")
        return super().__getattribute__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "down" and self.down:
            raise ConnectionError("redis://:secret@host is away")
        super().__setattr__(name, value)


def breaker(**settings: Any) -> Breaker:
    return Breaker("dep", BreakerSettings(**{"fail_max": 2, **settings}))


def fail(b: Breaker, times: int = 1) -> None:
    for _ in range(times):
        b.failure(b.admit(), ConnectionError("down"))


@pytest.fixture
def degraded() -> Iterator[list[Any]]:
    seen: list[Any] = []
    stop = events.listen(seen.append, events.StoreDegraded)
    yield seen
    stop()


def test_listeners_hear_what_pybreaker_would_have_told_them(clock: Any) -> None:
    recorder = Recorder()
    b = breaker(listeners=(recorder,))
    b.success(b.admit())
    fail(b, 2)
    clock.tick(30)
    b.success(b.admit())
    assert recorder.heard == [
        *("before", "success"),
        *("before", "ConnectionError"),
        *("before", "ConnectionError", ("closed", "open")),
        *(("open", "half-open"), "before", ("half-open", "closed"), "success"),
    ]


def test_before_call_is_told_the_function(clock: Any) -> None:
    class Named(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            names.append((cb.name, func.__name__))

    names: list[Any] = []
    b = breaker(listeners=(Named(),))
    b.admit(fail)
    b.admit()
    assert names == [("dep", "fail"), ("dep", "guarded_call")]


class Bad(pybreaker.CircuitBreakerListener):
    def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("bad")

    def success(self, cb: Any) -> None:
        raise RuntimeError("bad")

    def failure(self, cb: Any, exc: BaseException) -> None:
        raise RuntimeError("bad")

    def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
        raise RuntimeError("bad")


@pytest.mark.parametrize("own", [False, True])
def test_a_listener_that_raises_is_logged_and_stops_nothing(clock: Any, caplog: Any, own: bool) -> None:
    recorder = Recorder()
    if own:
        cb = pybreaker.CircuitBreaker(fail_max=2, reset_timeout=30, listeners=[Bad()])
        b = breaker(cb=cb, listeners=(recorder,))
    else:
        b = breaker(listeners=(Bad(), recorder))
    b.success(b.admit())
    fail(b, 2)
    assert b.state == "open"
    clock.tick(30)
    b.success(b.admit())
    assert b.state == "closed"
    assert {"before", "success", "ConnectionError"} <= set(recorder.heard)
    assert own or ("closed", "open") in recorder.heard
    assert "RuntimeError: bad" in caplog.text


def test_a_listener_that_blocks_holds_nobody_else_up(clock: Any) -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            heard.append(new_state.name)
            entered.set()
            assert go_on.wait(10)

    heard: list[str] = []
    b = breaker(listeners=(Slow(),))
    opener = threading.Thread(target=b.open)
    opener.start()
    assert entered.wait(10)
    assert b.state == "open"
    with pytest.raises(CircuitOpen):
        b.admit()
    b.close()
    assert b.state == "closed"
    fail(b)
    go_on.set()
    opener.join()
    assert heard == ["open", "closed"]
    assert b.state == "closed"


def test_a_listener_may_close_the_breaker_that_just_opened(clock: Any) -> None:
    class Closer(pybreaker.CircuitBreakerListener):
        def state_change(self, cb: Any, old_state: Any, new_state: Any) -> None:
            heard.append((new_state.name, b.state))
            if new_state.name == "open":
                b.close()

    heard: list[Any] = []
    b = breaker(listeners=(Closer(),))
    fail(b, 2)
    assert b.state == "closed"
    assert heard == [("open", "open"), ("closed", "closed")]


def test_a_hand_on_the_breaker_that_a_listener_was_given_is_followed(clock: Any) -> None:
    class Keeper(pybreaker.CircuitBreakerListener):
        def before_call(self, cb: Any, func: Any, *args: Any, **kwargs: Any) -> None:
            given.append(cb)

    given: list[Any] = []
    b = breaker(listeners=(Keeper(),))
    b.admit()
    given[0].open()
    assert b.state == "open"
    given[0].close()
    assert b.state == "closed"


# --- storage ---


def test_the_users_storage_is_written(clock: Any) -> None:
    storage = pybreaker.CircuitMemoryStorage("closed")
    b = breaker(storage=storage)
    fail(b)
    assert storage.counter == 1
    b.success(b.admit())
    assert storage.counter == 0
    fail(b, 2)
    assert storage.state == "open"
    assert storage.opened_at is not None
    clock.tick(30)
    b.success(b.admit())
    assert (storage.state, storage.counter) == ("closed", 0)


def test_what_two_breakers_with_one_storage_count_adds_up(clock: Any) -> None:
    storage = pybreaker.CircuitMemoryStorage("closed")
    one, other = breaker(storage=storage), breaker(storage=storage)
    fail(one)
    fail(other)
    with pytest.raises(CircuitOpen):
        one.admit()


def test_what_another_process_opened_is_open_here_for_the_rest_of_its_time(clock: Any) -> None:
    storage, recorder = pybreaker.CircuitMemoryStorage("closed"), Recorder()
    b = breaker(storage=storage, listeners=(recorder,))
    storage.opened_at = datetime.fromtimestamp(clock.epoch - 10, UTC)
    storage.state = "open"
    with pytest.raises(CircuitOpen) as caught:
        b.admit()
    assert caught.value.retry_after == pytest.approx(20)
    assert recorder.heard == [("closed", "open")]
    storage.state = "closed"
    assert not b.admit().probe


def test_another_process_whose_probe_failed_keeps_it_open_here(clock: Any) -> None:
    storage = pybreaker.CircuitMemoryStorage("closed")
    b = breaker(storage=storage)
    fail(b, 2)
    clock.tick(31)
    storage.opened_at = datetime.fromtimestamp(clock.epoch - 1, UTC)
    with pytest.raises(CircuitOpen) as caught:
        b.admit()
    assert caught.value.retry_after == pytest.approx(29)


def test_an_answer_older_than_our_own_transition_is_not_followed(clock: Any) -> None:
    class Late(pybreaker.CircuitMemoryStorage):
        @property
        def state(self) -> str:
            answer = super().state
            while meanwhile:
                meanwhile.pop()()
            return answer

        @state.setter
        def state(self, state: str) -> None:
            self._state = state

    meanwhile: list[Any] = []
    storage = Late("closed")
    b = breaker(storage=storage)
    storage.state = "half-open"
    meanwhile.append(b.isolate)
    with pytest.raises(CircuitOpen):
        b.admit()
    assert b.state == "isolated"


@pytest.mark.parametrize("when", [None, datetime(2001, 1, 1)])
def test_opened_long_ago_or_nobody_knows_when_is_due(clock: Any, when: datetime | None) -> None:
    storage = pybreaker.CircuitMemoryStorage("open")
    if when is not None:
        storage.opened_at = when
    assert breaker(storage=storage).admit().probe


def test_isolated_here_is_not_closed_by_another(clock: Any) -> None:
    storage = pybreaker.CircuitMemoryStorage("closed")
    b = breaker(storage=storage)
    b.isolate()
    assert storage.state == "open"
    storage.state = "closed"
    assert b.state == "isolated"


def test_while_the_storage_is_down_memory_serves_and_says_so_once(clock: Any, degraded: list[Any]) -> None:
    storage = Flaky()
    b = breaker(storage=storage)
    fail(b)
    storage.down = True
    b.success(b.admit())
    fail(b, 2)
    assert b.state == "open"
    with pytest.raises(CircuitOpen):
        b.admit()
    assert degraded == [events.StoreDegraded("memory", "ConnectionError")]


def test_a_storage_that_comes_back_is_told_what_it_missed(clock: Any, degraded: list[Any]) -> None:
    storage = Flaky()
    b = breaker(storage=storage)
    storage.down = True
    fail(b, 2)
    storage.down = False
    assert storage.state == "closed"
    clock.tick(6)
    assert b.state == "open"
    assert storage.state == "open"
    storage.down = True
    assert b.state == "open"
    assert len(degraded) == 2


def test_a_storage_that_holds_rubbish_is_a_storage_that_is_down(clock: Any, degraded: list[Any]) -> None:
    storage = pybreaker.CircuitMemoryStorage("rubbish")
    b = breaker(storage=storage)
    b.success(b.admit())
    assert [event.error for event in degraded] == ["ValueError"]


def test_the_users_own_breaker_whose_storage_is_down(clock: Any, degraded: list[Any], caplog: Any) -> None:
    storage = Flaky()
    b = breaker(cb=pybreaker.CircuitBreaker(fail_max=2, reset_timeout=30, state_storage=storage))
    storage.down = True
    fail(b, 2)
    assert b.state == "open"
    storage.down = False
    clock.tick(6)
    assert b.state == "open"
    assert storage.state == "open"
    assert len(degraded) == 1


# --- a breaker of the user's ---


def test_the_users_own_breaker_sets_the_rules_and_changes_with_ours(clock: Any) -> None:
    recorder = Recorder()
    cb = pybreaker.CircuitBreaker(
        fail_max=1, reset_timeout=7, success_threshold=2, listeners=[recorder], name="theirs", exclude=[KeyError]
    )
    b = breaker(cb=cb)
    assert b.dependency == "theirs"
    b.failure(b.admit(), KeyError("not one"))
    assert b.state == "closed"
    fail(b)
    assert cb.current_state == "open"
    assert b.peek() == pytest.approx(7)
    cb.close()
    assert not b.admit().probe
    b.half_open()
    b.success(b.admit())
    assert cb.current_state == "half-open"
    b.success(b.admit())
    assert cb.current_state == "closed"
    assert ("closed", "open") in recorder.heard
