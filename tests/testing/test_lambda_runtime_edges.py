"""The rough edges of `LambdaRuntime`: interrupted, stopped half-way, forked, orphaned, asked for what cannot be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from resilience import ConfigurationError
from resilience.testing import LambdaRuntime

Make = Callable[..., LambdaRuntime]


@pytest.fixture
def function(tmp_path: Path) -> Iterator[Make]:
    """Writes a handler's module and runs it: `function("def handler(event, context): ...", timeout=1)`."""
    with ExitStack() as running:

        def make(source: str, **settings: Any) -> LambdaRuntime:
            (tmp_path / "fn.py").write_text(textwrap.dedent(source))
            return running.enter_context(LambdaRuntime("fn.handler", root=tmp_path, **settings))

        yield make


def state(pid: int) -> str:
    """The state of a process as the kernel tells it; X if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def is_alive(pid: int) -> bool:
    return state(pid) not in "ZX"


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether it holds before the time is up; what the kernel does takes it a moment."""
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


ONE = "def handler(event, context): return 1"
SLEEPS = """
    import time
    def handler(event, context):
        print("begun")
        time.sleep(event)
        return event
"""
FORKS = """
    import os, time
    child = os.fork()
    if not child:
        time.sleep(60)
        os._exit(0)
    def handler(event, context):
        if event: os._exit(1)
        return child
"""


@pytest.mark.slow
def test_bytes_that_the_handler_returns_stay_bytes(function: Make) -> None:
    assert function("def handler(event, context): return b'\\x00raw'").invoke().payload == b"\x00raw"


@pytest.mark.slow
def test_a_large_event_and_a_large_answer_pass(function: Make) -> None:
    text = "x" * 5_000_000
    assert function("def handler(event, context): return event").invoke(text).payload == text


@pytest.mark.slow
def test_a_freeze_in_the_middle_of_an_invocation_costs_its_time(function: Make) -> None:
    fn = function(SLEEPS)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fn.invoke, 0.2)
        assert eventually(lambda: "begun" in fn.logs)
        fn.freeze()
        time.sleep(0.5)
        fn.thaw()
    assert answer.result().ok
    # Longer than the handler slept, by most of the freeze.
    assert answer.result().duration_ms > 450


@pytest.mark.slow
def test_what_the_function_forked_is_frozen_and_ended_with_it(function: Make) -> None:
    fn = function(FORKS)
    child = fn.invoke().payload
    fn.freeze()
    assert eventually(lambda: state(child) == "T")
    fn.thaw()
    assert eventually(lambda: state(child) != "T")
    fn.recycle()
    assert eventually(lambda: not is_alive(child))


@pytest.mark.slow
def test_what_the_function_forked_does_not_outlive_a_crash(function: Make) -> None:
    fn = function(FORKS)
    child = fn.invoke().payload
    assert fn.invoke("crash").error["errorType"] == "Runtime.ExitError"
    assert eventually(lambda: not is_alive(child))


@pytest.mark.slow
def test_an_init_that_takes_too_long_has_timed_out(function: Make) -> None:
    assert function("import time; time.sleep(60)", init_timeout=0.3).invoke().timed_out


@pytest.mark.slow
@pytest.mark.parametrize("snapshot_first", [True, False])
def test_a_restore_has_run_its_hooks_when_it_returns(snapshot_first: bool, function: Make) -> None:
    fn = function(
        """
        from snapshot_restore_py import register_after_restore
        register_after_restore(lambda: print("after"))
        def handler(event, context): return 1
        """,
        init_type="snap-start",
    )
    if snapshot_first:
        fn.snapshot()
        assert "after" not in fn.logs
    fn.restore()
    assert "after" in fn.logs
    assert fn.invoke().cold


@pytest.mark.slow
def test_a_restore_whose_hook_fails_says_so(function: Make) -> None:
    fn = function(
        """
        from snapshot_restore_py import register_after_restore
        def fail(): raise ValueError("not restored")
        register_after_restore(fail)
        def handler(event, context): return 1
        """,
        init_type="snap-start",
    )
    fn.snapshot()
    with pytest.raises(RuntimeError, match="not restored"):
        fn.restore()
    assert fn.invoke().error["errorMessage"] == "not restored"


@pytest.mark.slow
def test_an_invocation_that_is_interrupted_leaves_the_sandbox_to_nobody(function: Make) -> None:
    fn = function(SLEEPS)

    def interrupt() -> None:
        if eventually(lambda: "begun" in fn.logs):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        fn.invoke(9)
    thread.join()
    after = fn.invoke(0)
    assert (after.payload, after.cold) == (0, True)


@pytest.mark.slow
def test_it_can_be_stopped_in_the_middle_of_an_invocation(function: Make) -> None:
    fn = function(SLEEPS, timeout=60)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(fn.invoke, 60)
        assert eventually(lambda: "begun" in fn.logs)
        fn.stop()
    assert answer.result().error["errorType"] == "Runtime.ExitError"


@pytest.mark.slow
def test_stopped_it_cannot_be_invoked(function: Make) -> None:
    fn = function(ONE)
    fn.invoke()
    fn.stop()
    fn.stop()
    with pytest.raises(RuntimeError, match="stopped"):
        fn.invoke()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sys.exit()", "os.kill(os.getpid(), 9)"], ids=["exit", "killed"])
def test_a_test_run_that_ends_without_stopping_takes_a_frozen_sandbox_with_it(how: str, tmp_path: Path) -> None:
    (tmp_path / "fn.py").write_text(ONE)
    script = f"""
import os, sys
from resilience.testing import LambdaRuntime
fn = LambdaRuntime("fn.handler", root={str(tmp_path)!r}, freeze_between=True)
fn.invoke()
print(fn.pid, flush=True)
{how}
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    pid = int(ended.stdout)
    try:
        assert eventually(lambda: not is_alive(pid))
    finally:
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_it_writes_nothing_beside_the_handler(function: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    assert function(ONE).invoke().ok
    assert [path.name for path in tmp_path.iterdir()] == ["fn.py"]


def test_without_snap_start_there_is_no_snapshot(function: Make) -> None:
    fn = function(ONE)
    for method in (fn.snapshot, fn.restore):
        with pytest.raises(ConfigurationError, match="init_type='on-demand'"):
            method()


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("handler", "fn.", "module.function"),
        ("function_name", "two words", "1 to 64"),
        ("env", {"KEY": 1}, "strings"),
        ("freeze_between", "yes", "True or False"),
        ("python", "/no/such/python", "interpreter"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, value: Any, allowed: str, tmp_path: Path) -> None:
    settings = {"handler": "fn.handler", "root": tmp_path, setting: value}
    with pytest.raises(ConfigurationError) as error:
        LambdaRuntime(settings.pop("handler"), **settings)
    assert f"{setting}={value!r}" in str(error.value)
    assert allowed in str(error.value)


@pytest.mark.parametrize("value", ["", "a b", "x\r\nEvil: 1", "x" * 129])
def test_a_request_id_that_no_header_could_carry_is_refused(value: str, function: Make) -> None:
    fn = function(ONE)
    with pytest.raises(ConfigurationError, match="request_id="):
        fn.invoke(request_id=value)
    assert fn.pid is None
