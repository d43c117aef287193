"""The Lambda Runtime API on loopback, as the runtime client expects it.

Source: the Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes"; for SnapStart's `restore/next`,
the source of `awslambdaric`.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Exchange", "RuntimeAPI", "Task"]

_VERSION = "/2018-06-01/runtime"


class Task:
    """One event on its way to the function and back.

    What changes: the answer, by the thread that serves the child, under the condition of its `Exchange`.
    """

    def __init__(self, request_id: str, body: bytes, headers: dict[str, str]) -> None:
        self.request_id = request_id
        self.body = body
        self.headers = headers
        self.given = 0.0
        self.done = 0.0
        self.response: bytes | None = None
        #: The handler returned bytes, which are no JSON.
        self.raw = False
        self.error: dict[str, Any] | None = None


class Exchange:
    """What one child process and the test say to each other.

    What changes: everything; `changed` guards it, and is notified of each change.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        #: The child asked for an event, and none has been given it yet; when it first did (perf_counter seconds).
        self.waiting = False
        self.ready_at = 0.0
        #: It asked for the end of its snapshot.
        self.snapshotted = False
        self.restored = False
        self.init_error: dict[str, Any] | None = None
        self.task: Task | None = None
        self.current: Task | None = None
        #: No longer served.
        self.over = False

    def end(self) -> None:
        """Let go of all who wait."""
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def next(self) -> Task | None:
        """Wait for an event; None: there will be none."""
        with self.changed:
            if not self.ready_at:
                self.ready_at = time.perf_counter()
            self.waiting = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.over or self.task is not None)
            self.waiting = False
            task, self.task = self.task, None
            if task is not None:
                self.current = task
                task.given = time.perf_counter()
            return task

    def finish(self, request_id: str, response: bytes | None, error: dict[str, Any] | None, raw: bool = False) -> bool:
        """The child's answer; False: nobody asked."""
        with self.changed:
            task = self.current
            if task is None or task.request_id != request_id:
                return False
            task.response, task.error, task.raw, task.done = response, error, raw, time.perf_counter()
            self.current = None
            self.changed.notify_all()
            return True

    def restore_next(self) -> bool:
        """Wait for the restore; False: there will be none."""
        with self.changed:
            self.snapshotted = True
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.over or self.restored)
            return not self.over

    def fail_init(self, error: dict[str, Any]) -> None:
        """Importing the handler failed, or a hook did."""
        with self.changed:
            self.init_error = error
            self.changed.notify_all()


class RuntimeAPI(ThreadingHTTPServer):
    """The server. What changes: `exchange`, that of the present child, by the one thread that starts children."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        self.exchange = Exchange()
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A child that was killed leaves its requests unfinished: nothing to tell."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else each answer waits for the peer's delayed acknowledgement: 40 ms, twice.
    wbufsize = -1
    disable_nagle_algorithm = True
    server: RuntimeAPI

    def do_GET(self) -> None:
        exchange = self.server.exchange
        if self.path == f"{_VERSION}/invocation/next":
            task = exchange.next()
            if task is None:
                self.close_connection = True
            else:
                self._answer(200, task.body, task.headers)
        elif self.path == f"{_VERSION}/restore/next":
            if exchange.restore_next():
                self._answer(200, b"")
            else:
                self.close_connection = True
        else:
            self._answer(404, b"{}")

    def do_POST(self) -> None:
        body = self._body()
        exchange = self.server.exchange
        parts = self.path.removeprefix(f"{_VERSION}/").split("/")
        known = True
        if parts[0] == "invocation" and len(parts) == 3 and parts[2] == "response":
            raw = self.headers.get("Content-Type", "") == "application/unknown"
            known = exchange.finish(parts[1], body, None, raw)
        elif parts[0] == "invocation" and len(parts) == 3 and parts[2] == "error":
            known = exchange.finish(parts[1], None, _decoded(body))
        elif parts[1:] == ["error"] and parts[0] in ("init", "restore"):
            exchange.fail_init(_decoded(body))
        else:
            known = False
        self._answer(202 if known else 404, b'{"status":"OK"}')

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        # Trailers tell of an error that met a streamed response.
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """The test asks for what it wants to know."""


def _decoded(body: bytes) -> dict[str, Any]:
    try:
        error = json.loads(body)
    except ValueError:
        error = None
    return error if isinstance(error, dict) else {"errorType": "Unknown", "errorMessage": body.decode(errors="replace")}
