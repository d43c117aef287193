"""The function that takes the place of the decorated one, and what it runs: one variant for each kind of function."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from resilience.core import events
from resilience.core.call import COLD, CURRENT, EXCLUSIVE, Call
from resilience.core.clock import CLOCK
from resilience.core.errors import ConfigurationError, DeadlineExceeded
from resilience.core.kinds import NO_CONTEXT, Kind, named
from resilience.core.outcome import OK, of_error, of_result
from resilience.core.pipeline import Pipeline
from resilience.core.policy import Policy

__all__ = ["attempt", "attempt_async", "bounded", "decorate", "result_of", "wrap"]


def decorate(fn: Any, policy: Policy, platform: ModuleType) -> Any:
    """`fn` with `policy` in front of those that it has already."""
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(decorate(fn.__func__, policy, platform))
    if isinstance(fn, type) or not callable(fn):
        raise ConfigurationError(f"@{policy.kind} wraps a function, a method or a callable object, not {fn!r}")
    within = getattr(fn, "resilience", None)
    # By identity: a bound method shows the attributes of its function and must not lose its `self`, and somebody else's
    # wrapper may have copied them and must not be lost itself.
    if isinstance(within, Pipeline) and within.wrapper() is fn:
        pipeline = Pipeline(within.fn, (policy, *within.policies), platform)
    else:
        pipeline = Pipeline(fn, (policy,), platform)
    wrapper = wrap(pipeline)
    _dress(wrapper, pipeline)
    for each in pipeline.policies:
        each.decorated(pipeline)
    return wrapper


def _dress(wrapper: Any, pipeline: Pipeline) -> None:
    fn = pipeline.fn
    functools.update_wrapper(wrapper, fn)
    if not hasattr(fn, "__qualname__"):
        # A partial or a callable object: named after what it runs, so that logs can tell.
        runs = named(fn)
        wrapper.__name__, wrapper.__qualname__ = runs.__name__, runs.__qualname__
        wrapper.__module__, wrapper.__doc__ = runs.__module__, runs.__doc__
    wrapper.__wrapped__ = fn
    wrapper.resilience = pipeline
    pipeline.wrapper = weakref.ref(wrapper)
    if pipeline.session_position is not None:
        # Only a function that names a session needs `inspect`.
        import inspect

        signature = inspect.signature(fn)
        wrapper.__signature__ = signature.replace(
            parameters=[p for p in signature.parameters.values() if p.name != "session"]
        )


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
            call.ended = True
            try:  # noqa: SIM105 - it costs nothing here, and `suppress` half a microsecond
                leave(token)
            except ValueError:
                # One that was abandoned is closed by whoever collects it, in a context that has no call of ours.
                pass
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


# ---- one attempt


def _judged_whole(pipeline: Pipeline) -> bool:
    """Whether a guard wants to know what the call comes to although its requests were guarded."""
    return any(p.acts == "guard" and p.scope == "call" for p in pipeline.policies)


def attempt(pipeline: Pipeline) -> Callable[[Call], None]:
    """What stands innermost in a chain: the function, and what came of it."""
    if pipeline.kind is not Kind.FUNCTION:
        from resilience.core import streams

        return streams.opening(pipeline)
    fn, whole = pipeline.fn, _judged_whole(pipeline)

    def once(call: Call) -> None:
        try:
            call.result = result = fn(*call.args, **call.kwargs)
        except BaseException as error:
            call.result = None
            call.error = error
            call.outcome = of_error(error)
        else:
            # No error and OK is what a call starts with.
            if (not call.guarded or whole) and (outcome := of_result(result)) is not OK:
                call.outcome = outcome._replace(guarded=True) if call.guarded else outcome

    return once


def attempt_async(pipeline: Pipeline) -> Callable[[Call], Any]:
    """The same for `async def`, whose attempts end by the deadline."""
    if pipeline.kind is not Kind.COROUTINE:
        from resilience.core import streams

        return streams.opening_async(pipeline)
    fn, whole = pipeline.fn, _judged_whole(pipeline)

    async def once(call: Call) -> None:
        try:
            if call.deadline is None:
                call.result = await fn(*call.args, **call.kwargs)
            else:
                call.result = await bounded(call, fn(*call.args, **call.kwargs))
        except BaseException as error:
            call.result = None
            call.error = error
            # A limit of ours that ended it speaks of the dependency as its own timeout would.
            overdue = isinstance(error, DeadlineExceeded) and error.__cause__ is not None
            call.outcome = of_error(error.__cause__ or error) if overdue else of_error(error)
        else:
            if (not call.guarded or whole) and (outcome := of_result(call.result)) is not OK:
                call.outcome = outcome._replace(guarded=True) if call.guarded else outcome

    return once


async def bounded(call: Call, running: Any) -> Any:
    """What `running` comes to, by the call's deadline; `DeadlineExceeded` after it."""
    # Whoever awaits has imported asyncio already.
    import asyncio

    assert call.deadline is not None
    limit = asyncio.timeout(max(call.deadline - CLOCK.monotonic(), 0.0))
    try:
        async with limit:
            return await running
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise DeadlineExceeded(f"{call.dependency}: the deadline passed while it ran") from error
