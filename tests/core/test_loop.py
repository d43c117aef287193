"""The one event loop of a process whose runtime only calls functions."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from resilience import retry_ratelimit
from resilience.core import loop as loops
from resilience.testing import LambdaContext


@pytest.fixture(autouse=True)
def _loop_of_the_test(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A loop of its own for each test, closed at its end."""
    monkeypatch.setattr(loops, "_loop", None)
    yield
    if loops._loop is not None and not loops._loop.is_closed():
        loops._loop.close()
    asyncio.set_event_loop(None)


async def which() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def test_it_is_the_same_for_all_runs() -> None:
    assert loops.run(which()) is loops.run(which())


def test_what_comes_of_it_is_returned_or_raised() -> None:
    async def fails() -> None:
        raise KeyError("mine")

    async def answers() -> int:
        await asyncio.sleep(0)
        return 7

    assert loops.run(answers()) == 7
    with pytest.raises(KeyError, match="mine"):
        loops.run(fails())
    assert loops.run(answers()) == 7


def test_a_task_left_running_goes_on_in_the_next_run() -> None:
    done: list[int] = []
    go: list[asyncio.Event] = []

    async def background() -> None:
        await go[0].wait()
        done.append(1)

    async def begin() -> asyncio.Task[None]:
        go.append(asyncio.Event())
        return asyncio.ensure_future(background())

    async def end(task: asyncio.Task[None]) -> None:
        go[0].set()
        await task

    task = loops.run(begin())
    assert done == []
    loops.run(end(task))
    assert done == [1]


def test_a_loop_that_was_closed_is_replaced() -> None:
    first = loops.run(which())
    first.close()
    second = loops.run(which())
    assert second is not first
    assert loops.run(which()) is second


def test_a_loop_that_is_busy_is_left_alone() -> None:
    busy, done = threading.Event(), threading.Event()

    async def hold() -> asyncio.AbstractEventLoop:
        busy.set()
        await asyncio.to_thread(done.wait, 20)
        return asyncio.get_running_loop()

    held: list[asyncio.AbstractEventLoop] = []
    thread = threading.Thread(target=lambda: held.append(loops.run(hold())))
    thread.start()
    assert busy.wait(20)
    other = loops.run(which())
    done.set()
    thread.join()

    assert other is not held[0]
    # Only for that one run.
    assert other.is_closed()
    assert loops.run(which()) is held[0]


async def test_where_a_loop_runs_the_coroutine_is_given_back() -> None:
    coroutine = which()
    assert loops.run(coroutine) is coroutine
    assert await coroutine is asyncio.get_running_loop()


def test_an_interrupt_leaves_it_usable() -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loops.run(interrupted())
    assert not loops.run(which()).is_closed()


def test_an_async_handler_runs_on_it_under_the_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")

    @retry_ratelimit
    async def handler(event: Any, context: Any) -> asyncio.AbstractEventLoop:
        return await which()

    assert handler({}, LambdaContext()) is handler({}, LambdaContext())
    assert asyncio.iscoroutinefunction(handler)


@pytest.mark.slow
def test_a_forked_child_has_a_loop_of_its_own_and_does_not_touch_its_parents() -> None:
    # Both share one epoll set: a child that closed the parent's loop would take the parent's waker out of it.
    script = """
import asyncio, gc, os, signal, warnings
from resilience.core import loop
warnings.simplefilter("ignore")
# Ends what is never woken.
signal.alarm(20)

async def which():
    await asyncio.to_thread(int)
    return id(asyncio.get_running_loop())

mine = loop.run(which())
child = os.fork()
if child == 0:
    other = loop.run(which())
    gc.collect()
    os._exit(0 if other != mine else 1)
assert os.waitpid(child, 0)[1] == 0
assert loop.run(which()) == mine
print("woken")
os._exit(0)
"""
    ran = subprocess.run([sys.executable, "-u", "-c", script], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "woken\n", "")
