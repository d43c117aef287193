"""Generators and async generators: guarded until the first item, watched until the end.

Each test of the plain kind has its twin of the async kind; `Stream` drives either by the same words.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

import pytest

import resilience
from resilience import CircuitOpen, DeadlineExceeded, circuit_breaker, retry_ratelimit, warm
from resilience.core import events
from resilience.core.call import find
from resilience.testing import FakeClock, LambdaContext


class Unreachable(ConnectionRefusedError):
    """Worth trying again, and a failure."""


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


class Stream:
    """A generator of either kind, driven step by step."""

    def __init__(self, generator: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.generator = generator
        self._loop = loop
        self._is_async = hasattr(generator, "__anext__")

    def _do(self, name: str, *args: Any) -> Any:
        method = getattr(self.generator, f"a{name}" if self._is_async else name)
        try:
            answer = method(*args)
            return self._loop.run_until_complete(answer) if self._is_async else answer
        except (StopIteration, StopAsyncIteration) as stop:
            return ("ended", *stop.args) if stop.args and stop.args[0] is not None else ("ended",)

    def next(self) -> Any:
        return self.send(None)

    def send(self, value: Any) -> Any:
        return self._do("send", value)

    def throw(self, error: BaseException) -> Any:
        return self._do("throw", error)

    def close(self) -> None:
        self._do("close")

    def rest(self) -> list[Any]:
        items = []
        while not isinstance(item := self.next(), tuple):
            items.append(item)
        return items


Open = Callable[..., Stream]


@pytest.fixture(params=["sync", "async"])
def opened(request: pytest.FixtureRequest, loop: asyncio.AbstractEventLoop) -> Open:
    """Decorates a generator function, or the async one made of it, calls it, and gives what drives the stream."""

    def opened(fn: Any, *decorators: Any, args: tuple[Any, ...] = (), keep: list[Any] | None = None) -> Stream:
        decorated: Any = fn if request.param == "sync" else _as_async(fn)
        for decorator in reversed(decorators):
            decorated = decorator(decorated)
        if keep is not None:
            keep.append(decorated)
        return Stream(decorated(*args), loop)

    return opened


@pytest.fixture
def again(loop: asyncio.AbstractEventLoop) -> Callable[..., Stream]:
    """Calls a decorated function once more."""
    return lambda decorated, *args: Stream(decorated(*args), loop)


def _as_async(fn: Any) -> Any:
    async def generator(*args: Any, **kwargs: Any) -> Any:
        source = fn(*args, **kwargs)
        try:
            item = next(source)
        except StopIteration:
            return
        while True:
            try:
                sent = yield item
            except GeneratorExit:
                source.close()
                raise
            except BaseException as error:
                try:
                    item = source.throw(error)
                except StopIteration:
                    return
            else:
                try:
                    item = source.send(sent)
                except StopIteration:
                    return

    return generator


def numbers(n: int = 3) -> Iterator[int]:
    yield from range(n)


# --- retries ---------------------------------------------------------------------------------------------------------


def test_a_stream_that_fails_before_its_first_item_is_tried_again(opened: Open, clock: FakeClock) -> None:
    tries = []

    def items() -> Iterator[int]:
        tries.append(1)
        if len(tries) < 3:
            raise Unreachable
        yield from (1, 2)

    stream = opened(items, retry_ratelimit)

    assert stream.rest() == [1, 2]
    assert len(tries) == 3
    assert len(clock.slept) == 2


def test_a_stream_that_fails_after_an_item_is_not(opened: Open, clock: FakeClock) -> None:
    tries = []

    def items() -> Iterator[int]:
        tries.append(1)
        yield 1
        raise Unreachable

    stream = opened(items, retry_ratelimit)

    assert stream.next() == 1
    with pytest.raises(Unreachable):
        stream.next()
    assert stream.next() == ("ended",)
    assert (len(tries), clock.slept) == (1, [])


def test_a_stream_that_never_begins_ends_in_its_own_error(opened: Open, clock: FakeClock) -> None:
    def items() -> Iterator[int]:
        raise Unreachable("down")
        yield 1

    with pytest.raises(Unreachable, match="down"):
        opened(items, retry_ratelimit(attempts=3)).next()
    assert len(clock.slept) == 2


def test_an_empty_stream_is_a_stream_that_went_well(opened: Open, clock: FakeClock) -> None:
    kept: list[Any] = []
    stream = opened(empty, circuit_breaker, keep=kept)
    breaker_of(kept).half_open()
    assert stream.rest() == []
    assert breaker_of(kept).state == "closed"


def empty() -> Iterator[int]:
    return
    yield 1


def test_nothing_runs_before_the_first_item_is_asked_for(opened: Open) -> None:
    began = []

    def items() -> Iterator[int]:
        began.append(1)
        yield 1

    stream = opened(items, retry_ratelimit)
    assert began == []
    stream.close()
    assert began == []


async def test_an_async_stream_must_begin_by_the_deadline() -> None:
    ended = []

    @retry_ratelimit(deadline=0.05, attempts=1)
    async def items() -> Any:
        try:
            await asyncio.sleep(60)
            yield 1
        finally:
            ended.append(1)

    with pytest.raises(DeadlineExceeded):
        await anext(items())
    assert ended == [1]


async def test_an_async_stream_that_has_begun_may_go_on(clock: FakeClock) -> None:
    @retry_ratelimit(deadline=5)
    async def items() -> Any:
        for n in range(3):
            yield n

    seen = []
    async for item in items():
        seen.append(item)
        clock.advance(4)
    assert seen == [0, 1, 2]


# --- the breaker -----------------------------------------------------------------------------------------------------


def breaker_of(kept: list[Any]) -> Any:
    return next(iter(kept[0].resilience.breaker))


def test_a_failure_in_the_middle_counts_when_it_comes(opened: Open, again: Any) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise Unreachable

    kept: list[Any] = []
    stream = opened(items, circuit_breaker(fail_max=2), keep=kept)
    assert stream.next() == 1
    assert breaker_of(kept).counts.failures == 0
    with pytest.raises(Unreachable):
        stream.next()
    assert breaker_of(kept).counts.failures == 1

    other = again(kept[0])
    other.next()
    with pytest.raises(Unreachable):
        other.next()
    assert breaker_of(kept).state == "open"
    with pytest.raises(CircuitOpen):
        again(kept[0]).next()


def test_a_success_counts_at_the_end_and_not_before(opened: Open, clock: FakeClock) -> None:
    kept: list[Any] = []
    stream = opened(numbers, circuit_breaker(reset_timeout=30), keep=kept)
    breaker = breaker_of(kept)
    breaker.open()
    clock.advance(31)

    assert stream.next() == 0
    assert (breaker.state, breaker.counts.probes) == ("half-open", 1)
    assert stream.next() == 1
    assert breaker.state == "half-open"
    assert stream.rest() == [2]
    assert (breaker.state, breaker.counts.probes) == ("closed", 0)


def test_a_probe_that_fails_in_the_middle_opens_it_again(opened: Open, clock: FakeClock) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise Unreachable

    kept: list[Any] = []
    stream = opened(items, circuit_breaker, keep=kept)
    breaker = breaker_of(kept)
    breaker.half_open()
    stream.next()
    with pytest.raises(Unreachable):
        stream.next()
    assert breaker.state == "open"


@pytest.mark.parametrize("how", ["closed", "thrown into", "forgotten"])
def test_a_stream_that_is_abandoned_frees_its_place(
    how: str, opened: Open, again: Any, loop: asyncio.AbstractEventLoop
) -> None:
    kept: list[Any] = []
    stream = opened(numbers, circuit_breaker, keep=kept)
    breaker = breaker_of(kept)
    breaker.half_open()
    assert stream.next() == 0
    with pytest.raises(CircuitOpen):
        again(kept[0]).next()

    if how == "closed":
        stream.close()
    elif how == "thrown into":
        with pytest.raises(asyncio.CancelledError):
            stream.throw(asyncio.CancelledError())
    else:
        del stream
        gc.collect()
        # The loop closes a forgotten async generator when it runs next.
        for _ in range(3):
            loop.run_until_complete(asyncio.sleep(0))

    assert (breaker.state, breaker.counts.probes, breaker.counts.failures) == ("half-open", 0, 0)
    assert again(kept[0]).rest() == [0, 1, 2]
    assert breaker.state == "closed"


async def test_a_task_cancelled_in_the_middle_frees_the_place() -> None:
    @circuit_breaker
    async def items() -> Any:
        yield 1
        await asyncio.sleep(60)
        yield 2

    breaker = next(iter(items.resilience.breaker))
    breaker.half_open()
    began = asyncio.Event()

    async def consume() -> None:
        async for _ in items():
            began.set()

    task = asyncio.ensure_future(consume())
    await began.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (breaker.state, breaker.counts.probes) == ("half-open", 0)


def test_a_retry_inside_a_breaker_takes_one_place(opened: Open, clock: FakeClock) -> None:
    tries = []

    def items() -> Iterator[int]:
        tries.append(1)
        if len(tries) < 3:
            raise Unreachable
        yield 1

    kept: list[Any] = []
    stream = opened(items, circuit_breaker(fail_max=1), retry_ratelimit, keep=kept)
    assert stream.rest() == [1]
    assert breaker_of(kept).counts.failures == 0


def test_a_breaker_inside_a_retry_counts_each_attempt(opened: Open, clock: FakeClock) -> None:
    def items() -> Iterator[int]:
        raise Unreachable
        yield 1

    kept: list[Any] = []
    stream = opened(items, retry_ratelimit(attempts=3), circuit_breaker(fail_max=5), keep=kept)
    with pytest.raises(Unreachable):
        stream.next()
    assert breaker_of(kept).counts.failures == 3


# --- what the consumer says ------------------------------------------------------------------------------------------


def test_send_and_throw_reach_the_generator(opened: Open) -> None:
    def echo() -> Any:
        got = yield "first"
        while True:
            try:
                got = yield f"got {got}"
            except ValueError as error:
                got = f"error {error}"

    stream = opened(echo, retry_ratelimit, circuit_breaker)
    assert stream.next() == "first"
    assert stream.send("a") == "got a"
    assert stream.throw(ValueError("b")) == "got error b"
    assert stream.send("c") == "got c"
    stream.close()
    assert stream.next() == ("ended",)


def test_an_error_thrown_in_that_it_does_not_catch_comes_back_and_is_no_retry(opened: Open) -> None:
    kept: list[Any] = []
    stream = opened(numbers, retry_ratelimit, circuit_breaker(fail_max=1), keep=kept)
    stream.next()
    with pytest.raises(KeyError):
        stream.throw(KeyError("mine"))
    assert stream.next() == ("ended",)


def test_closing_runs_its_finally_and_what_that_raises_is_raised(opened: Open) -> None:
    cleaned = []

    def items(fails: bool) -> Iterator[int]:
        try:
            yield 1
        finally:
            cleaned.append(find() is not None)
            if fails:
                raise LookupError("while closing")

    stream = opened(items, retry_ratelimit, args=(False,))
    stream.next()
    stream.close()
    # In the call, as the rest of its body.
    assert cleaned == [True]
    failing = opened(items, retry_ratelimit, args=(True,))
    failing.next()
    with pytest.raises(LookupError):
        failing.close()


def test_a_generators_value_is_that_of_its_end() -> None:
    @retry_ratelimit
    @circuit_breaker
    def items(n: int) -> Any:
        yield from range(n)
        return "value"

    def outer(n: int) -> Any:
        value = yield from items(n)
        yield value

    assert list(outer(2)) == [0, 1, "value"]
    assert list(outer(0)) == ["value"]


# --- the call --------------------------------------------------------------------------------------------------------


def test_the_call_is_current_in_the_body_and_nowhere_else(opened: Open) -> None:
    seen = []

    def items(event: Any, context: Any) -> Iterator[int]:
        for n in range(3):
            seen.append(resilience.current().request_id)
            yield n

    stream = opened(items, retry_ratelimit, args=({}, LambdaContext(aws_request_id="r-1")))
    for n in range(3):
        assert stream.next() == n
        assert find() is None
    assert stream.next() == ("ended",)
    assert find() is None
    assert seen == ["r-1"] * 3


def test_two_streams_taken_in_turns_keep_their_own_calls(opened: Open, again: Any) -> None:
    def items(event: Any, context: Any) -> Iterator[str | None]:
        for _ in range(3):
            yield resilience.current().request_id

    kept: list[Any] = []
    one = opened(items, retry_ratelimit, args=({}, LambdaContext(aws_request_id="one")), keep=kept)
    two = again(kept[0], {}, LambdaContext(aws_request_id="two"))
    assert [one.next(), two.next(), one.next(), two.next(), two.next(), one.next()] == [
        "one",
        "two",
        "one",
        "two",
        "two",
        "one",
    ]


def test_a_consumer_in_a_call_of_its_own_keeps_it(opened: Open) -> None:
    stream = opened(numbers, retry_ratelimit)

    @retry_ratelimit
    def consumer(event: Any, context: Any) -> list[Any]:
        seen = []
        while not isinstance(stream.next(), tuple):
            seen.append(resilience.current().request_id)
        return seen

    assert consumer({}, LambdaContext(aws_request_id="outer")) == ["outer"] * 3


def test_its_end_is_told(opened: Open) -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise Unreachable

    heard: list[Any] = []
    stop = events.listen(heard.append, events.CallFinished)
    try:
        good = opened(numbers, retry_ratelimit)
        good.next()
        assert heard == []
        good.rest()
        bad = opened(failing, retry_ratelimit)
        with pytest.raises(Unreachable):
            bad.rest()
        left = opened(numbers, retry_ratelimit)
        left.next()
        left.close()
    finally:
        stop()
    assert [e.meaning for e in heard] == ["ok", "unreachable", "cancelled"]


# --- pings and fallbacks ---------------------------------------------------------------------------------------------


def test_a_ping_is_answered_by_one_item(opened: Open) -> None:
    def items(event: Any, context: Any) -> Iterator[int]:
        raise AssertionError("not for a ping")
        yield 1

    stream = opened(items, warm, args=({"warmup": True}, LambdaContext()))
    answer = stream.next()
    assert answer["warmed"] is True
    assert stream.next() == ("ended",)


@pytest.mark.parametrize(
    ("fallback", "items"),
    [
        ([7, 8], [7, 8]),
        (lambda: iter([7, 8]), [7, 8]),
        (lambda: numbers(2), [0, 1]),
        ([], []),
        ({"sorry": True}, [{"sorry": True}]),
        ("sorry", ["sorry"]),
        (None, [None]),
    ],
)
def test_a_fallback_is_a_stream_or_one_item(opened: Open, fallback: Any, items: list[Any]) -> None:
    kept: list[Any] = []
    stream = opened(numbers, circuit_breaker(fallback=fallback), keep=kept)
    breaker_of(kept).open()
    assert stream.rest() == items


async def test_an_async_fallback_is_a_stream_too() -> None:
    async def stand_in() -> Any:
        yield "sorry"
        yield "again"

    @circuit_breaker(fallback=stand_in)
    async def items() -> Any:
        yield 1

    items.resilience.breaker.open()
    assert [item async for item in items()] == ["sorry", "again"]


def test_what_is_decorated_looks_as_it_did(opened: Open) -> None:
    import inspect

    kept: list[Any] = []
    stream = opened(numbers, retry_ratelimit, keep=kept)
    assert inspect.isgeneratorfunction(kept[0]) or inspect.isasyncgenfunction(kept[0])
    stream.close()


def test_a_loop_that_ends_closes_a_stream_once(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []

    @circuit_breaker
    async def numbers() -> AsyncGenerator[int, None]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    async def begin() -> Any:
        stream = numbers()
        await anext(stream)
        return stream

    # The loop closes what is open, all at once: were the function's own generator known to it, the two would collide.
    assert asyncio.run(begin()) is not None
    assert closed == ["closed"]
    assert not caplog.records
