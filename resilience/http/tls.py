"""TLS contexts that are loaded once, and the TLS socket that ends by a deadline. Standard library (and certifi) only.

Parsing the CA bundle takes 20 ms and is all but a tenth of what a new connection costs; `requests` does it each time.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterable
from typing import Any

from resilience.core.clock import CLOCK
from resilience.http.sockets import ATTEMPT, DeadlineSocket, remaining

__all__ = ["DeadlineSSLSocket", "SharedContext", "default_ca", "secure", "tls_context"]

ALPN = ["http/1.1"]


class DeadlineSSLSocket(DeadlineSocket, ssl.SSLSocket):
    """The same promise as `DeadlineSocket`, over TLS."""

    _NOTHING = (ssl.SSLWantReadError,)

    def getpeername(self) -> Any:
        try:
            return super().getpeername()
        except OSError as error:
            # `ssl` asks before it shakes hands. Were the peer gone already, it would return a socket without TLS, or
            # raise and leave the descriptor open.
            if not hasattr(self, "_connected"):
                self.close()
                raise ConnectionResetError(errno.ECONNRESET, "the peer was gone before the TLS handshake") from error
            raise

    def has_leftover(self) -> bool:
        # The rest of a record of which the answer was the beginning; it would be taken for the next one.
        return self.pending() > 0

    def do_handshake(self, block: bool = False) -> None:
        attempt = ATTEMPT.get()
        if attempt is not None and attempt.deadline is not None:
            ssl.SSLSocket.settimeout(self, remaining(self.read_timeout, attempt.deadline))
        super().do_handshake(block)
        self.touched = CLOCK.now()


class SharedContext(ssl.SSLContext):
    """A context that verifies, shared by all connections of the process that trust the same `ca`.

    What changes: nothing after it was loaded. urllib3 sets the same ALPN list again at each connection; OpenSSL frees
    the old list while another thread, with the GIL released, may be copying it, so only the first time reaches OpenSSL.
    """

    ca: str
    _alpn: list[str] | None = None
    sslsocket_class = DeadlineSSLSocket

    def set_alpn_protocols(self, alpn_protocols: Iterable[str]) -> None:
        wanted = list(alpn_protocols)
        if wanted != self._alpn:
            super().set_alpn_protocols(wanted)
            self._alpn = wanted


#: What changes: one context per CA path, replaced when the file is. Guarded by `_lock`; read without it.
_contexts: dict[str, tuple[float, SharedContext]] = {}
_lock = threading.Lock()


def default_ca() -> str:
    """The path of the CA bundle that `requests` uses by default: the environment's, or certifi's."""
    path = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if path:
        return path
    import certifi

    return certifi.where()


def tls_context(ca: str | None = None) -> SharedContext:
    """The process's one context for the CA bundle (a file, or a directory of hashed files) at `ca`.

    ca: its path; None for `default_ca()`. A changed file is loaded anew.

    Raises OSError if there is nothing at the path, ssl.SSLError if what is there is not a bundle.
    """
    path = ca or default_ca()
    try:
        changed = os.stat(path).st_mtime
    except OSError:
        # The words of requests, which callers may know.
        message = f"Could not find a suitable TLS CA certificate bundle, invalid path: {path}"
        raise OSError(message) from None
    found = _contexts.get(path)
    if found is None or found[0] != changed:
        # Held while loading, so that the second of two threads does not spend the 20 ms as well.
        with _lock:
            found = _contexts.get(path)
            if found is None or found[0] != changed:
                found = _contexts[path] = (changed, _load(path))
    return found[1]


def _load(path: str) -> SharedContext:
    """As secure as `urllib3.util.ssl_.create_urllib3_context` makes one, which `prewarm` has no time to import."""
    context = SharedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.ca = path
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    if sys.version_info >= (3, 13):
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    context.hostname_checks_common_name = False
    # Servers ask for a client certificate later on only if this is on (urllib3#1634).
    context.post_handshake_auth = True
    context.set_alpn_protocols(ALPN)
    if key_log := os.environ.get("SSLKEYLOGFILE"):
        context.keylog_filename = os.path.expandvars(key_log)
    if os.path.isdir(path):
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(cafile=path)
    return context


def secure(sock: socket.socket, host: str, context: SharedContext, timeout: float | None) -> DeadlineSSLSocket:
    """TLS over a connected socket, the peer's certificate verified to be that of `host`; closes `sock` if it fails.

    timeout: seconds for all of the handshake, which also ends by the attempt's deadline.

    Raises ssl.SSLError, TimeoutError or another OSError.
    """
    try:
        sock.settimeout(timeout)
        # A certificate names neither the root's dot, nor an IPv6 address's brackets and zone.
        name = host.strip("[]").partition("%")[0].rstrip(".")
        wrapped = context.wrap_socket(sock, server_hostname=name)
    except BaseException:
        sock.close()
        raise
    assert isinstance(wrapped, DeadlineSSLSocket)
    return wrapped


def _after_fork() -> None:
    # Another thread of the parent may have held it.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
