"""Sockets that end by a deadline, and how they are opened. Standard library only, and no `ssl`: see `tls` for that.

A read timeout is per read, so a peer that drips a byte now and then holds a caller for ever. A socket here measures
every operation against one deadline as well.
"""

from __future__ import annotations

import socket
import threading
from contextvars import ContextVar
from typing import Any

from resilience.core.clock import CLOCK, Instant

__all__ = ["ATTEMPT", "Attempt", "DeadlineSocket", "is_stock", "open_socket", "remaining", "resolve"]

#: Seconds for which sent data may go unacknowledged before the kernel gives the connection up (RFC 5482, Linux only).
#: A frozen process whose flow was dropped meanwhile then learns of it long before the 15 minutes of retransmission.
USER_TIMEOUT = 5.0
#: Seconds of quiet before the kernel asks the peer whether it is still there, seconds between asking, and how often.
KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT = 30, 10, 3

Address = tuple[Any, ...]

#: What `socket.socket` was when the classes here were made from it.
_STOCK = socket.socket


class Attempt:
    """One try at a request, as the connection sees it.

    What changes: `sent` and `connection_reused`, by the one thread that makes the attempt.

    deadline: when all of it must be over, body included, by the monotonic clock; None for never.
    sent: the peer may have seen the first byte of the request. False after a failure to connect.
    connection_reused: the connection had served a request before.
    """

    __slots__ = ("connection_reused", "deadline", "sent")

    def __init__(self, deadline: float | None = None) -> None:
        self.deadline = deadline
        self.sent = False
        self.connection_reused = False


#: The attempt under way, told by the adapter to the connection through urllib3's calls, which have no room for it.
ATTEMPT: ContextVar[Attempt | None] = ContextVar("resilience_attempt", default=None)


def remaining(timeout: float | None, deadline: float | None) -> float | None:
    """Seconds that are left: the lesser of `timeout` and the time until `deadline`; None if neither is set.

    Raises TimeoutError if the deadline has passed.
    """
    if deadline is None:
        return timeout
    left = deadline - CLOCK.monotonic()
    if left <= 0.0:
        raise TimeoutError("the deadline has passed")
    return left if timeout is None else min(timeout, left)


class DeadlineSocket(socket.socket):
    """A socket each of whose operations also ends by `deadline`.

    What changes: the attributes, by the one thread that has the connection out of the pool, or the pool's lock.

    deadline: by the monotonic clock; None makes it a plain socket.
    read_timeout: what `settimeout` was last given; seconds.
    touched: when a byte last went either way.
    ended: `is_quiet` has found that it is not; what it read to find out is gone, so it stays so.
    """

    # Class attributes, because `SSLSocket` objects are made without a call to `__init__`.
    deadline: float | None = None
    read_timeout: float | None = None
    touched: Instant = Instant(0.0, 0.0)
    ended: bool = False
    #: What a read of nothing raises.
    _NOTHING: tuple[type[OSError], ...] = (BlockingIOError,)

    def settimeout(self, value: float | None, /) -> None:
        self.read_timeout = value
        super().settimeout(value)

    def _arm(self) -> None:
        super().settimeout(remaining(self.read_timeout, self.deadline))

    def recv(self, *args: Any) -> bytes:
        if self.deadline is not None:
            self._arm()
        data = super().recv(*args)
        self.touched = CLOCK.now()
        return data

    def recv_into(self, *args: Any) -> int:
        if self.deadline is not None:
            self._arm()
        count = super().recv_into(*args)
        self.touched = CLOCK.now()
        return count

    def send(self, *args: Any) -> int:
        if self.deadline is not None:
            self._arm()
        count = super().send(*args)
        self.touched = CLOCK.now()
        return count

    def sendall(self, data: Any, *flags: Any) -> None:
        # A view shows itself as none: bytes in this frame would show a credential where it is rendered with its locals.
        data = memoryview(data)
        if self.deadline is not None:
            self._arm()
        super().sendall(data, *flags)
        self.touched = CLOCK.now()

    def is_quiet(self) -> bool:
        """Whether an idle connection has had nothing from its peer: no end, and no answer that nobody asked for.

        That it is readable does not tell: a TLS 1.3 server sends session tickets after the handshake, and a connection
        made ahead of its first request still has them before it. To be asked only while nobody uses the connection.
        """
        self.ended = self.ended or not self._has_nothing()
        return not self.ended

    def has_leftover(self) -> bool:
        """Whether something has been read off the network that nobody asked for, so that the kernel shows nothing."""
        return False

    def _has_nothing(self) -> bool:
        before = self.gettimeout()
        super().settimeout(0.0)
        try:
            super().recv(1)
        except self._NOTHING:
            return True
        except OSError:
            return False
        else:
            return False
        finally:
            super().settimeout(before)


def is_stock() -> bool:
    """Whether `socket.socket` is what it was; pytest-socket, mocket and a late gevent put another in its place."""
    return socket.socket is _STOCK


def resolve(host: str, port: int, timeout: float | None = None) -> list[Address]:
    """The addresses of `host`, as `getaddrinfo` gives them, within `timeout` seconds (None: whatever it takes).

    The C library's resolver knows no timeout, so it is left to a thread of its own, and in line where none can start.
    Raises socket.gaierror, and TimeoutError when time is up.
    """
    host = host.strip("[]")
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except socket.gaierror:
        # A name, not a number.
        if timeout is None:
            return _look_up(host, port)
    answer: list[Any] = []
    done = threading.Event()

    def look_up() -> None:
        try:
            answer.append(_look_up(host, port))
        except Exception as error:
            answer.append(error)
        done.set()

    try:
        threading.Thread(target=look_up, name="resilience-dns", daemon=True).start()
    except RuntimeError:
        return _look_up(host, port)
    if not done.wait(timeout):
        raise TimeoutError(f"looking up {host} timed out")
    if isinstance(answer[0], Exception):
        raise answer[0]
    found: list[Address] = answer[0]
    return found


def _look_up(host: str, port: int, flags: int = 0) -> list[Address]:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, f"{host!r} is no host name: a label is empty or too long") from None


def connect(
    addresses: list[Address], timeout: float | None, deadline: float | None, bind: Any = None
) -> DeadlineSocket:
    """A connection to the first of `addresses` that answers, all within one `timeout` (seconds) and by `deadline`.

    An address that is not the last gets half of the time that is left, so that a dead one does not use it all up
    (as curl does). Raises OSError: the last address's, or TimeoutError.
    """
    end = None if timeout is None else CLOCK.monotonic() + timeout
    if deadline is not None:
        end = deadline if end is None else min(end, deadline)
    failure = OSError("getaddrinfo returned no address")
    for index, (family, kind, proto, _name, address) in enumerate(addresses):
        try:
            left = remaining(None, end)
        except TimeoutError as error:
            raise error if index == 0 else failure from None
        if left is not None and index + 1 < len(addresses):
            left /= 2
        sock = None
        try:
            sock = DeadlineSocket(family, kind, proto)
            sock.settimeout(left)
            if bind is not None:
                sock.bind(bind)
            sock.connect(address)
            _set_options(sock)
        except OSError as error:
            failure = error
            if sock is not None:
                sock.close()
        else:
            sock.touched = CLOCK.now()
            return sock
    raise failure


def open_socket(
    host: str, port: int, timeout: float | None = None, deadline: float | None = None, bind: Any = None
) -> DeadlineSocket:
    """Look `host` up and connect to it, both within one `timeout` (seconds; None: no limit) and by `deadline`.

    bind: the local address to come from. Raises socket.gaierror, TimeoutError or another OSError.
    """
    start = CLOCK.monotonic()
    addresses = resolve(host, port, remaining(timeout, deadline))
    if timeout is not None:
        timeout = max(timeout - (CLOCK.monotonic() - start), 0.001)
    return connect(addresses, timeout, deadline, bind)


def _set_options(sock: socket.socket) -> None:
    """No delay, and a kernel that notices a peer that is gone; what a platform does not know is left out."""
    tcp = socket.IPPROTO_TCP
    wanted = [
        (tcp, getattr(socket, "TCP_NODELAY", None), 1),
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (tcp, getattr(socket, "TCP_KEEPIDLE", None), KEEPALIVE_IDLE),
        (tcp, getattr(socket, "TCP_KEEPINTVL", None), KEEPALIVE_INTERVAL),
        (tcp, getattr(socket, "TCP_KEEPCNT", None), KEEPALIVE_COUNT),
        (tcp, getattr(socket, "TCP_USER_TIMEOUT", None), int(USER_TIMEOUT * 1000)),
    ]
    for level, name, value in wanted:
        if name is not None:
            try:
                sock.setsockopt(level, name, value)
            except OSError:
                # A sandbox (gVisor, Pyodide) may refuse one; none of them is needed for a correct answer.
                continue
