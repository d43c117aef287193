"""AWS Lambda on this machine, as far as a function can tell: the real runtime client, run by a Runtime API of ours."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilience.core.errors import ConfigurationError
from resilience.core.settings import Settings
from resilience.testing._answer import Answer
from resilience.testing._lambda_env import environment
from resilience.testing._output import Output
from resilience.testing._runtime_api import Exchange, RuntimeAPI, Task

__all__ = ["Answer", "LambdaRuntime"]

_check = Settings("LambdaRuntime")
_ARN = "arn:aws:lambda:us-east-1:123456789012:function:"
_INIT_TYPES = ("on-demand", "provisioned-concurrency", "snap-start")


class LambdaRuntime:
    """Runs `handler` ("module.function" in the folder `root`) in one sandbox: a child process of `awslambdaric`.

    Use it in a `with` statement, or call `stop`; what was forgotten ends with this process at the latest.

    memory_mb: what the function is told it has (128 to 10240). timeout: seconds after which it is killed (above 0 to
        900). init_timeout: seconds that the init phase may take, or a restore (above 0 to 900; Lambda: 10).
    env: more environment variables; as in Lambda's read-only task root, no `.pyc` is written unless
        `PYTHONDONTWRITEBYTECODE` is "" there. function_name: 1 to 64 letters, digits, "-" and "_".
    init_type: "on-demand", "provisioned-concurrency" or "snap-start" (needs `snapshot-restore-py`).
    python: the interpreter. freeze_between: stop the process between invocations, as Lambda does.

    Raises `ConfigurationError` for a setting out of its range. The process is started at the first `invoke`, or by
    `start()`; after a deadline, a crash or a failed init the next invocation starts another.

    What changes: the sandbox, by whoever holds `_lock`, which each invocation does from start to end: a sandbox takes
    one at a time. `_frozen`, under `_signals`, so that it can be frozen in the middle of one. `_stopped`, once.
    """

    def __init__(
        self,
        handler: str,
        *,
        root: str | os.PathLike[str] = ".",
        memory_mb: int = 512,
        timeout: float = 10.0,
        env: Mapping[str, str] | None = None,
        init_type: str = "on-demand",
        function_name: str = "function",
        python: str = sys.executable,
        freeze_between: bool = False,
        init_timeout: float = 10.0,
    ) -> None:
        _matching("handler", handler, r"[^\s.]\S*\.[^\s.]+", '"module.function"')
        if not Path(root).is_dir():
            raise _check.wrong("root", root, "a folder")
        _check.integer("memory_mb", memory_mb, least=128, most=10240)
        _check.number("timeout", timeout, above=True, most=900.0)
        _check.number("init_timeout", init_timeout, above=True, most=900.0)
        _check.choice("init_type", init_type, _INIT_TYPES)
        _matching("function_name", function_name, r"[\w-]{1,64}", '1 to 64 letters, digits, "-" or "_"')
        _check.flag("freeze_between", freeze_between)
        if shutil.which(python) is None:
            raise _check.wrong("python", python, "the path of an interpreter")
        for name, value in (env or {}).items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise _check.wrong("env", env, "a mapping of strings to strings")
        if os.name != "posix":
            raise ConfigurationError("LambdaRuntime: awslambdaric runs on Linux and macOS only")
        self.handler = handler
        self.root = Path(root).resolve()
        self.memory_mb = memory_mb
        self.timeout = timeout
        self.init_type = init_type
        self.function_name = function_name
        self.freeze_between = freeze_between
        self.init_timeout = init_timeout
        self.answers: list[Answer] = []
        self._env = dict(env or {})
        self._python = python
        self._api: RuntimeAPI | None = None
        self._server: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._output = Output()
        self._started_at = 0.0
        self._fresh = False
        self._frozen = False
        self._stopped = False
        self._lock = threading.RLock()
        self._signals = threading.Lock()
        self._finalizer: weakref.finalize[[subprocess.Popen[bytes], int], Any] | None = None

    # ---- life

    def __enter__(self) -> LambdaRuntime:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the process and wait for the end of its init phase. Raises RuntimeError if that fails."""
        with self._lock:
            error = self._get_ready()
            if error is not None:
                self.recycle()
                raise RuntimeError(f"init failed: {error.get('errorType')}: {error.get('errorMessage')}\n{self.logs}")

    def stop(self) -> None:
        """End the process, an invocation under way included, and the API, for good. Again: nothing."""
        self._stopped = True
        child = self._child
        if child is not None:
            _signal(child, signal.SIGKILL)
        with self._lock:
            self.recycle()
            if self._api is not None:
                self._api.shutdown()
                self._api.server_close()
                self._api = None
            if self._server is not None:
                self._server.join()
                self._server = None

    def recycle(self) -> None:
        """Throw the sandbox away: the next invocation is a cold start."""
        with self._lock:
            child, self._child = self._child, None
            if child is None or self._api is None:
                return
            self._api.exchange.end()
            _end(child)
            if self._finalizer is not None:
                self._finalizer.detach()
            self._output.detach()
            with self._signals:
                self._frozen = False

    def freeze(self) -> None:
        """Stop the process and its children (SIGSTOP), as Lambda does between invocations; possible during one, too."""
        child = self._child
        with self._signals:
            if child is not None and not self._frozen:
                _signal(child, signal.SIGSTOP)
                self._frozen = True

    def thaw(self) -> None:
        """Let them go on (SIGCONT). `invoke` does so by itself."""
        child = self._child
        with self._signals:
            if child is not None and self._frozen:
                _signal(child, signal.SIGCONT)
                self._frozen = False

    def snapshot(self) -> None:
        """SnapStart: run the init phase and the hooks before the snapshot, then wait as a snapshot would.

        Raises RuntimeError if one fails; ConfigurationError without `init_type="snap-start"`.
        """
        self._need_snap_start()
        with self._lock:
            exchange = self._spawned()
            self._await(lambda: exchange.snapshotted, self.init_timeout)
            if not exchange.snapshotted:
                raise RuntimeError(f"no snapshot: {exchange.init_error or 'init did not end'}\n{self.logs}")

    def restore(self) -> None:
        """SnapStart: go on after the snapshot, which is made now if there is none, and run the hooks after the restore.

        Raises RuntimeError if one fails; ConfigurationError without `init_type="snap-start"`.
        """
        self._need_snap_start()
        with self._lock:
            self.thaw()
            error = self._get_ready()
            if error is not None:
                self.recycle()
                raise RuntimeError(f"restore failed: {error['errorType']}: {error['errorMessage']}\n{self.logs}")

    def _need_snap_start(self) -> None:
        if self.init_type != "snap-start":
            raise _check.wrong("init_type", self.init_type, '"snap-start", which a snapshot needs')

    @property
    def pid(self) -> int | None:
        """The child's process id, if there is one."""
        return None if self._child is None else self._child.pid

    @property
    def logs(self) -> str:
        """Everything printed so far."""
        return self._output.text()

    @property
    def billed_ms(self) -> int:
        """Milliseconds billed so far, init phases included (as AWS does since August 2025)."""
        return sum(a.billed_ms + a.billed_init_ms for a in self.answers)

    # ---- invocations

    def invoke(
        self,
        event: Any = None,
        *,
        client_context: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """Run the handler on `event`, anything that JSON can hold.

        timeout: seconds for this invocation in place of the function's (above 0 to 900). request_id: 1 to 128 letters,
        digits, "-", "_" or "."; a new UUID by default.

        What goes wrong in the function is in `.error`, not raised; an event that is no JSON is a TypeError or
        ValueError, and after `stop` there is a RuntimeError.
        """
        _check.number("timeout", timeout, above=True, most=900.0, optional=True)
        if request_id is not None:
            _matching("request_id", request_id, r"[\w.-]{1,128}", '1 to 128 letters, digits, "-", "_" or "."')
        answer = Answer(request_id or str(uuid.uuid4()))
        body = json.dumps(event).encode()
        with self._lock:
            try:
                self._invoke(answer, body, client_context, timeout or self.timeout)
            except BaseException:
                # Interrupted half-way, the sandbox is of no use to the next.
                self.recycle()
                raise
            self.answers.append(answer)
            if self.freeze_between:
                self.freeze()
        return answer

    def _invoke(self, answer: Answer, body: bytes, client_context: Any, timeout: float) -> None:
        asked = time.perf_counter()
        mark = self._output.mark()
        self.thaw()
        error = self._get_ready()
        answer.cold, self._fresh = self._fresh, False
        if answer.cold and self._api is not None:
            ready = self._api.exchange.ready_at or time.perf_counter()
            answer.init_ms = (ready - self._started_at) * 1000
        if error is not None:
            answer.error = error
            answer.timed_out = error.get("errorType") == "Sandbox.Timedout"
            self.recycle()
        else:
            self._run(answer, body, client_context, timeout)
        answer.total_ms = (time.perf_counter() - asked) * 1000
        answer.log = self._output.text(mark)

    def _run(self, answer: Answer, body: bytes, client_context: Any, timeout: float) -> None:
        assert self._api is not None
        exchange = self._api.exchange
        task = Task(answer.request_id, body, self._headers(answer.request_id, client_context, timeout))
        with exchange.changed:
            exchange.task = task
            exchange.changed.notify_all()
        self._await(lambda: bool(task.done), timeout)
        ended = task.done or time.perf_counter()
        answer.duration_ms = (ended - (task.given or ended)) * 1000
        if task.done:
            answer.error = task.error
            if task.raw:
                answer.payload = task.response
            elif task.response:
                answer.payload = json.loads(task.response)
        elif self._child is not None and self._child.poll() is not None:
            code = self._child.returncode
            answer.error = {"errorType": "Runtime.ExitError", "errorMessage": f"Runtime exited with status {code}"}
            self.recycle()
        else:
            answer.timed_out = True
            answer.error = {
                "errorType": "Sandbox.Timedout",
                "errorMessage": f"{answer.request_id} Task timed out after {timeout:.2f} seconds",
            }
            self.recycle()

    def _headers(self, request_id: str, client_context: Any, timeout: float) -> dict[str, str]:
        headers = {
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + timeout) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": f"{_ARN}{self.function_name}",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0",
        }
        if client_context is not None:
            headers["Lambda-Runtime-Client-Context"] = json.dumps(client_context)
        return headers

    # ---- the child

    def _get_ready(self) -> dict[str, Any] | None:
        """Have a child that waits for an event; else the error that says why not."""
        exchange = self._spawned()
        if self.init_type == "snap-start" and not exchange.restored:
            try:
                self.snapshot()
            except RuntimeError as error:
                return exchange.init_error or {"errorType": "Runtime.Unknown", "errorMessage": str(error)}
            # The time in the snapshot is nobody's.
            self._started_at = time.perf_counter()
            with exchange.changed:
                exchange.restored = True
                exchange.changed.notify_all()
        self._await(lambda: exchange.waiting, self.init_timeout)
        if exchange.waiting:
            return None
        if exchange.init_error is not None:
            return exchange.init_error
        if self._child is not None and self._child.poll() is not None:
            if not self._fresh:
                # It ended after its last answer: nobody's invocation is lost by that.
                return self._get_ready()
            return {"errorType": "Runtime.ExitError", "errorMessage": f"exited with status {self._child.returncode}"}
        return {"errorType": "Sandbox.Timedout", "errorMessage": f"init took longer than {self.init_timeout:g} s"}

    def _spawned(self) -> Exchange:
        if self._child is not None and self._child.poll() is not None:
            self.recycle()
        if self._child is None:
            self._spawn()
        assert self._api is not None
        return self._api.exchange

    def _spawn(self) -> None:
        if self._stopped:
            raise RuntimeError("this LambdaRuntime has been stopped")
        if self._api is None:
            self._api = RuntimeAPI()
            # The default looks every half second whether to stop.
            self._server = threading.Thread(
                target=self._api.serve_forever, kwargs={"poll_interval": 0.01}, name="LambdaRuntime", daemon=True
            )
            self._server.start()
        self._api.exchange = Exchange()
        self._started_at = time.perf_counter()
        self._fresh = True
        self._child = subprocess.Popen(
            [self._python, "-m", "awslambdaric", self.handler],
            cwd=self.root,
            env=environment(
                handler=self.handler,
                root=str(self.root),
                name=self.function_name,
                memory_mb=self.memory_mb,
                init_type=self.init_type,
                api=f"127.0.0.1:{self._api.server_port}",
                env=self._env,
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            # A group of its own in our session: should we be killed, the kernel ends it even while it is stopped.
            process_group=0,
        )
        # Also when it is forgotten, and at the exit of the interpreter.
        self._finalizer = weakref.finalize(self, _forgotten, self._child, os.getpid())
        assert self._child.stdout is not None
        self._output.attach(self._child.stdout)

    def _await(self, condition: Any, seconds: float) -> None:
        """Until `condition` holds, the child ends, init fails, or the time is up."""
        assert self._api is not None
        exchange = self._api.exchange
        until = time.perf_counter() + seconds
        with exchange.changed:
            while not condition() and exchange.init_error is None:
                left = until - time.perf_counter()
                if left <= 0 or self._child is None or self._child.poll() is not None:
                    return
                # Woken at once by the child's requests; its death makes none, so look for it.
                exchange.changed.wait(min(left, 0.05))


def _signal(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill it with all that it started, and wait for it."""
    _signal(child, signal.SIGKILL)
    child.wait()


def _forgotten(child: subprocess.Popen[bytes], owner: int) -> None:
    # A fork of ours that exits is not its owner.
    if os.getpid() == owner:
        _end(child)


def _matching(setting: str, value: Any, pattern: str, allowed: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value, re.ASCII):
        raise _check.wrong(setting, value, allowed)
