"""One relayed connection: two sockets and a delay line each way. It reads no clock; the relay tells it the time."""

from __future__ import annotations

import selectors
import socket
from collections import deque
from contextlib import suppress
from enum import Enum

from resilience.testing._wire import reset

#: Bytes under way in one direction beyond which no more are read: a window, so that memory is bounded.
WINDOW = 16 << 20
CHUNK = 1 << 18


class _End(Enum):
    EOF = "the sender has sent FIN"
    RESET = "the sender has sent RST"


class Side:
    """One socket of a flow and what is under way to it.

    not_before: what is read here counts as sent at this time at the earliest.
    """

    peer: Side

    def __init__(self, flow: Flow, sock: socket.socket, not_before: float) -> None:
        self.flow = flow
        self.sock = sock
        self.not_before = not_before
        self.queue: deque[tuple[float, bytes | _End]] = deque()
        self.queued = 0
        self.blocked = False
        self.ended = False
        self.finished = False

    def events(self) -> int:
        """The selector's events that this side wants to hear of."""
        reads = not self.ended and self.peer.queued < WINDOW
        return selectors.EVENT_READ * reads | selectors.EVENT_WRITE * self.blocked

    def put(self, due: float, item: bytes | _End) -> None:
        """Have `item` arrive here at `due`, never before what was put earlier."""
        if self.queue:
            due = max(due, self.queue[-1][0])
        self.queue.append((due, item))
        self.queued += len(item) if isinstance(item, bytes) else 0

    def receive(self) -> bytes | _End | None:
        """What there is to read: bytes, an end, or None for nothing yet."""
        try:
            return self.sock.recv(CHUNK) or _End.EOF
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            return _End.RESET


class Flow:
    """A client's connection, and its continuation to the target.

    What changes: everything, by the relay's thread alone.
    """

    def __init__(
        self, selector: selectors.BaseSelector, sock: socket.socket, port: int, now: float, rtt: float
    ) -> None:
        self._selector = selector
        self.last = now
        self.swallowing = False
        onward = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        # The connect of a real network: its last packet reaches the target after a round trip and a half.
        self.client = Side(self, sock, now + rtt)
        self.server = Side(self, onward, now + 1.5 * rtt)
        self.client.peer, self.server.peer = self.server, self.client
        self.sides = (self.client, self.server)
        for side in self.sides:
            side.sock.setblocking(False)
            side.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # A refusal shows itself when the socket is read.
        onward.connect_ex(("127.0.0.1", port))
        self._watch()

    @property
    def closed(self) -> bool:
        """Whether nothing is left of it."""
        return all(side.sock.fileno() < 0 for side in self.sides)

    def due(self) -> float | None:
        """When the next bytes are to arrive; None while nothing is under way."""
        times = [side.queue[0][0] for side in self.sides if side.queue and not side.blocked]
        return min(times, default=None)

    def read(self, side: Side, now: float, delay: float, idle: float | None) -> None:
        """Take what has come to `side` and send it on its way, or swallow it.

        delay: seconds one way. idle: seconds without traffic after which the flow is forgotten, or None.
        """
        if side.sock.fileno() < 0:
            return
        if idle is not None and now - self.last >= idle:
            self.swallow()
        item = side.receive()
        if item is None:
            return
        self.last = now
        if isinstance(item, _End):
            side.ended = True
        if not self.swallowing:
            side.peer.put(max(now, side.not_before) + delay, item)
        elif side.ended:
            self._close(side)
        self._watch()

    def deliver(self, now: float) -> int:
        """Hand over what is due by `now`; how many bytes that was."""
        carried = sum(self._deliver_to(side, now) for side in self.sides)
        if not self.swallowing and all(side.finished for side in self.sides):
            for side in self.sides:
                self._close(side)
        self._watch()
        return carried

    def _deliver_to(self, side: Side, now: float) -> int:
        carried = 0
        while side.queue and side.queue[0][0] <= now and side.sock.fileno() >= 0:
            due, item = side.queue.popleft()
            if item is _End.RESET:
                self.reset()
            elif item is _End.EOF:
                side.finished = True
                with suppress(OSError):
                    side.sock.shutdown(socket.SHUT_WR)
            else:
                assert isinstance(item, bytes)
                sent = self._send(side, item)
                side.queued -= sent
                carried += sent
                self.last = now
                if sent < len(item):
                    side.queue.appendleft((due, item[sent:]))
                    break
        return carried

    def _send(self, side: Side, data: bytes) -> int:
        try:
            sent = side.sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.reset()
            return 0
        side.blocked = sent < len(data)
        return sent

    def swallow(self) -> None:
        """From now on everything that comes, and everything under way, disappears."""
        self.swallowing = True
        for side in self.sides:
            side.queue.clear()
            side.queued, side.blocked = 0, False
            if side.ended:
                self._close(side)
        self._watch()

    def reset(self) -> None:
        """Reset both connections (RST)."""
        for side in self.sides:
            side.queue.clear()
            if side.sock.fileno() >= 0:
                self._forget(side)
                reset(side.sock)

    def _close(self, side: Side) -> None:
        if side.sock.fileno() >= 0:
            self._forget(side)
            side.sock.close()

    def _forget(self, side: Side) -> None:
        with suppress(KeyError):
            self._selector.unregister(side.sock)

    def _watch(self) -> None:
        """Tell the selector what each side wants to hear of now."""
        for side in self.sides:
            if side.sock.fileno() < 0:
                continue
            known = self._selector.get_map().get(side.sock)
            wanted = side.events()
            if known is None and wanted:
                self._selector.register(side.sock, wanted, side)
            elif known is not None and not wanted:
                self._selector.unregister(side.sock)
            elif known is not None and known.events != wanted:
                self._selector.modify(side.sock, wanted, side)
