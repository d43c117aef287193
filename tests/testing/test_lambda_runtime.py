"""The real runtime client, run by our Runtime API: what a function can tell of Lambda, and what is left afterwards."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from resilience import ConfigurationError
from resilience.testing import LambdaRuntime

HANDLERS = """
import json, os, sys, threading, time

print("importing")
calls = 0
alive = []

def handler(event, context):
    global calls
    calls += 1
    return {"event": event, "calls": calls, "pid": os.getpid()}

def about(event, context):
    custom = context.client_context.custom if context.client_context else None
    return {
        "id": context.aws_request_id, "arn": context.invoked_function_arn, "name": context.function_name,
        "memory": context.memory_limit_in_mb, "left": context.get_remaining_time_in_millis(), "custom": custom,
        "env": os.environ.get("FLAVOUR"), "init": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"],
        "root": os.environ["LAMBDA_TASK_ROOT"],
    }

def told(event, context):
    global calls
    calls += 1
    what = event.get("do")
    if what == "sleep":
        time.sleep(event["seconds"])
    elif what == "raise":
        raise KeyError("no such thing")
    elif what == "exit":
        os._exit(event["status"])
    elif what == "exit afterwards":
        from awslambdaric.lambda_runtime_client import LambdaRuntimeClient
        LambdaRuntimeClient.wait_next_invocation = lambda self: time.sleep(0.05) or os._exit(0)
    elif what == "print":
        print(event["text"])
        print("to stderr", file=sys.stderr)
        sys.stdout.write("no end of line")
    elif what == "child":
        import subprocess
        alive.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]))
        return alive[-1].pid
    elif what == "unanswerable":
        return {1, 2}
    elif what == "nothing":
        return None
    return calls

def ticking():
    n = 0
    while True:
        n += 1
        ticks[0] = n
        time.sleep(0.005)

ticks = [0]

def ticked(event, context):
    if not alive:
        alive.append(threading.Thread(target=ticking, daemon=True))
        alive[0].start()
    return ticks[0]
"""

SNAPPED = """
import os, snapshot_restore_py
did = ["import"]

@snapshot_restore_py.register_before_snapshot
def before():
    did.append("before")
    print("about to be snapshotted")

@snapshot_restore_py.register_after_restore
def after():
    did.append("after")

def handler(event, context):
    return did
"""

Make = Callable[..., LambdaRuntime]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes runtimes of the functions above, or of a module of the test's own."""
    with ExitStack() as running:

        def make(handler: str = "handlers.told", source: str = HANDLERS, **settings: Any) -> LambdaRuntime:
            (tmp_path / f"{handler.split('.')[0]}.py").write_text(source)
            return running.enter_context(LambdaRuntime(handler, root=tmp_path, **settings))

        yield make


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False


def until(condition: Callable[[], Any], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


# --- invocations -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_first_invocation_is_cold_and_the_next_are_warm_in_the_same_process(make: Make) -> None:
    runtime = make("handlers.handler")

    first, second = runtime.invoke({"n": 1}), runtime.invoke({"n": 2})

    assert (first.cold, second.cold) == (True, False)
    assert first.init_ms > 0
    assert second.init_ms == 0
    assert first.payload == {"event": {"n": 1}, "calls": 1, "pid": runtime.pid}
    assert second.payload == {"event": {"n": 2}, "calls": 2, "pid": runtime.pid}
    assert runtime.answers == [first, second]


@pytest.mark.slow
def test_an_event_may_be_anything_that_json_can_hold(make: Make) -> None:
    runtime = make("handlers.handler")
    for event in ([1, "two"], "text, ünï ☃", 3, 4.5, True, None, {}, []):
        assert runtime.invoke(event).payload["event"] == event


@pytest.mark.slow
def test_init_is_done_ahead_by_start_and_billed_apart(make: Make) -> None:
    runtime = make()
    runtime.start()
    pid = runtime.pid

    first, second = runtime.invoke({}), runtime.invoke({})

    assert first.cold
    assert runtime.pid == pid
    assert first.init_ms <= first.billed_init_ms < first.init_ms + 1
    assert first.duration_ms <= first.billed_ms < first.duration_ms + 1
    assert runtime.billed_ms == first.billed_init_ms + first.billed_ms + second.billed_ms
    # What the caller waited holds the duration; init was before.
    assert first.total_ms >= first.duration_ms


@pytest.mark.slow
def test_the_context_and_the_environment_say_what_was_asked_for(make: Make, tmp_path: Path) -> None:
    runtime = make("handlers.about", memory_mb=1024, timeout=7, function_name="chat", env={"FLAVOUR": "mint"})

    said = runtime.invoke(None, request_id="abc-1", client_context={"custom": {"source": "phone, ünï"}}).payload

    assert 0 < said.pop("left") <= 7000
    assert said == {
        "id": "abc-1",
        "arn": "arn:aws:lambda:us-east-1:123456789012:function:chat",
        "name": "chat",
        "memory": "1024",
        "custom": {"source": "phone, ünï"},
        "env": "mint",
        "init": "on-demand",
        "root": str(tmp_path.resolve()),
    }
    assert runtime.invoke().payload["custom"] is None
    assert runtime.invoke().request_id != runtime.invoke().request_id
    assert 0 < runtime.invoke(timeout=2).payload["left"] <= 2000


@pytest.mark.slow
def test_what_the_handler_raises_or_cannot_return_is_the_error_and_the_sandbox_lives_on(make: Make) -> None:
    runtime = make()
    raised = runtime.invoke({"do": "raise"})
    unanswerable = runtime.invoke({"do": "unanswerable"})

    assert (raised.ok, raised.payload) == (False, None)
    assert raised.error is not None
    assert unanswerable.error is not None
    assert raised.error["errorType"] == "KeyError"
    assert "no such thing" in raised.error["errorMessage"]
    assert any("told" in line for line in raised.error["stackTrace"])
    assert unanswerable.error["errorType"] == "Runtime.MarshalError"
    after = runtime.invoke({})
    assert (after.cold, after.payload) == (False, 3)
    assert runtime.invoke({"do": "nothing"}).payload is None


@pytest.mark.slow
def test_each_answer_has_its_own_output_and_the_runtime_all_of_it(make: Make) -> None:
    runtime = make()
    first = runtime.invoke({"do": "print", "text": "one ☃"})
    second = runtime.invoke({"do": "print", "text": "two"})
    third = runtime.invoke({"do": "raise"})

    assert first.log == "importing\none ☃\nto stderr\nno end of line"
    assert second.log == "two\nto stderr\nno end of line"
    assert "[ERROR] KeyError" in third.log
    assert "\r" not in third.log
    assert runtime.logs == first.log + second.log + third.log


@pytest.mark.slow
def test_more_output_than_a_pipe_holds_holds_nobody_up(make: Make) -> None:
    runtime = make()
    answer = runtime.invoke({"do": "print", "text": "x" * 3_000_000})
    assert answer.ok
    assert answer.log.count("x") == 3_000_000


@pytest.mark.slow
def test_invocations_by_several_threads_go_one_after_another(make: Make) -> None:
    runtime = make()
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(runtime.invoke({}))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(a.payload for a in answers) == list(range(1, 9))
    assert [a.cold for a in runtime.answers] == [True] + [False] * 7


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_past_its_deadline_the_function_is_killed_and_the_next_is_cold(make: Make) -> None:
    runtime = make(timeout=30)
    assert runtime.invoke({}).cold
    pid = runtime.pid
    assert pid is not None

    late = runtime.invoke({"do": "sleep", "seconds": 60}, timeout=0.2)

    assert late.timed_out
    assert late.error is not None
    assert late.error["errorType"] == "Sandbox.Timedout"
    assert "Task timed out after 0.20 seconds" in late.error["errorMessage"]
    assert late.duration_ms >= 200
    assert not is_alive(pid)
    after = runtime.invoke({})
    assert (after.cold, after.payload, after.timed_out) == (True, 1, False)


@pytest.mark.slow
def test_a_process_that_ends_in_an_invocation_is_its_error_and_the_next_is_cold(make: Make) -> None:
    runtime = make()
    crashed = runtime.invoke({"do": "exit", "status": 3})

    assert crashed.error is not None
    assert crashed.error["errorType"] == "Runtime.ExitError"
    assert "status 3" in crashed.error["errorMessage"]
    assert not crashed.timed_out
    assert runtime.invoke({}).cold


@pytest.mark.slow
def test_a_process_that_ends_after_its_answer_costs_nobody_an_invocation(make: Make) -> None:
    runtime = make()
    for _ in range(2):
        # It ends before it asks for another event, and has not yet when the next one comes.
        answer = runtime.invoke({"do": "exit afterwards"})
        assert answer.ok
        assert answer.cold
    pid = runtime.pid
    assert pid is not None
    assert until(lambda: not is_alive(pid))
    assert runtime.invoke({}).cold


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("raise ValueError('no key')", "ValueError"),
        ("import no_such_module", "Runtime.ImportModuleError"),
        ("def other(event, context): ...", "Runtime.HandlerNotFound"),
        ("def handler(:", "Runtime.UserCodeSyntaxError"),
        ("import os; os._exit(9)", "Runtime.ExitError"),
    ],
)
def test_a_failed_init_is_the_invocations_error_and_that_of_start(make: Make, source: str, kind: str) -> None:
    runtime = make("broken.handler", source)
    answer = runtime.invoke({})

    assert answer.error is not None
    assert answer.error["errorType"] == kind
    assert answer.cold
    assert runtime.pid is None
    with pytest.raises(RuntimeError, match=kind):
        runtime.start()
    # Mended, it starts.
    (runtime.root / "broken.py").write_text("def handler(event, context): return 'mended'")
    assert runtime.invoke({}).payload == "mended"


@pytest.mark.slow
def test_an_init_that_takes_too_long_is_told_and_killed(make: Make) -> None:
    runtime = make("slow.handler", "import time; time.sleep(60)", init_timeout=0.3)
    answer = runtime.invoke({})

    assert answer.error is not None
    assert answer.error["errorType"] == "Sandbox.Timedout"
    assert "0.3" in answer.error["errorMessage"]
    assert runtime.pid is None


# --- frozen ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_frozen_process_does_nothing_until_it_is_thawed(make: Make) -> None:
    runtime = make("handlers.ticked")
    runtime.invoke()
    pid = runtime.pid
    assert until(lambda: runtime.invoke().payload > 0)

    runtime.freeze()
    runtime.freeze()
    before = cpu_of(pid)
    time.sleep(0.1)
    assert state_of(pid) == "T"
    assert cpu_of(pid) == before

    runtime.thaw()
    assert until(lambda: state_of(pid) != "T")
    runtime.freeze()
    # An invocation thaws by itself, and is warm.
    answer = runtime.invoke()
    assert answer.ok
    assert not answer.cold


@pytest.mark.slow
def test_between_invocations_the_process_is_frozen_where_that_is_wanted(make: Make) -> None:
    runtime = make("handlers.handler", freeze_between=True)
    assert runtime.invoke().ok
    pid = runtime.pid
    assert until(lambda: state_of(pid) == "T")
    assert runtime.invoke().payload["calls"] == 2
    assert until(lambda: state_of(pid) == "T")
    runtime.stop()
    assert pid is not None
    assert not is_alive(pid)


def state_of(pid: int | None) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def cpu_of(pid: int | None) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]


# --- snapshots -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_snapshot_waits_after_its_hooks_until_it_is_restored(make: Make) -> None:
    runtime = make("snapped.handler", SNAPPED, init_type="snap-start")
    runtime.snapshot()
    assert "about to be snapshotted" in runtime.logs
    pid = runtime.pid
    time.sleep(0.3)

    first = runtime.invoke()

    assert first.payload == ["import", "before", "after"]
    assert runtime.pid == pid
    assert first.cold
    # From the restore on: neither the import nor the time in the snapshot.
    assert first.init_ms < 300
    assert not runtime.invoke().cold


@pytest.mark.slow
def test_an_invocation_makes_and_restores_a_snapshot_by_itself(make: Make) -> None:
    runtime = make("snapped.handler", SNAPPED, init_type="snap-start")
    assert runtime.invoke().payload == ["import", "before", "after"]


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["register_before_snapshot", "register_after_restore"])
def test_a_hook_that_fails_is_the_error(make: Make, hook: str) -> None:
    source = f"""
import snapshot_restore_py
@snapshot_restore_py.{hook}
def fail():
    raise LookupError("hook")
def handler(event, context):
    return 1
"""
    answer = make("hooked.handler", source, init_type="snap-start").invoke()
    assert answer.error is not None
    assert answer.error["errorType"] == "LookupError"


# --- what is left ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_left_after_it_has_stopped(make: Make) -> None:
    threads = set(threading.enumerate())
    open_files = len(os.listdir("/proc/self/fd"))
    runtime = make()
    child = runtime.invoke({"do": "child"}).payload
    pid = runtime.pid
    assert pid is not None
    assert is_alive(child)
    port = port_of(pid)

    runtime.stop()
    runtime.stop()

    assert not is_alive(pid)
    # Killed with its parent; who reaps it is not us.
    assert until(lambda: not is_alive(child))
    assert until(lambda: set(threading.enumerate()) <= threads)
    assert until(lambda: len(os.listdir("/proc/self/fd")) <= open_files)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


@pytest.mark.slow
def test_recycling_throws_the_sandbox_away(make: Make) -> None:
    runtime = make()
    runtime.invoke({})
    pid = runtime.pid
    assert pid is not None
    runtime.freeze()

    runtime.recycle()

    assert runtime.pid is None
    assert not is_alive(pid)
    assert runtime.invoke({}).payload == 1


@pytest.mark.slow
def test_a_process_killed_from_outside_is_replaced(make: Make) -> None:
    runtime = make()
    runtime.invoke({})
    pid = runtime.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: not is_alive(pid))
    answer = runtime.invoke({})
    assert answer.ok
    assert answer.cold


def port_of(pid: int) -> int:
    environ = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    address = next(v for v in environ if v.startswith("AWS_LAMBDA_RUNTIME_API="))
    return int(address.rpartition(":")[2])


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("root", "/no/such/folder"),
        ("memory_mb", 64),
        ("memory_mb", 20_000),
        ("memory_mb", "512"),
        ("timeout", 0),
        ("timeout", 901),
        ("timeout", float("nan")),
        ("init_timeout", -1),
        ("init_type", "warm"),
        ("function_name", ""),
        ("env", {"N": 1}),
        ("python", "/no/such/python"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(setting: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=setting) as raised:
        LambdaRuntime("module.handler", **{setting: value})
    assert repr(value) in str(raised.value)


@pytest.mark.parametrize("handler", ["handler", "", None])
def test_a_handler_is_named_by_module_and_function(handler: Any) -> None:
    with pytest.raises(ConfigurationError, match="handler"):
        LambdaRuntime(handler)


def test_a_wrong_timeout_of_an_invocation_starts_nothing() -> None:
    with LambdaRuntime("module.handler") as runtime:
        for timeout in (0, -1, 901):
            with pytest.raises(ConfigurationError, match="timeout"):
                runtime.invoke({}, timeout=timeout)
        with pytest.raises(TypeError):
            runtime.invoke({1, 2})
        assert runtime.pid is None
