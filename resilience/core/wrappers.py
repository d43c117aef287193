"""The function that takes the place of the decorated one: one variant for each kind, each plain to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience.core import events
from resilience.core.call import CURRENT, Call
from resilience.core.clock import CLOCK
from resilience.core.kinds import Kind

if TYPE_CHECKING:
    from resilience.core.pipeline import Pipeline

__all__ = ["wrap"]


def wrap(pipeline: Pipeline) -> Any:
    """The wrapper for this pipeline's kind of function."""
    if pipeline.kind is Kind.FUNCTION:
        return _function(pipeline)
    if pipeline.kind is Kind.COROUTINE:
        run = _coroutine(pipeline)
        return _driven(pipeline, run) if pipeline.platform.only_calls_functions() else run
    from resilience.core import streams

    return streams.generator(pipeline) if pipeline.kind is Kind.GENERATOR else streams.async_generator(pipeline)


def _function(pipeline: Pipeline) -> Any:
    begin, end, first = pipeline.begin, pipeline.end, pipeline.first

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if events.LISTENERS:
            call.started = CLOCK.monotonic()
        token = CURRENT.set(call)
        try:
            if first is not None and first.arrives(call):
                return first.respond(call)
            pipeline.chain(call)
        finally:
            CURRENT.reset(token)
            end(call)
        return leave(call)

    return wrapper


def _coroutine(pipeline: Pipeline) -> Any:
    begin, end, first = pipeline.begin, pipeline.end, pipeline.first

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = begin(args, kwargs)
        if events.LISTENERS:
            call.started = CLOCK.monotonic()
        token = CURRENT.set(call)
        try:
            if first is not None and first.arrives(call):
                return await first.respond_async(call)
            await pipeline.chain(call)
        finally:
            CURRENT.reset(token)
            end(call)
        return leave(call)

    return wrapper


def leave(call: Call) -> Any:
    """What the caller gets: from here on, an error is an exception again."""
    error = call.error
    if error is None:
        return call.result
    call.error = None
    try:
        raise error
    finally:
        # The traceback holds this frame; without this, frame and error would hold each other.
        del error


def _driven(pipeline: Pipeline, run: Any) -> Any:
    """For a runtime that only calls functions: its calls are run here, all others get their coroutine."""
    drives = pipeline.platform.drives

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        running = run(*args, **kwargs)
        if drives(args, kwargs):
            from resilience.core import loop

            return loop.run(running)
        return running

    # What frameworks ask to tell an `async def` (inspect.markcoroutinefunction is 3.12's).
    _mark_coroutine_function(wrapper)
    return wrapper


def _mark_coroutine_function(wrapper: Any) -> None:
    import inspect

    mark = getattr(inspect, "markcoroutinefunction", None)
    if mark is not None:
        mark(wrapper)
    else:
        import asyncio.coroutines

        wrapper._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
