"""Accepts connections and gives each a thread."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

from resilience.testing._wire import Connection, Gone


class Server:
    """Listens on a free port of 127.0.0.1 from its making until `stop`, in daemon threads.

    serve: called with each new connection, in a thread of its own; the connection is closed when it returns, or
    raises Gone or OSError.

    What changes: `_open`, `_stopping` and `accepted`, guarded by `_lock`.
    """

    def __init__(self, serve: Callable[[Connection], None], context: ssl.SSLContext | None) -> None:
        self._serve = serve
        self._context = context
        self._lock = threading.Lock()
        self._open: dict[Connection, threading.Thread] = {}
        self._stopping = False
        self._accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="FaultyAPI", daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """Close everything, those waiting included, and wait for the threads. Again: nothing."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        # A connection of our own wakes the acceptor on every platform; closing the listener does not.
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self._acceptor.join(5)
        self._listener.close()
        for connection, thread in self._still_open():
            connection.hang_up()
            thread.join(5)

    def drop(self) -> None:
        """Reset (RST) all connections."""
        for connection, _ in self._still_open():
            connection.doom()

    def _still_open(self) -> list[tuple[Connection, threading.Thread]]:
        with self._lock:
            return list(self._open.items())

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._stopping:
                sock.close()
                return
            # A client that has already left is none.
            with suppress(OSError):
                self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context:
            # The handshake is for the connection's own thread: a slow one holds up nobody.
            sock = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        self._accepted += 1
        connection = Connection(sock, self._accepted)
        thread = threading.Thread(target=self._run, args=(connection,), name="FaultyAPI connection", daemon=True)
        with self._lock:
            self._open[connection] = thread
        thread.start()

    def _run(self, connection: Connection) -> None:
        try:
            with suppress(Gone, OSError):
                self._serve(connection)
        finally:
            connection.sock.close()
            with self._lock:
                del self._open[connection]
