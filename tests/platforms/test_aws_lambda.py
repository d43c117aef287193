"""What a call's arguments say of Lambda."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

import resilience
from resilience import platforms, retry_ratelimit, warm
from resilience.core import call as calls
from resilience.core.call import PLAIN
from resilience.platforms import aws_lambda
from resilience.testing import FakeClock, LambdaContext


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    with FakeClock() as clock:
        yield clock


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the process that the runtime client runs."""
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")


@retry_ratelimit
def seen(*args: Any, **kwargs: Any) -> Any:
    return resilience.current()


class Methods:
    @retry_ratelimit
    def method(self, event: Any, context: Any) -> Any:
        return resilience.current()

    @classmethod
    @retry_ratelimit
    def of_class(cls, event: Any, context: Any) -> Any:
        return resilience.current()

    @staticmethod
    @retry_ratelimit
    def static(event: Any, context: Any) -> Any:
        return resilience.current()


# --- who called ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [{"n": 1}, [1], "text", 7, None, True])
def test_event_and_context_are_recognised_however_they_are_passed(event: Any) -> None:
    context = LambdaContext()
    methods = Methods()
    made = [
        seen(event, context),
        seen(event=event, context=context),
        seen(event, context=context),
        methods.method(event, context),
        methods.method(event, context=context),
        methods.method(event=event, context=context),
        Methods.of_class(event, context),
        methods.static(event, context),
    ]
    for call in made:
        assert call.invocation.platform == "aws_lambda"
        assert call.invocation.event == event
        assert call.invocation.context is context
        assert call.request_id == context.aws_request_id


@pytest.mark.parametrize("args", [(), (1,), ({"n": 1}, None), ("a", object()), ({}, {"aws_request_id": "x"})])
def test_other_calls_are_plain(args: tuple[Any, ...]) -> None:
    call = seen(*args)
    assert call.invocation is PLAIN
    assert call.deadline is None
    assert call.request_id is None


def test_a_keyword_named_context_that_is_something_else_is_no_context() -> None:
    assert seen({}, context="of the question").invocation is PLAIN


@pytest.mark.parametrize("mock", [Mock, MagicMock])
def test_a_mock_for_a_context_is_a_context_that_knows_nothing(mock: type[Mock]) -> None:
    call = seen({"n": 1}, mock())
    assert call.invocation.platform == "aws_lambda"
    # Not another mock: it would become a header.
    assert call.request_id is None
    assert call.deadline is None
    assert call.remaining is None


def test_a_mock_that_was_told_something_says_it(clock: FakeClock) -> None:
    context = Mock(aws_request_id="r-1")
    context.get_remaining_time_in_millis.return_value = 10_000
    call = seen({}, context)
    assert call.request_id == "r-1"
    assert call.remaining == pytest.approx(9.5)


def test_a_call_inside_another_has_its_request_id() -> None:
    @retry_ratelimit
    def handler(event: Any, context: Any) -> Any:
        return seen({"inner": True})

    context = LambdaContext()
    assert handler({}, context).request_id == context.aws_request_id


# --- deadline --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remaining", "usable"),
    [(900.0, 899.5), (10.0, 9.5), (5.0, 4.5), (3.0, 2.7), (1.0, 0.9), (0.1, 0.09), (0.0, 0.0)],
)
def test_a_part_of_what_is_left_is_kept_for_the_answer(clock: FakeClock, remaining: float, usable: float) -> None:
    call = seen({}, LambdaContext(remaining=remaining))
    assert call.remaining == pytest.approx(usable, abs=0.002)


def test_the_deadline_comes_nearer_and_is_never_negative(clock: FakeClock) -> None:
    context = LambdaContext(remaining=10)
    clock.advance(4)
    call = seen({}, context)
    assert call.remaining == pytest.approx(5.5)
    clock.advance(60)
    assert call.remaining == 0.0
    assert seen({}, context).remaining == 0.0


def test_the_nearest_of_all_deadlines_holds(clock: FakeClock) -> None:
    @retry_ratelimit(deadline=2)
    def hurried(event: Any, context: Any) -> Any:
        return resilience.current().remaining

    assert hurried({}, LambdaContext(remaining=100)) == pytest.approx(2)
    assert hurried({}, LambdaContext(remaining=1)) == pytest.approx(0.9)


# --- cold ------------------------------------------------------------------------------------------------------------


def test_the_first_call_of_a_process_is_cold_and_no_other() -> None:
    script = """
import resilience
from resilience import retry_ratelimit
@retry_ratelimit
def one(): return resilience.current().cold
@retry_ratelimit
def other(): return resilience.current().cold
print(one(), one(), other())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "False", "False"]


def test_one_of_many_threads_is_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.COLD[:] = [True]
    ready = threading.Barrier(16)

    def work() -> bool:
        ready.wait()
        return bool(seen().cold)

    with ThreadPoolExecutor(16) as pool:
        cold = [future.result() for future in [pool.submit(work) for _ in range(16)]]
    assert sum(cold) == 1


# --- the one call of a process ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runtime")
def test_under_the_runtime_threads_belong_to_the_call_under_way() -> None:
    @retry_ratelimit
    def handler(event: Any, context: Any) -> Any:
        with ThreadPoolExecutor(4) as pool:
            return [pool.submit(resilience.current).result().request_id for _ in range(4)]

    assert handler({}, LambdaContext(aws_request_id="r-7")) == ["r-7"] * 4


@pytest.mark.usefixtures("runtime")
def test_a_pool_that_outlives_the_call_belongs_to_the_next_one() -> None:
    with ThreadPoolExecutor(1) as pool:

        @retry_ratelimit
        def handler(event: Any, context: Any) -> Any:
            return pool.submit(resilience.current).result().request_id

        assert handler({}, LambdaContext(aws_request_id="first")) == "first"
        with pytest.raises(resilience.ResilienceError, match="no call"):
            pool.submit(resilience.current).result()
        assert handler({}, LambdaContext(aws_request_id="second")) == "second"


@pytest.mark.usefixtures("runtime")
def test_after_a_failure_no_call_is_under_way() -> None:
    @retry_ratelimit
    def handler(event: Any, context: Any) -> Any:
        raise KeyError(event)

    with pytest.raises(KeyError):
        handler("x", LambdaContext())
    assert calls.EXCLUSIVE == [None]


@pytest.mark.usefixtures("runtime")
async def test_an_async_handler_is_the_one_call_too() -> None:
    @retry_ratelimit
    async def handler(event: Any, context: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(resilience.current).result().request_id

    # A loop runs here, so that the coroutine is the caller's to await.
    assert await handler({}, LambdaContext(aws_request_id="r-8")) == "r-8"
    assert calls.EXCLUSIVE == [None]


def test_elsewhere_they_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_LAMBDA_RUNTIME_API", raising=False)

    @retry_ratelimit
    def handler(event: Any, context: Any) -> Any:
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(resilience.ResilienceError):
                pool.submit(resilience.current).result()
            return pool.submit(resilience.bind(resilience.current)).result().request_id

    assert handler({}, LambdaContext(aws_request_id="r-9")) == "r-9"


# --- the runtime -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("runtime")
def test_an_async_handler_gives_its_answer_to_a_runtime_that_only_calls() -> None:
    @retry_ratelimit
    async def handler(event: Any, context: Any) -> Any:
        return event

    assert handler([1], LambdaContext()) == [1]
    # Whoever calls it otherwise awaits it.
    coroutine = handler([1], "no context")
    assert hasattr(coroutine, "send")
    coroutine.close()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(None, True), ("on-demand", True), ("provisioned-concurrency", True), ("snap-start", False)],
)
def test_init_is_used_but_not_before_a_snapshot(
    kind: str | None, expected: bool, runtime: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is None:
        monkeypatch.delenv("AWS_LAMBDA_INITIALIZATION_TYPE", raising=False)
    else:
        monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", kind)
    assert platforms.initialising() is expected


def test_outside_lambda_there_is_no_init_and_no_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_LAMBDA"):
            monkeypatch.delenv(name)
    assert not platforms.initialising()
    assert not platforms.only_calls_functions()
    assert not aws_lambda.when_restored(lambda: None)
    assert not aws_lambda.when_snapshotted(lambda: None)


def test_hooks_of_a_snapshot_are_registered_once_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    import snapshot_restore_py

    before: list[Any] = []
    after: list[Any] = []
    monkeypatch.setattr(snapshot_restore_py, "_before_snapshot_registry", before)
    monkeypatch.setattr(snapshot_restore_py, "_after_restore_registry", after)
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")

    @warm
    @resilience.pooled
    @retry_ratelimit
    @resilience.circuit_breaker
    @resilience.fresh_auth(env="KEY", hosts="api.example.com")
    def handler() -> None: ...

    # Sockets and credential before it; warm again after it.
    assert (len(before), len(after)) == (2, 1)


def test_without_the_package_for_snapshots_there_are_no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "snap-start")
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", None)
    assert not aws_lambda.when_restored(lambda: None)


class Behind:
    """A proxy with nothing behind it, as Flask's `request` outside of one."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("working outside of a request context")


def test_an_argument_that_can_t_be_asked_is_the_function_s_own_affair() -> None:
    assert seen(Behind()).invocation is PLAIN
    assert seen({}, context=Behind()).invocation is PLAIN
