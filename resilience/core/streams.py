"""Generators: guarded until the first item, watched until the end.

The guards see the opening of a stream as the attempt: until there is a first item, nothing has been given away and it
can be tried again. A breaker keeps its permit until the stream has ended, and counts how it ended.

A generator's body runs in its consumer's context, so the call is made current for each step and never in between.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextvars import Token
from typing import TYPE_CHECKING, Any

from resilience.core.call import CURRENT, Call
from resilience.core.errors import DeadlineExceeded
from resilience.core.outcome import OK, Outcome, of_error

if TYPE_CHECKING:
    from resilience.core.pipeline import Pipeline

__all__ = ["Opened", "async_generator", "generator", "opening"]


class Opened:
    """A stream of which the first item has been taken, or which has none."""

    __slots__ = ("finished", "first", "source", "value")

    def __init__(self, source: Any, first: Any = None, *, finished: bool = False, value: Any = None) -> None:
        self.source = source
        self.first = first
        self.finished = finished
        self.value = value


def opening(pipeline: Pipeline) -> Callable[[Call], None]:
    """An attempt at a generator: start it and take the first item."""
    fn = pipeline.fn

    def attempt(call: Call) -> None:
        call.endings = []
        try:
            source = fn(*call.args, **call.kwargs)
            try:
                call.result = Opened(source, next(source))
            except StopIteration as stop:
                call.result = Opened(source, finished=True, value=stop.value)
        except BaseException as error:
            _failed(call, error)
        else:
            call.error = None
            call.outcome = OK

    return attempt


def opening_async(pipeline: Pipeline) -> Callable[[Call], Any]:
    """The same for an async generator; its first item must come by the deadline."""
    from resilience.core.wrappers import bounded

    fn = pipeline.fn

    async def attempt(call: Call) -> None:
        call.endings = []
        try:
            source = fn(*call.args, **call.kwargs)
            first = _first_of(source)
            try:
                call.result = Opened(source, await (first if call.deadline is None else bounded(call, first)))
            except StopAsyncIteration:
                call.result = Opened(source, finished=True)
        except BaseException as error:
            _failed(call, error)
        else:
            call.error = None
            call.outcome = OK

    return attempt


def _first_of(source: Any) -> Any:
    """The first step of an async generator that nobody but its wrapper closes: at its end, a loop would close both at
    once, and one of them would find the other at it."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return anext(source)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _failed(call: Call, error: BaseException) -> None:
    call.endings = None
    call.result = None
    call.error = error
    # A limit of ours that ended it speaks of the dependency as its own timeout would.
    overdue = isinstance(error, DeadlineExceeded) and error.__cause__ is not None
    call.outcome = of_error(error.__cause__ or error) if overdue else of_error(error)


def _end(call: Call, outcome: Outcome, error: BaseException | None) -> None:
    endings, call.endings = call.endings, None
    for ending in reversed(endings or ()):
        ending(outcome, error)
    call.outcome = outcome
    call.ended = True
    call.pipeline.end(call)


def generator(pipeline: Pipeline) -> Any:
    """The wrapper of a generator function."""

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        call = pipeline.open(args, kwargs)
        outcome, failure = OK, None
        try:
            answer = _open(pipeline, call)
            if not isinstance(answer, Opened):
                # A ping's answer is one item; a fallback's is a stream of its own.
                return (yield from _as_items(answer, pinged=call.result is None))
            if answer.finished:
                return answer.value
            return (yield from _drive(call, answer))
        except BaseException as error:
            outcome, failure = of_error(error), error
            raise
        finally:
            _end(call, outcome, failure)
            del failure

    return wrapper


def _open(pipeline: Pipeline, call: Call) -> Any:
    from resilience.core.wrappers import result_of

    token = CURRENT.set(call)
    try:
        if pipeline.first is not None and pipeline.first.arrives(call):
            return pipeline.first.respond(call)
        pipeline.compile()[0](call)
    finally:
        CURRENT.reset(token)
    return result_of(call)


def _as_items(answer: Any, *, pinged: bool) -> Iterator[Any]:
    if pinged or isinstance(answer, (dict, str, bytes)) or not hasattr(answer, "__iter__"):
        yield answer
    else:
        yield from answer


def _drive(call: Call, opened: Opened) -> Generator[Any, Any, Any]:
    source, item = opened.source, opened.first
    while True:
        try:
            sent = yield item
        except GeneratorExit:
            _step(call, source.close)
            raise
        except BaseException as error:
            step, argument = source.throw, error
        else:
            step, argument = source.send, sent
        try:
            item = _step(call, step, argument)
        except StopIteration as stop:
            return stop.value


def _step(call: Call, step: Callable[..., Any], *argument: Any) -> Any:
    token = CURRENT.set(call)
    try:
        return step(*argument)
    finally:
        CURRENT.reset(token)


def async_generator(pipeline: Pipeline) -> Any:
    """The wrapper of an async generator function."""

    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        call = pipeline.open(args, kwargs)
        outcome, failure = OK, None
        try:
            answer = await _open_async(pipeline, call)
            if not isinstance(answer, Opened):
                async for item in _as_items_async(answer, pinged=call.result is None):
                    yield item
                return
            if answer.finished:
                return
            source, item = answer.source, answer.first
            while True:
                try:
                    sent = yield item
                except GeneratorExit:
                    await _step_async(call, source.aclose)
                    raise
                except BaseException as error:
                    step, argument = source.athrow, error
                else:
                    step, argument = source.asend, sent
                try:
                    item = await _step_async(call, step, argument)
                except StopAsyncIteration:
                    return
        except BaseException as error:
            outcome, failure = of_error(error), error
            raise
        finally:
            _end(call, outcome, failure)
            del failure

    return wrapper


async def _open_async(pipeline: Pipeline, call: Call) -> Any:
    from resilience.core.wrappers import result_of

    token = CURRENT.set(call)
    try:
        if pipeline.first is not None and pipeline.first.arrives(call):
            return await pipeline.first.respond_async(call)
        await pipeline.compile()[0](call)
    finally:
        _leave(token)
    return result_of(call)


async def _as_items_async(answer: Any, *, pinged: bool) -> AsyncIterator[Any]:
    if hasattr(answer, "__aiter__"):
        async for item in answer:
            yield item
    else:
        for item in _as_items(answer, pinged=pinged):
            yield item


async def _step_async(call: Call, step: Callable[..., Any], *argument: Any) -> Any:
    token = CURRENT.set(call)
    try:
        return await step(*argument)
    finally:
        _leave(token)


def _leave(token: Token[Call | None]) -> None:
    try:
        CURRENT.reset(token)
    except ValueError:
        # One that was abandoned is closed by whoever collects it, in a context that has no call of ours.
        return
