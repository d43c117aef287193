"""A TCP relay on loopback: distance, and networks that forget."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import TypeVar

from resilience.core.settings import Settings
from resilience.testing._flow import Flow, Side

__all__ = ["Relay"]

T = TypeVar("T")
_check = Settings("Relay")


class Relay:
    """Relays connections to `target_port` on 127.0.0.1, as if it were `rtt` seconds away and back.

    target_port: 1 to 65535. rtt: the round-trip time, 0 to 60 s. scheme: of `url`, "https" or "http".

    Each direction is delayed by half of `rtt`, by a delay line: bytes keep their order, and many may be under way at
    once, so that latency does not limit bandwidth. A connect over loopback completes at once, where a real one takes a
    round trip; to make up for it, what the client sends counts as sent one `rtt` after its connect at the earliest:
    its first byte arrives `rtt + rtt/2` after the connect, and nothing comes back before `2 * rtt`.

    The kernel acknowledges what a black hole swallows, since TCP ends in this process: the client's TCP_USER_TIMEOUT
    and keepalive notice nothing, only its read timeout does.

    What changes: everything, by the relay's own thread alone; the methods hand it work and wait until that is done.
    """

    def __init__(self, target_port: int, rtt: float = 0.0, *, scheme: str = "https") -> None:
        _check.integer("target_port", target_port, least=1, most=65535)
        _check.number("rtt", rtt, most=60)
        _check.choice("scheme", scheme, ("https", "http"))
        self._target_port = target_port
        self._rtt = rtt
        self._scheme = scheme
        self._connections = self._carried = 0
        self._idle: float | None = None
        self._flows: set[Flow] = set()
        self._work: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._stopping = False

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> Relay:
        """Listen on a free port. Once only; else RuntimeError."""
        if self._thread:
            raise RuntimeError("a Relay is started once")
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._port: int = self._listener.getsockname()[1]
        self._selector = selectors.DefaultSelector()
        self._bell, self._ringer = socket.socketpair()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._listen()
        self._thread = threading.Thread(target=self._run, name="Relay", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Reset all flows and stop. Again, or before `start`: nothing."""
        if self._thread is None or self._stopping:
            return

        def leave() -> None:
            self._stopping = True

        self._do(leave)
        self._thread.join(5)

    def __enter__(self) -> Relay:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1 to connect to; RuntimeError before `start`."""
        if self._thread is None:
            raise RuntimeError("Relay is not started: use it in a `with` statement or call start()")
        return self._port

    @property
    def url(self) -> str:
        """`https://localhost:PORT`."""
        return f"{self._scheme}://localhost:{self.port}"

    @property
    def base_url(self) -> str:
        """`url` with `/v1`."""
        return self.url + "/v1"

    # --- the network ------------------------------------------------------------------------------------------------

    @property
    def rtt(self) -> float:
        """The round-trip time in seconds; may be set at any time (0 to 60), for what is sent from then on."""
        return self._rtt

    @rtt.setter
    def rtt(self, seconds: float) -> None:
        _check.number("rtt", seconds, most=60)
        self._rtt = seconds

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        return self._connections

    @property
    def bytes(self) -> int:
        """How many bytes were delivered, in both directions together."""
        # Asked of the thread: what the peer has seen already is counted only when a whole delivery has ended.
        return self._do(lambda: self._carried) if self._thread and not self._stopping else self._carried

    def black_hole(self) -> int:
        """Swallow, from now on and without FIN or RST, all that the open flows send; how many there are.

        New connections work.
        """
        return self._do(lambda: self._each_flow(Flow.swallow))

    def black_hole_idle(self, seconds: float | None) -> int:
        """Forget flows as a NAT does: one without traffic for `seconds` (0 to 86400) is a black hole from then on.

        It holds for flows to come too, until None ends it; what is swallowed remains so. Returns how many of the open
        flows are that idle already.
        """
        _check.number("seconds", seconds, most=86_400, optional=True)

        def forget() -> int:
            self._idle = seconds
            now = time.monotonic()
            return sum(seconds is not None and now - flow.last >= seconds for flow in self._flows)

        return self._do(forget)

    def drop(self) -> int:
        """Reset (RST) all flows, those in a black hole too; how many there were."""
        return self._do(lambda: self._each_flow(Flow.reset))

    def refuse(self) -> None:
        """Stop listening: new connections are refused; those open go on."""

        def close() -> None:
            self._selector.unregister(self._listener)
            self._listener.close()
            # Bound but not listening: connections are refused, and nobody else can have the port.
            self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self._port))
            self._listening = False

        self._do(lambda: close() if self._listening else None)

    def accept(self) -> None:
        """Listen again, on the same port."""
        self._do(lambda: None if self._listening else self._listen())

    # --- the thread -------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._listener.listen(1024)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._listening = True

    def _each_flow(self, act: Callable[[Flow], None]) -> int:
        flows = list(self._flows)
        for flow in flows:
            act(flow)
        return len(flows)

    def _do(self, act: Callable[[], T]) -> T:
        """Have the relay's thread run `act`, and wait for what it returns."""
        if self._thread is None or self._stopping:
            raise RuntimeError("Relay is not running")
        done: Future[T] = Future()

        def work() -> None:
            try:
                done.set_result(act())
            except Exception as exc:
                done.set_exception(exc)

        self._work.append(work)
        self._ringer.send(b"!")
        return done.result(10)

    def _run(self) -> None:
        try:
            while not self._stopping:
                for key, _ in self._selector.select(self._until_next()):
                    self._attend(key.fileobj, key.data)
                self._deliver()
        finally:
            self._each_flow(Flow.reset)
            for sock in (self._listener, self._bell, self._ringer):
                sock.close()
            self._selector.close()

    def _attend(self, ready: object, side: Side | None) -> None:
        if side is not None:
            if side.blocked:
                side.blocked = False
            side.flow.read(side, time.monotonic(), self._rtt / 2, self._idle)
        elif ready is self._bell:
            self._bell.recv(4096)
            while self._work:
                self._work.popleft()()
        elif ready is self._listener:
            self._welcome()

    def _welcome(self) -> None:
        # A client that has already left is none.
        with suppress(OSError):
            sock, _ = self._listener.accept()
            self._connections += 1
            self._flows.add(Flow(self._selector, sock, self._target_port, time.monotonic(), self._rtt))

    def _deliver(self) -> None:
        now = time.monotonic()
        for flow in list(self._flows):
            due = flow.due()
            if due is not None and due <= now:
                self._carried += flow.deliver(now)
            if flow.closed:
                self._flows.discard(flow)

    def _until_next(self) -> float | None:
        times = [due for flow in self._flows if (due := flow.due()) is not None]
        return max(min(times) - time.monotonic(), 0.0) if times else None
