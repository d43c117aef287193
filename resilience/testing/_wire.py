"""HTTP/1.1 on a socket, in the few lines that a server under one's own control needs."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, urlsplit

#: The longest head of a request, in bytes.
MAX_HEAD = 1 << 16
REASONS = {status.value: status.phrase for status in HTTPStatus}


class Gone(Exception):
    """The client has left, or the server is stopping: nobody waits for the answer."""


class Headers(dict[str, str]):
    """Headers under the names that were sent, found by any case; of a repeated one the last is kept."""

    def __getitem__(self, name: str) -> str:
        for key, value in self.items():
            if key.lower() == name.lower():
                return value
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(key.lower() == name.lower() for key in self)

    def get(self, name: str, default: Any = None) -> Any:
        try:
            return self[name]
        except KeyError:
            return default


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it was read. path: without the query."""

    method: str
    path: str
    query: dict[str, str]
    version: str
    headers: Headers
    body: bytes

    @property
    def key(self) -> str | None:
        """The bearer token, or None."""
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else None

    @property
    def keeps_alive(self) -> bool:
        """Whether the client means to use the connection again."""
        return self.version == "HTTP/1.1" and self.headers.get("Connection", "").lower() != "close"

    def json(self) -> Any:
        """The body as JSON, None if it is empty; ValueError if it is not JSON."""
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. events: the chunks of a streamed one, `delay` seconds apart, in place of `body`."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    events: tuple[bytes, ...] | None = None
    delay: float = 0.0
    content_type: str = field(default="application/json")

    @classmethod
    def of(cls, value: Any, status: int = 200, **headers: str) -> Answer:
        """`value` as JSON; underscores in the names of `headers` stand for dashes."""
        named = tuple((name.replace("_", "-"), text) for name, text in headers.items())
        return cls(status, json.dumps(value).encode(), named)

    def head(self, request: Request) -> bytes:
        """The status line and the headers."""
        reason = REASONS.get(self.status, "Unknown")
        lines = [f"HTTP/1.1 {self.status} {reason}", f"Date: {formatdate(usegmt=True)}", "Server: FaultyAPI"]
        if self.events is not None:
            lines += ["Content-Type: text/event-stream", "Transfer-Encoding: chunked"]
        elif self.has_body:
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if not request.keeps_alive:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    @property
    def has_body(self) -> bool:
        """Whether the status allows a body at all (RFC 9110 §6.4.1)."""
        return self.status not in (204, 304)

    def pieces(self, request: Request) -> list[bytes]:
        """The body as it goes over the wire: what may be sent at once, one item each."""
        if request.method == "HEAD" or not self.has_body:
            return []
        if self.events is None:
            return [self.body]
        chunks = [b"%x\r\n%s\r\n" % (len(event), event) for event in self.events]
        return [*chunks, b"0\r\n\r\n"]


class Connection:
    """A client's connection, used by its own thread alone; only `hang_up` is called from others.

    What changes: `buffer`, the bytes read and not yet used. Nothing guards it.
    """

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.buffer = bytearray()

    def handshake(self) -> None:
        """Do the server's half of the TLS handshake, if the connection is to have one."""
        if isinstance(self.sock, ssl.SSLSocket):
            self.sock.do_handshake()

    def answer_rubbish(self) -> None:
        """Answer the ClientHello with what is no ServerHello; without TLS, reset."""
        if not isinstance(self.sock, ssl.SSLSocket):
            self.reset()
            return
        # The plain socket's methods: what the TLS layer would send is a proper alert.
        socket.socket.recv(self.sock, MAX_HEAD)
        socket.socket.sendall(self.sock, b"this is no ServerHello\r\n")
        self.hang_up()

    def fill(self) -> None:
        """Read what is there, waiting for at least a byte."""
        data = self.sock.recv(1 << 16)
        if not data:
            raise Gone
        self.buffer += data

    def begin(self) -> None:
        """Wait until a request begins to arrive."""
        if not self.buffer:
            self.fill()

    def read_request(self) -> Request:
        """Read one request; ValueError if it is not HTTP."""
        while b"\r\n\r\n" not in self.buffer:
            if len(self.buffer) > MAX_HEAD:
                raise ValueError("the head of the request is too long")
            self.fill()
        head = self._take(self.buffer.index(b"\r\n\r\n") + 4)
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        headers = Headers()
        for line in lines:
            name, _, value = line.partition(":")
            headers[name] = value.strip()
        url = urlsplit(target)
        return Request(method, url.path, dict(parse_qsl(url.query)), version, headers, self._body(headers))

    def _body(self, headers: Headers) -> bytes:
        if headers.get("Expect", "").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self._take(int(headers.get("Content-Length", "0")))
        body = b""
        while size := int(self._line(), 16):
            body += self._take(size)
            self._line()
        while self._line():
            pass
        return body

    def _take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.fill()
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def _line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            self.fill()
        return self._take(self.buffer.index(b"\r\n") + 2)[:-2]

    def wait(self, seconds: float) -> None:
        """Let `seconds` pass; raise Gone as soon as the client leaves or the server stops."""
        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                self.sock.settimeout(left)
                with suppress(TimeoutError):
                    self.fill()
        finally:
            self.sock.settimeout(None)

    def wait_while(self, condition: Callable[[], bool]) -> None:
        """Wait, looking at `condition` a hundred times a second, until it is no longer true."""
        while condition():
            self.wait(0.01)

    def send(self, data: bytes) -> None:
        """Send all of `data`."""
        self.sock.sendall(data)

    def hang_up(self) -> None:
        """Send FIN and wake the thread that waits on this connection; safe from any thread."""
        with suppress(OSError):
            # The plain socket's method: SSLSocket's own would pull the TLS layer from under the reading thread.
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def doom(self) -> None:
        """Wake the thread that waits on this connection, and have its closing be an RST; safe from any thread."""
        _linger_zero(self.sock)
        with suppress(OSError):
            # Sends nothing: a FIN would come before the RST.
            socket.socket.shutdown(self.sock, socket.SHUT_RD)

    def finish(self) -> None:
        """Close politely, by TLS's close_notify and then FIN."""
        if isinstance(self.sock, ssl.SSLSocket):
            # Not blocking: the notice is sent, the peer's own is not waited for.
            with suppress(OSError, ValueError):
                self.sock.settimeout(0)
                self.sock.unwrap()
        self.hang_up()
        self.sock.close()

    def reset(self) -> None:
        """Close by RST."""
        reset(self.sock)


def reset(sock: socket.socket) -> None:
    """Close `sock` by RST."""
    _linger_zero(sock)
    sock.close()


def _linger_zero(sock: socket.socket) -> None:
    """Have `close` throw away what is unsent and send RST."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
