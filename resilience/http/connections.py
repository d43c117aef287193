"""urllib3's connections with live sockets: deadlines, idle expiry, forks, and what was made ahead of need.

Imports urllib3, so it is itself imported only when the first request is made.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys
import weakref
from typing import Any, ClassVar, cast

from urllib3 import connectionpool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.ssl_ import create_urllib3_context, resolve_cert_reqs

from resilience.core import events
from resilience.core.clock import CLOCK, Instant
from resilience.http import prewarm, sockets
from resilience.http.sockets import ATTEMPT, DeadlineSocket, remaining
from resilience.http.tls import DeadlineSSLSocket, SharedContext, secure

__all__ = ["HTTPConnection", "HTTPSConnection", "is_replaced"]


#: Interim responses before a final one; beyond, a server does not mean to answer.
MOST_INTERIM = 100


def _genuine(cls: Any) -> Any:
    # vcrpy may be recording while this module is imported; its stand-ins name the class that they stand for.
    return getattr(cls, "_baseclass", cls)


_HTTP: Any = _genuine(connectionpool.HTTPConnectionPool.ConnectionCls)
_HTTPS: Any = _genuine(connectionpool.HTTPSConnectionPool.ConnectionCls)


def is_replaced() -> bool:
    """Whether something (vcrpy, urllib3's HTTP/2, pytest-socket, a late gevent) stands where urllib3 would connect."""
    return (
        connectionpool.HTTPSConnectionPool.ConnectionCls is not _HTTPS
        or connectionpool.HTTPConnectionPool.ConnectionCls is not _HTTP
        or not sockets.is_stock()
    )


class FinalResponse(http.client.HTTPResponse):
    """The final answer, after any number of interim ones (RFC 9110 §15.2: 102, 103), of which `http.client` skips only
    100. It would take a 103 for the answer, and the answer itself for that of the next request on the connection."""

    def begin(self) -> None:
        super().begin()
        skipped = 0
        while self.status < 200:
            if self.status == 101:
                # What follows is no HTTP.
                self.will_close = True
                return
            skipped += 1
            if skipped > MOST_INTERIM:
                raise http.client.HTTPException(f"got more than {MOST_INTERIM} interim responses")
            # Which is how it knows that it has not begun.
            self.headers = None  # type: ignore[assignment]
            super().begin()


#: What changes: every connection of the process that is alive; only a forked child walks through them.
_connections: weakref.WeakSet[Any] = weakref.WeakSet()


class HTTPConnection(_HTTP):  # type: ignore[misc]
    """A connection that knows how old it is, and by when its attempt must be over.

    What changes: the attributes below, by the one thread that has the connection out of the pool.
    """

    scheme: ClassVar[str] = "http"
    response_class = FinalResponse
    #: Seconds of quiet after which it is not used again; set by `pools.pool_classes`.
    max_idle: ClassVar[float] = 55.0

    #: urllib3's base is `Any` to a type checker here; these are what is read and set of it.
    sock: Any
    ssl_context: Any = None

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.pid = os.getpid()
        self._fresh = True
        self._used = CLOCK.now()
        #: Of the pool, when it was last taken out of it: see `HTTPPool.retire`.
        self.era = 0
        #: How often it left the pool, and whether it lies there: so it is known whether a lost response still holds it.
        self.uses = 0
        self.pooled = False
        _connections.add(self)

    @property
    def dependency(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def connect(self) -> None:
        start = CLOCK.monotonic()
        # Before anything can fail: a later failure must not look like that of an older connection.
        self.pid, self._fresh, self._used = os.getpid(), True, CLOCK.now()
        prewarmed = self._connect()
        _connections.add(self)
        if events.LISTENERS:
            took = (CLOCK.monotonic() - start) * 1000
            events.emit(events.ConnectionOpened(self.dependency, took, prewarmed))

    def _connect(self) -> bool:
        """Connect; whether the connection had been made ahead."""
        if self.proxy is None and self._take(None):
            return True
        super().connect()
        return False

    def _take(self, ca: str | None) -> bool:
        """Look for a connection made ahead, for at most half of the time there is, so that another can be made."""
        left = self._left()
        found = prewarm.take(self.host, self.port, ca, None if left is None else left / 2)
        if found is not None:
            found.settimeout(self.timeout)
            self.sock = found
        return found is not None

    def _left(self) -> float | None:
        attempt = ATTEMPT.get()
        try:
            return remaining(self.timeout, attempt.deadline if attempt else None)
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "the deadline passed before there was a connection") from error

    def _budget(self) -> float | None:
        """What is left of the connect timeout: it is for the look-up, TCP and TLS together."""
        spent = CLOCK.monotonic() - self._used.monotonic
        return None if self.timeout is None else max(cast(float, self.timeout) - spent, 0.001)

    def _new_conn(self) -> DeadlineSocket:
        """The TCP connection: urllib3's own override point for it, with urllib3's errors."""
        attempt = ATTEMPT.get()
        deadline = attempt.deadline if attempt else None
        try:
            sock = sockets.open_socket(self._dns_host, self.port, self._budget(), deadline, self.source_address)
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error
        except TimeoutError as error:
            message = f"Connection to {self.host} timed out. (connect timeout={self.timeout})"
            raise ConnectTimeoutError(self, message) from error
        except OSError as error:
            raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
        for option in self.socket_options or ():
            sock.setsockopt(*option)
        # For what is said to a proxy before the request.
        sock.deadline = deadline
        # As urllib3 does, for whoever audits.
        sys.audit("http.client.connect", self, self.host, self.port)
        return sock

    def request(self, *args: Any, **settings: Any) -> None:
        attempt = ATTEMPT.get()
        if self.sock is None:
            self.connect()
        sock = self.sock
        # Before the check of the deadline: an old one must not stay on a pooled socket.
        sock.deadline = attempt.deadline if attempt else None
        self._used = CLOCK.now()
        fresh, self._fresh = self._fresh, False
        if attempt is not None:
            attempt.connection_reused = not fresh
            self._left()
            attempt.sent = True
        super().request(*args, **settings)

    @property
    def is_connected(self) -> bool:
        """Whether it may carry another request; urllib3 asks when it takes it out of the pool, and closes it if not."""
        if self.sock is None:
            return False
        why = self.unfit()
        if why is not None:
            self.tell_retired(why)
        return why is None

    def unfit(self) -> str | None:
        """Why the open connection may not carry another request: fork, idle or dropped; None if it may.

        It may read from it, so it is for whoever has taken the connection out of the pool, or holds the pool's lock.
        """
        if self.pid != os.getpid():
            return "fork"
        if CLOCK.since(self._touched()) > self.max_idle:
            return "idle"
        ours = isinstance(self.sock, DeadlineSocket)
        if super().is_connected:
            return "dropped" if ours and (self.sock.ended or self.sock.has_leftover()) else None
        return None if ours and self.sock.is_quiet() else "dropped"

    def tell_retired(self, why: str) -> None:
        if events.LISTENERS:
            events.emit(events.ConnectionRetired(self.dependency, why, CLOCK.since(self._touched())))

    def _touched(self) -> Instant:
        # TLS to a proxy that is itself reached by TLS is no socket of ours: there the last request's start counts.
        return max(self._used, cast(Instant, getattr(self.sock, "touched", self._used)))

    def forget(self) -> None:
        """In a forked child: give up this process's copy of the socket. Only the descriptor is closed, so the peer sees
        neither a shutdown nor TLS's close_notify, and the parent goes on using it."""
        fileno = getattr(self.sock, "fileno", lambda: -1)()
        if fileno >= 0 and isinstance(self.sock, DeadlineSocket):
            os.close(self.sock.detach())


class HTTPSConnection(HTTPConnection, _HTTPS):  # type: ignore[misc]
    """The same over TLS: by the process's shared context, unless the request asks for something that it cannot do."""

    scheme = "https"

    def _connect(self) -> bool:
        shared: Any = self.ssl_context
        if not isinstance(shared, SharedContext):
            return self._connect_alone()
        if self.proxy is not None:
            # The tunnel is urllib3's matter; TLS inside it is by our context.
            _HTTPS.connect(self)
            return False
        prewarmed = self._take(shared.ca)
        if prewarmed and self.sock.context is not shared:
            # The bundle has changed since.
            self.sock.close()
            self.sock, prewarmed = None, False
        if not prewarmed:
            self.sock = self._handshake(self._new_conn(), shared)
        self.is_verified = True
        return prewarmed

    def _handshake(self, sock: DeadlineSocket, context: SharedContext) -> DeadlineSSLSocket:
        try:
            wrapped = secure(sock, self.server_hostname or self.host, context, self._budget())
        except TimeoutError as error:
            message = f"TLS handshake with {self.host} timed out. (connect timeout={self.timeout})"
            raise ConnectTimeoutError(self, message) from error
        wrapped.settimeout(self.timeout)
        return wrapped

    def _connect_alone(self) -> bool:
        """Unverified, with a client certificate, or through a TLS proxy: as urllib3 does it, a context each time."""
        context = create_urllib3_context(cert_reqs=resolve_cert_reqs(self.cert_reqs))
        # Only so that its sockets know deadlines.
        context.sslsocket_class = DeadlineSSLSocket
        self.ssl_context = context
        try:
            _HTTPS.connect(self)
        finally:
            self.ssl_context = None
        return False


def _after_fork() -> None:
    for conn in list(_connections):
        conn.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
