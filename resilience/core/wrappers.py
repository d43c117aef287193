"""The function that takes the place of the decorated one: one variant for each kind, each plain to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resilience.core import events
from resilience.core.call import COLD, CURRENT, EXCLUSIVE, Call
from resilience.core.kinds import NO_CONTEXT, Kind

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


# The two below are the hot path: what can be known before is a local of the closure, and nothing is called in vain.


def _function(pipeline: Pipeline) -> Any:
    current, enter, leave = CURRENT.get, CURRENT.set, CURRENT.reset
    arrives = None if pipeline.first is None else pipeline.first.arrives
    chain: Any = None
    make: Any = None
    ready: Any = None

    def start() -> None:
        nonlocal chain, make, ready
        # `chain` last: another thread that finds it set goes on with the other two.
        compiled = pipeline.compile()
        make, ready = compiled[1:]
        chain = compiled[0]

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if chain is None:
            start()
        call = make()
        call.args = args
        call.kwargs = kwargs
        last = kwargs["context"] if "context" in kwargs else args[-1] if args else None
        if type(last) not in NO_CONTEXT:
            pipeline.invoked(call)
        parent = current()
        if parent is not None or pipeline.limit is not None:
            pipeline.place(call, parent)
        if ready is not None:
            ready()
        if pipeline.busy or COLD or events.LISTENERS:
            pipeline.begin(call)
        token = enter(call)
        try:
            if arrives is not None and arrives(call):
                return pipeline.first.respond(call)
            chain(call)
        finally:
            leave(token)
            call.ended = True
            if EXCLUSIVE[0] is not None or events.LISTENERS:
                pipeline.end(call)
        error = call.error
        if error is None:
            return call.result
        call.error = None
        try:
            raise error
        finally:
            # Its traceback holds this frame: without this, each would keep the other alive.
            del error

    return wrapper


def _coroutine(pipeline: Pipeline) -> Any:
    current, enter, leave = CURRENT.get, CURRENT.set, CURRENT.reset
    arrives = None if pipeline.first is None else pipeline.first.arrives
    chain: Any = None
    make: Any = None
    ready: Any = None

    def start() -> None:
        nonlocal chain, make, ready
        # `chain` last: another thread that finds it set goes on with the other two.
        compiled = pipeline.compile()
        make, ready = compiled[1:]
        chain = compiled[0]

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if chain is None:
            start()
        call = make()
        call.args = args
        call.kwargs = kwargs
        last = kwargs["context"] if "context" in kwargs else args[-1] if args else None
        if type(last) not in NO_CONTEXT:
            pipeline.invoked(call)
        parent = current()
        if parent is not None or pipeline.limit is not None:
            pipeline.place(call, parent)
        if ready is not None:
            ready()
        if pipeline.busy or COLD or events.LISTENERS:
            pipeline.begin(call)
        token = enter(call)
        try:
            if arrives is not None and arrives(call):
                return await pipeline.first.respond_async(call)
            await chain(call)
        finally:
            leave(token)
            call.ended = True
            if EXCLUSIVE[0] is not None or events.LISTENERS:
                pipeline.end(call)
        error = call.error
        if error is None:
            return call.result
        call.error = None
        try:
            raise error
        finally:
            # Its traceback holds this frame: without this, each would keep the other alive.
            del error

    return wrapper


def result_of(call: Call) -> Any:
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
