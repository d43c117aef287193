"""Connections made before they are needed, while the imports run. Standard library only, and little of it.

`requests` takes 100 ms to import. In that time a thread can look the host up, connect, and shake hands, by `socket` and
`ssl` alone; the adapter then finds the connected, verified socket here.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from resilience.core.clock import CLOCK
from resilience.core.errors import ConfigurationError

if TYPE_CHECKING:
    from resilience.http.sockets import DeadlineSocket

__all__ = ["drop_all", "prewarm", "take"]

#: Seconds after which nobody is expected to come for a connection; servers and NAT gateways begin to drop at 60.
MAX_IDLE = 55.0
PORTS = {"http": 80, "https": 443}

#: Host, port, and whether TLS is spoken.
Key = tuple[str, int, bool]


class _Ticket:
    """One connection under way.

    What changes: `sock`, `ca` (None: the default) and `closed`, guarded by `_lock`. `ready` is set when `sock` is
    there, and `ca` the path by which its peer was verified, or when they never will be; `gone` when it was taken or
    given up.
    """

    def __init__(self, ca: str | None) -> None:
        self.ca = ca
        self.sock: DeadlineSocket | None = None
        self.closed = False
        self.ready = threading.Event()
        self.gone = threading.Event()
        self.pid = os.getpid()

    def park(self, sock: DeadlineSocket, ca: str | None) -> None:
        with _lock:
            if not self.closed:
                self.sock, self.ca = sock, ca
                return
        sock.close()

    def claim(self) -> DeadlineSocket | None:
        """The socket, if it is there; from now on no other may be parked."""
        with _lock:
            sock, self.sock, self.closed = self.sock, None, True
        self.gone.set()
        return sock

    def close(self) -> None:
        sock = self.claim()
        if sock is not None:
            sock.close()


#: What changes: tickets that nobody has taken, by host, port and CA path. Guarded by `_lock`.
_tickets: dict[Key, list[_Ticket]] = {}
_lock = threading.Lock()


def prewarm(*urls: str, ca: str | None = None, connections: int = 1, timeout: float = 5.0) -> None:
    """Begin to connect to each of `urls` in the background; to stand first in a module, before its heavy imports.

    ca: path of the CA bundle; None for the one that `requests` uses by default.
    connections: how many to each host, at least 1. timeout: seconds for each of the steps, more than 0.

    Imports `socket` and `ssl`, as the caller's other imports would, and leaves all waiting to threads. Does nothing
    where a proxy applies to the host, or where no thread can be started. Failures are silent: the request that would
    have used the connection makes its own, and says what is wrong.

    Raises ConfigurationError for a setting that cannot work, a URL that is not `http(s)://host[:port]…` among them.
    """
    if not isinstance(connections, int) or connections < 1:
        raise ConfigurationError(f"connections: {connections!r} must be a whole number, at least 1")
    if not isinstance(timeout, int | float) or not 0.0 < timeout < float("inf"):
        raise ConfigurationError(f"timeout: {timeout!r} must be seconds, more than 0")
    targets = [target for target in map(_parse, urls) if not _proxied(*target)]
    started = [_start(*target, ca, timeout) for target in targets for _ in range(connections)]
    if any(started) and any(scheme == "https" for scheme, _, _ in targets):
        _load_early(ca)


def take(host: str, port: int, ca: str | None, wait: float | None = None) -> DeadlineSocket | None:
    """The connection made for `host`, `port` and CA path (None for plain HTTP); it is now the caller's.

    wait: seconds (None: no limit) to wait for one that is still under way. None if there is none, or if it failed, has
    been idle too long by either clock, was closed by its peer, or belongs to the process that this one was forked from.
    """
    if not _tickets:
        return None
    key = (host.lower(), port, ca is not None)
    end = None if wait is None else CLOCK.monotonic() + wait
    while True:
        with _lock:
            waiting = _tickets.get(key)
            if not waiting:
                return None
            ticket = waiting.pop(0)
            if not waiting:
                del _tickets[key]
        ticket.ready.wait(None if end is None else max(end - CLOCK.monotonic(), 0.0))
        sock = ticket.claim()
        if sock is None:
            continue
        ours = ticket.ca == ca and ticket.pid == os.getpid()
        if ours and CLOCK.since(sock.touched) <= MAX_IDLE and sock.is_quiet():
            return sock
        sock.close()


def drop_all() -> None:
    """Close what nobody has taken, and what is under way as soon as it is made: before a snapshot, or at the end."""
    with _lock:
        dropped = [ticket for waiting in _tickets.values() for ticket in waiting]
        _tickets.clear()
    for ticket in dropped:
        ticket.close()


def _start(scheme: str, host: str, port: int, ca: str | None, timeout: float) -> bool:
    # On the caller's thread, as `ssl` in `_load_early` and for the same reason.
    import resilience.http.sockets  # noqa: F401

    key = (host, port, scheme == "https")
    ticket = _Ticket(ca)
    with _lock:
        _tickets.setdefault(key, []).append(ticket)
    try:
        threading.Thread(target=_run, args=(ticket, key, timeout), name="resilience-prewarm", daemon=True).start()
    except RuntimeError:
        # Pyodide, or a process at its limit.
        _forget(key, ticket)
        return False
    return True


def _load_early(ca: str | None) -> None:
    """Import `ssl` on the caller's thread, and parse the bundle, which needs no GIL, on one of its own.

    `requests` needs `ssl` anyway. Imported on a thread, beside the imports of the main one, it took 100 ms instead of
    15: an import reads many small files, and after each the thread waits 5 ms for the GIL.
    """
    from resilience.http import tls

    def load() -> None:
        try:
            tls.tls_context(ca)
        except OSError:
            # The thread that needs it meets the same, and tells.
            return

    try:
        path = ca or tls.default_ca()
        if os.path.exists(path):
            threading.Thread(target=load, name="resilience-ca", daemon=True).start()
    except RuntimeError:
        return


def _run(ticket: _Ticket, key: Key, timeout: float) -> None:
    try:
        ticket.park(*_connect(*key, ticket.ca, timeout))
    except Exception as error:
        _forget(key, ticket)
        import logging

        logging.getLogger("resilience").debug("prewarming %s:%d failed: %r", key[0], key[1], error)
    finally:
        ticket.ready.set()
    # By the clock that stops while the process is frozen; `take` looks at both.
    ticket.gone.wait(MAX_IDLE)
    _forget(key, ticket)


def _connect(host: str, port: int, tls: bool, ca: str | None, timeout: float) -> tuple[DeadlineSocket, str | None]:
    from resilience.http.sockets import connect, resolve

    sock = connect(resolve(host, port), timeout, None)
    if not tls:
        return sock, None
    try:
        from resilience.http.tls import secure, tls_context

        context = tls_context(ca)
    except BaseException:
        sock.close()
        raise
    return secure(sock, host, context, timeout), context.ca


def _forget(key: Key, ticket: _Ticket) -> None:
    with _lock:
        waiting = _tickets.get(key, [])
        if ticket in waiting:
            waiting.remove(ticket)
            if not waiting:
                del _tickets[key]
    ticket.close()


def _parse(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of `url`, by hand: `urllib.parse` would be imported on the caller's time."""
    wrong = ConfigurationError(f"prewarm: {url!r} must be http://host[:port] or https://host[:port]")
    if not isinstance(url, str):
        raise wrong
    scheme, found, rest = url.partition("://")
    scheme = scheme.lower()
    if not found or scheme not in PORTS:
        raise wrong
    for mark in "/?#":
        rest = rest.partition(mark)[0]
    authority = rest.rpartition("@")[2]
    host, bracket, port = authority.rpartition("]")
    if bracket:
        host = host.removeprefix("[")
        if port and not port.startswith(":"):
            raise wrong
        port = port[1:]
    else:
        host, _, port = authority.partition(":")
    if not host or host != "".join(host.split()) or (port and not (port.isascii() and port.isdigit())):
        raise wrong
    number = int(port) if port else PORTS[scheme]
    if not 0 < number < 65536:
        raise wrong
    return scheme, host.lower(), number


def _proxied(scheme: str, host: str, port: int) -> bool:
    """Whether the environment names a proxy for this host. In doubt yes: then the request connects as it always did."""

    def read(name: str) -> str:
        return os.environ.get(name) or os.environ.get(name.upper()) or ""

    if not read(f"{scheme}_proxy") and not read("all_proxy"):
        return False
    for entry in read("no_proxy").replace(" ", "").lower().split(","):
        name = entry.lstrip(".")
        if entry == "*" or (name and (host == name or host.endswith("." + name) or f"{host}:{port}" == name)):
            return False
    return True


def _after_fork() -> None:
    """The parent's connections stay the parent's: this process closes its copies, which the peer does not notice."""
    global _lock
    _lock = threading.Lock()
    for waiting in _tickets.values():
        for ticket in waiting:
            if ticket.sock is not None:
                os.close(ticket.sock.detach())
    _tickets.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
