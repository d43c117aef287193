"""Servers that say more than they were asked: no request is given the answer to another."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from resilience.http.adapter import PooledAdapter
from resilience.http.sockets import Attempt
from resilience.testing._certificate import Certificate


def answer(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


class Talking:
    """A server that gives each request, over whichever connection, the next of `answers`."""

    def __init__(self, *answers: bytes, context: Any = None) -> None:
        self.answers = list(answers)
        self.context = context
        self.connections = 0
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.sock.getsockname()[1]}/"

    def __enter__(self) -> Talking:
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def serve(self) -> None:
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.talk, args=(conn,), daemon=True).start()

    def talk(self, conn: socket.socket) -> None:
        with contextlib.suppress(OSError, IndexError):
            if self.context is not None:
                conn = self.context.wrap_socket(conn, server_side=True)
            with conn:
                while conn.recv(65536):
                    conn.sendall(self.answers.pop(0))


@pytest.fixture
def adapter() -> Iterator[PooledAdapter]:
    made = PooledAdapter()
    yield made
    made.close()


def ask(adapter: PooledAdapter, url: str, verify: Any = True) -> requests.Response:
    request = requests.Request("GET", url).prepare()
    options: dict[str, Any] = {"stream": False, "timeout": 10, "cert": None, "proxies": None}
    return adapter.send_attempt(request, verify=verify, attempt=Attempt(None), **options)


@pytest.mark.parametrize("interim", ["102 Processing", "103 Early Hints\r\nLink: </style.css>; rel=preload"])
def test_the_answer_after_an_interim_one_is_its_own_request_s(adapter: PooledAdapter, interim: str) -> None:
    first = f"HTTP/1.1 {interim}\r\n\r\n".encode() * 2 + answer("first")
    with Talking(first, answer("second")) as server:
        responses = [ask(adapter, server.url) for _ in range(2)]
        assert [(r.status_code, r.text) for r in responses] == [(200, "first"), (200, "second")]
        assert "Link" not in responses[0].headers
        assert server.connections == 1


def test_a_server_that_never_gets_to_its_answer_is_given_up(adapter: PooledAdapter) -> None:
    with Talking(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 200) as server, pytest.raises(requests.ConnectionError):
        ask(adapter, server.url)


def test_a_connection_that_changed_its_protocol_is_not_used_again(adapter: PooledAdapter) -> None:
    with Talking(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\n\r\n", answer("second")) as server:
        assert ask(adapter, server.url).status_code == 101
        assert ask(adapter, server.url).text == "second"
        assert server.connections == 2


def test_what_comes_after_an_answer_in_its_record_is_not_the_next_answer(adapter: PooledAdapter) -> None:
    certificate = Certificate(["127.0.0.1"])
    first = answer("first")
    # As much as the reader of the first answer takes in at once: the rest of the record stays with TLS, unseen by
    # whoever asks the kernel whether the connection is quiet.
    first += b" " * (8192 - len(first)) + answer("not asked for")
    try:
        with Talking(first, answer("second"), context=certificate.context) as server:
            assert [ask(adapter, server.url, certificate.ca_file).text for _ in range(2)] == ["first", "second"]
            assert server.connections == 2
    finally:
        certificate.remove()
