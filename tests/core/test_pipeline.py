"""What may be decorated, what stays of it, and what a call can be asked."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import pickle
from collections.abc import Iterator
from typing import Any
from unittest.mock import AsyncMock, MagicMock

import pytest

import resilience
from resilience import CircuitOpen, ResilienceError, circuit_breaker, pooled, retry_ratelimit, warm
from resilience.core import events
from resilience.core.call import COLD
from resilience.core.clock import CLOCK
from resilience.testing import FakeClock, LambdaContext


class Odd(Exception):
    """An error that nothing is known of."""


@retry_ratelimit
@circuit_breaker
def at_module_level(n: int, *, double: bool = False) -> int:
    """Adds one."""
    return (n + 1) * (2 if double else 1)


@circuit_breaker
async def async_at_module_level(n: int) -> int:
    """Adds one, in its own time."""
    await asyncio.sleep(0)
    return n + 1


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    told: list[Any] = []
    stop = resilience.listen(told.append, events.ColdStart, events.CallFinished)
    yield told
    stop()


def foreign(fn: Any) -> Any:
    """A decorator of somebody else's."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


# ---- what stays


def test_a_function_keeps_its_name_docstring_and_signature() -> None:
    assert at_module_level.__name__ == at_module_level.__qualname__ == "at_module_level"
    assert at_module_level.__module__ == __name__
    assert at_module_level.__doc__ == "Adds one."
    assert str(inspect.signature(at_module_level)) == "(n: 'int', *, double: 'bool' = False) -> 'int'"
    assert at_module_level.__annotations__ == {"n": "int", "double": "bool", "return": "int"}
    assert at_module_level(1, double=True) == 4


def test_attributes_of_the_function_stay() -> None:
    def handler() -> None: ...

    handler.route = "/chat"  # type: ignore[attr-defined]
    assert circuit_breaker(handler).route == "/chat"  # type: ignore[attr-defined]


def test_an_async_function_stays_one() -> None:
    assert inspect.iscoroutinefunction(async_at_module_level)
    assert asyncio.run(async_at_module_level(1)) == 2
    assert not inspect.iscoroutinefunction(at_module_level)


@pytest.mark.parametrize("fn", [at_module_level, async_at_module_level])
def test_pickling_by_name_works(fn: Any) -> None:
    assert pickle.loads(pickle.dumps(fn)) is fn


def test_a_session_keyword_is_hidden_from_the_signature() -> None:
    @pooled
    def handler(event: Any, session: Any) -> Any:
        return session

    assert list(inspect.signature(handler).parameters) == ["event"]
    assert handler({}) is handler.resilience.session
    # A session of the caller's own is his.
    assert handler({}, session="mine") == handler({}, "mine") == "mine"


def test_stacked_decorators_are_one_wrapper() -> None:
    def handler() -> str:
        return "answer"

    stacked = warm(pooled(circuit_breaker(retry_ratelimit(handler))))
    assert stacked.__wrapped__ is handler
    assert [p.kind for p in stacked.resilience] == ["warm", "circuit_breaker", "retry_ratelimit", "pooled"]
    assert stacked() == "answer"


def test_decorating_again_leaves_the_first_as_it_was() -> None:
    def handler() -> str:
        return "answer"

    inner = circuit_breaker(handler)
    outer = retry_ratelimit(inner)
    assert [p.kind for p in inner.resilience] == ["circuit_breaker"]
    assert [p.kind for p in outer.resilience] == ["retry_ratelimit", "circuit_breaker"]


# ---- what may be decorated


class Service:
    """Methods of every kind."""

    def __init__(self, name: str = "service") -> None:
        self.name = name

    @circuit_breaker
    def method(self, n: int) -> tuple[str, int]:
        return self.name, n

    @circuit_breaker
    async def async_method(self, n: int) -> tuple[str, int]:
        return self.name, n

    @classmethod
    @circuit_breaker
    def class_outside(cls, n: int) -> tuple[str, int]:
        return cls.__name__, n

    @circuit_breaker
    @classmethod
    def class_inside(cls, n: int) -> tuple[str, int]:
        return cls.__name__, n

    @staticmethod
    @circuit_breaker
    def static_outside(n: int) -> int:
        return n

    @retry_ratelimit
    @circuit_breaker
    @staticmethod
    def static_inside(n: int) -> int:
        return n

    @circuit_breaker()
    @classmethod
    def class_with_settings(cls, n: int) -> tuple[str, int]:
        return cls.__name__, n


def test_methods_of_every_kind() -> None:
    service = Service()
    assert service.method(1) == ("service", 1)
    assert asyncio.run(service.async_method(1)) == ("service", 1)
    for caller in (service, Service):
        assert caller.class_outside(1) == caller.class_inside(1) == ("Service", 1)
        assert caller.class_with_settings(1) == ("Service", 1)
        assert caller.static_outside(1) == caller.static_inside(1) == 1
    assert Service.method.resilience.name == f"{__name__}.Service.method"
    assert [p.kind for p in Service.static_inside.resilience] == ["retry_ratelimit", "circuit_breaker"]


def test_a_bound_method_stays_bound() -> None:
    def greet(self: Any) -> str:
        return f"from {self.name}"

    class Plain:
        name = "plain"
        method = greet

    assert circuit_breaker(Plain().method)() == "from plain"


def test_a_bound_method_that_was_decorated_stays_bound_and_guarded() -> None:
    service = Service("bound")
    again = retry_ratelimit(service.method)
    assert again(1) == ("bound", 1)
    Service.method.resilience.breaker.open()
    try:
        with pytest.raises(CircuitOpen):
            again(1)
    finally:
        Service.method.resilience.breaker.close()


def test_a_partial_is_named_after_its_function() -> None:
    def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    guarded = circuit_breaker(functools.partial(add, 1))
    assert guarded(2) == 3
    assert guarded.__name__ == "add"
    assert guarded.__qualname__ == add.__qualname__
    assert (guarded.__module__, guarded.__doc__) == (__name__, "Adds.")
    assert guarded.resilience.name == f"{__name__}.{add.__qualname__}"
    assert str(inspect.signature(guarded)) == "(b: 'int') -> 'int'"


def test_a_partial_of_an_async_function_is_awaited() -> None:
    async def add(a: int, b: int) -> int:
        return a + b

    guarded = circuit_breaker(functools.partial(add, 1))
    assert inspect.iscoroutinefunction(guarded)
    assert asyncio.run(guarded(2)) == 3


def test_a_partial_of_a_decorated_function_nests() -> None:
    guarded = retry_ratelimit(functools.partial(at_module_level, 1))
    assert guarded(double=True) == 4


class Adder:
    """Adds, as an object."""

    def __call__(self, a: int, b: int) -> int:
        return a + b


class AsyncAdder:
    async def __call__(self, a: int, b: int) -> int:
        return a + b


def test_a_callable_object_is_named_after_its_class() -> None:
    guarded = circuit_breaker(Adder())
    assert guarded(1, 2) == 3
    assert (guarded.__name__, guarded.__qualname__, guarded.__module__) == ("Adder", "Adder", __name__)
    assert guarded.__doc__ == "Adds, as an object."
    assert guarded.resilience.name == f"{__name__}.Adder"
    assert str(inspect.signature(guarded)) == "(a: 'int', b: 'int') -> 'int'"


def test_a_callable_object_with_an_async_call_is_awaited() -> None:
    guarded = circuit_breaker(AsyncAdder())
    assert inspect.iscoroutinefunction(guarded)
    assert asyncio.run(guarded(1, 2)) == 3


def test_builtins_and_lambdas() -> None:
    assert circuit_breaker(len)([1, 2]) == 2
    assert circuit_breaker(lambda: "answer")() == "answer"


def test_a_generator_stays_one() -> None:
    @retry_ratelimit(on=Odd)
    @circuit_breaker
    def count(n: int) -> Iterator[int]:
        yield from range(n)

    assert inspect.isgeneratorfunction(count)
    assert list(count(3)) == [0, 1, 2]


# ---- nesting


def test_somebody_else_s_wrapper_that_copied_the_attributes_is_not_lost() -> None:
    inner = retry_ratelimit(lambda n: n)

    def outer(n: int) -> tuple[str, int]:
        return "outer", inner(n)

    # As `update_wrapper` does it, without a `__wrapped__` of its own.
    outer.__dict__.update(vars(inner))
    assert circuit_breaker(outer)(1) == ("outer", 1)


def test_a_mock_is_called_and_not_awaited() -> None:
    answer = circuit_breaker(retry_ratelimit(MagicMock(return_value=3)))
    assert answer({}) == 3
    awaited = circuit_breaker(retry_ratelimit(AsyncMock(return_value=4)))
    assert asyncio.run(awaited({})) == 4


def test_a_foreign_decorator_in_between_nests_two_pipelines() -> None:
    calls: list[Any] = []

    @retry_ratelimit(on=Odd, base=0)
    @foreign
    @circuit_breaker(fail_max=9)
    def handler() -> Any:
        calls.append(resilience.current())
        if len(calls) < 3:
            raise Odd
        return "answer"

    with FakeClock():
        assert handler() == "answer"
    inner, outer = calls[0], calls[0].parent
    assert [p.kind for p in inner.pipeline] == ["circuit_breaker"]
    assert [p.kind for p in outer.pipeline] == ["retry_ratelimit"]
    assert outer.parent is None


def test_an_inner_call_has_the_request_id_and_the_deadline_of_the_outer_one(fake_clock: FakeClock) -> None:
    seen: list[Any] = []

    @circuit_breaker
    def inner() -> None:
        call = resilience.current()
        seen.append((call.request_id, call.remaining))

    @retry_ratelimit(deadline=5)
    def outer(event: Any, context: Any) -> None:
        inner()

    context = LambdaContext(remaining=60)
    outer({}, context)
    assert seen == [(context.aws_request_id, 5.0)]


# ---- the call


def test_current_is_the_call_under_way() -> None:
    @circuit_breaker
    def handler(event: Any) -> Any:
        return resilience.current()

    call = handler({"n": 1})
    assert call.args == ({"n": 1},)
    assert call.pipeline is handler.resilience
    assert repr(call) == f"<Call of {handler.resilience.name} on plain, request id None>"
    assert call.remaining is None


@pytest.mark.parametrize("where", ["before", "after"])
def test_current_outside_a_call_says_so(where: str) -> None:
    if where == "after":
        at_module_level(1)
    with pytest.raises(ResilienceError, match="no call of a decorated function is under way here"):
        resilience.current()


async def test_each_task_has_its_own_call() -> None:
    @circuit_breaker
    async def handler(n: int) -> bool:
        mine = resilience.current()
        await asyncio.sleep(0)
        return resilience.current() is mine and mine.args == (n,)

    assert all(await asyncio.gather(*(handler(n) for n in range(20))))


def test_a_call_that_is_over_is_not_current_in_what_it_started() -> None:
    @circuit_breaker
    def handler() -> Any:
        def later() -> bool:
            try:
                resilience.current()
            except ResilienceError:
                return True
            return False

        return resilience.bind(later)

    assert handler()()


# ---- events


def test_the_first_call_of_the_process_is_a_cold_start(heard: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    COLD[:] = [True]
    context = LambdaContext()

    @circuit_breaker
    def handler(event: Any, context: Any) -> str:
        return "answer"

    handler({}, context)
    handler({}, context)
    cold, first, second = heard
    assert cold == events.ColdStart("aws_lambda", context.aws_request_id)
    assert (first.cold, second.cold) == (True, False)
    assert (first.platform, first.request_id) == ("aws_lambda", context.aws_request_id)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [(None, "ok"), (Odd, "unknown"), (ConnectionRefusedError, "unreachable"), (KeyboardInterrupt, "cancelled")],
)
def test_a_call_that_ended_is_told(
    heard: list[Any], fake_clock: FakeClock, error: type[BaseException] | None, meaning: str
) -> None:
    COLD.clear()

    @retry_ratelimit(attempts=1)
    def handler() -> None:
        fake_clock.advance(1.5)
        if error is not None:
            raise error

    if error is None:
        handler()
    else:
        with pytest.raises(error):
            handler()
    assert heard == [events.CallFinished(handler.resilience.name, "plain", None, False, meaning, 1500.0, 1, 0)]


def test_the_attempts_of_a_call_are_told(heard: list[Any], fake_clock: FakeClock) -> None:
    COLD.clear()
    ends = iter([Odd, Odd, None])

    @retry_ratelimit(on=Odd)
    def handler() -> None:
        if error := next(ends):
            raise error

    handler()
    assert [(e.attempts, e.meaning) for e in heard] == [(3, "ok")]


def test_a_listener_that_raises_is_logged_and_skipped(caplog: pytest.LogCaptureFixture, heard: list[Any]) -> None:
    COLD.clear()

    def broken(event: Any) -> None:
        raise RuntimeError("broken listener")

    stop = resilience.listen(broken)
    also: list[Any] = []
    stop_also = resilience.listen(also.append)
    with caplog.at_level(logging.ERROR, logger="resilience"):
        assert at_module_level(1) == 2
    stop()
    stop_also()
    assert len(heard) == len(also) == 1
    assert "a listener failed on CallFinished" in caplog.text
    at_module_level(1)
    assert len(also) == 1


# ---- what it leaves behind


def test_an_error_that_was_raised_keeps_nothing_alive() -> None:
    import gc
    import weakref

    class Big:
        pass

    @retry_ratelimit
    @circuit_breaker
    def handler(big: Big) -> None:
        raise Odd

    big = Big()
    gone = weakref.ref(big)
    gc.disable()
    try:
        try:
            handler(big)
        except Odd:
            pass
        del big
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("awaits", [False, True], ids=["sync", "async"])
def test_a_wait_that_is_cancelled_keeps_nothing_alive(monkeypatch: pytest.MonkeyPatch, awaits: bool) -> None:
    import gc
    import weakref

    class Big:
        pass

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    async def cancelled(seconds: float) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(CLOCK, "sleep", interrupted)
    monkeypatch.setattr(CLOCK, "sleep_async", cancelled)

    @circuit_breaker
    @retry_ratelimit
    def handler(big: Big) -> None:
        raise ConnectionRefusedError

    @circuit_breaker
    @retry_ratelimit
    async def handler_async(big: Big) -> None:
        raise ConnectionRefusedError

    big = Big()
    gone = weakref.ref(big)
    gc.disable()
    try:
        with pytest.raises(asyncio.CancelledError if awaits else KeyboardInterrupt):
            asyncio.run(handler_async(big)) if awaits else handler(big)
        del big
        assert gone() is None
    finally:
        gc.enable()


def test_a_call_that_was_abandoned_ends_in_whichever_context_it_is_closed() -> None:
    calls: list[Any] = []

    @circuit_breaker
    async def never() -> None:
        calls.append(resilience.current())
        await asyncio.sleep(3600)

    async def begin() -> Any:
        running = never()
        running.send(None)
        return running

    # As where a loop is closed that had tasks: not in the context in which it began.
    asyncio.run(begin()).close()
    assert calls[0].ended


def test_it_shows_itself() -> None:
    assert str(at_module_level.resilience).splitlines() == [
        f"{__name__}.at_module_level (function)",
        "  retry_ratelimit: at most 4 attempts, backoff 0.5..20 s, hints up to 60 s, budget 20%",
        "  circuit_breaker: opens after 5 failures in a row, 1 probe after 30 s",
    ]
    assert str(async_at_module_level.resilience).startswith(f"{__name__}.async_at_module_level (coroutine)")
