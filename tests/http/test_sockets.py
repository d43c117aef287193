"""Sockets and TLS contexts, against real listeners on loopback."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator

import certifi
import pytest
from urllib3.util.ssl_ import create_urllib3_context

from resilience.core.clock import CLOCK
from resilience.http import sockets, tls
from resilience.http.sockets import ATTEMPT, Attempt, DeadlineSocket, open_socket
from resilience.testing.faulty_api import FaultyAPI


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port whose backlog is full, so that the kernel drops every SYN."""
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()[1]


def dripping(listener: socket.socket, stop: threading.Event) -> threading.Thread:
    def serve() -> None:
        conn, _ = listener.accept()
        with conn, contextlib.suppress(OSError):
            while not stop.wait(0.02):
                conn.send(b".")

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_socket_without_a_deadline_is_a_plain_one(listener: socket.socket) -> None:
    sock = open_socket("127.0.0.1", listener.getsockname()[1], timeout=5.0)
    peer, _ = listener.accept()
    with sock, peer:
        peer.sendall(b"hello")
        assert sock.recv(5) == b"hello"
        assert sock.deadline is None
        assert CLOCK.since(sock.touched) < 5.0


def test_every_read_that_succeeds_in_time_still_ends_by_the_deadline(listener: socket.socket) -> None:
    stop = threading.Event()
    server = dripping(listener, stop)
    sock = open_socket("127.0.0.1", listener.getsockname()[1], timeout=5.0)
    try:
        sock.settimeout(5.0)
        sock.deadline = CLOCK.monotonic() + 0.2
        with pytest.raises(TimeoutError):
            list(iter(lambda: sock.recv(1), b""))
        assert CLOCK.monotonic() >= sock.deadline
    finally:
        stop.set()
        server.join()
        sock.close()


def test_a_deadline_that_has_passed_ends_a_send_before_it_is_begun(listener: socket.socket) -> None:
    with open_socket("127.0.0.1", listener.getsockname()[1], timeout=5.0) as sock:
        sock.deadline = CLOCK.monotonic() - 1.0
        for operation in (lambda: sock.sendall(b"x"), lambda: sock.send(b"x"), lambda: sock.recv_into(bytearray(1))):
            with pytest.raises(TimeoutError, match="deadline"):
                operation()
        # Its next use, without a deadline, is as before.
        sock.deadline = None
        assert sock.send(b"x") == 1


def test_an_idle_socket_is_quiet_until_its_peer_says_or_ends_something(listener: socket.socket) -> None:
    sock = open_socket("127.0.0.1", listener.getsockname()[1], timeout=5.0)
    peer, _ = listener.accept()
    with sock:
        assert sock.is_quiet()
        peer.close()
        while sock.is_quiet():
            time.sleep(0.001)
        # What it read to find out is gone, and it remembers.
        assert not sock.is_quiet()
        assert sock.ended
        assert sock.gettimeout() == pytest.approx(sock.read_timeout)


def test_options_of_a_live_connection_are_set(listener: socket.socket) -> None:
    with open_socket("127.0.0.1", listener.getsockname()[1], timeout=5.0) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == sockets.USER_TIMEOUT * 1000
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == sockets.KEEPALIVE_IDLE


def test_an_option_that_the_platform_refuses_is_left_out(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("not here")

    monkeypatch.setattr(DeadlineSocket, "setsockopt", refuse, raising=False)
    open_socket("127.0.0.1", listener.getsockname()[1], timeout=5.0).close()


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog drops packets on Linux")
def test_a_black_hole_costs_the_timeout_and_no_more_than_the_deadline(black_hole: int) -> None:
    for timeout, deadline in ((0.1, None), (60.0, 0.1), (None, 0.1)):
        end = None if deadline is None else CLOCK.monotonic() + deadline
        with pytest.raises(TimeoutError):
            open_socket("127.0.0.1", black_hole, timeout, end)


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog drops packets on Linux")
def test_all_addresses_share_one_timeout_and_a_dead_one_leaves_time_for_the_next(
    black_hole: int, listener: socket.socket
) -> None:
    dead = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", black_hole))
    alive = (socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname())
    sockets.connect([dead, alive], 0.2, None).close()
    start = time.monotonic()
    with pytest.raises(TimeoutError):
        sockets.connect([dead, dead, dead], 0.1, None)
    # One timeout for each would have been three times as much.
    assert time.monotonic() - start < 0.29


def test_the_last_address_s_error_is_what_is_raised(listener: socket.socket) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        refused = (socket.AF_INET, socket.SOCK_STREAM, 0, "", closed.getsockname())
        with pytest.raises(ConnectionRefusedError):
            sockets.connect([refused, refused], 1.0, None)
        with pytest.raises(OSError, match="no address"):
            sockets.connect([], 1.0, None)
        with pytest.raises(TimeoutError):
            sockets.connect([refused], 1.0, CLOCK.monotonic() - 1.0)


def test_a_name_server_that_does_not_answer_costs_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, *args: object, **settings: object) -> object:
        if settings.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        answer.wait(30.0)
        return real("127.0.0.1", *args, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(TimeoutError, match=r"looking up api\.test"):
        open_socket("api.test", 80, timeout=0.05)
    with pytest.raises(TimeoutError, match="looking up"):
        open_socket("api.test", 80, deadline=CLOCK.monotonic() + 0.05)
    answer.set()


@pytest.mark.parametrize("threads", [True, False])
def test_a_name_is_looked_up_with_threads_or_without(monkeypatch: pytest.MonkeyPatch, threads: bool) -> None:
    if not threads:

        def refuse(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
    assert sockets.resolve("localhost", 80, 5.0)
    assert sockets.resolve("localhost", 80)
    assert sockets.resolve("[::1]", 80, 5.0)[0][4][0] == "::1"
    with pytest.raises(socket.gaierror):
        sockets.resolve("a" * 70 + ".test", 80, 20.0)


# TLS.


@pytest.fixture(scope="module")
def api() -> Iterator[FaultyAPI]:
    with FaultyAPI(require_key=False) as server:
        yield server


def test_there_is_one_context_for_a_bundle_also_when_threads_ask_at_once() -> None:
    found: list[ssl.SSLContext] = []
    tls._contexts.clear()
    threads = [threading.Thread(target=lambda: found.append(tls.tls_context(certifi.where()))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1


def test_it_is_as_strict_as_urllib3_s() -> None:
    ours, theirs = tls.tls_context(certifi.where()), create_urllib3_context()
    for name in ("options", "verify_flags", "verify_mode", "check_hostname", "minimum_version", "maximum_version"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert [c["name"] for c in ours.get_ciphers()] == [c["name"] for c in theirs.get_ciphers()]
    assert ours.hostname_checks_common_name is False
    assert ours.post_handshake_auth is theirs.post_handshake_auth
    theirs.load_verify_locations(certifi.where())
    assert ours.cert_store_stats() == theirs.cert_store_stats()


def test_a_bundle_that_was_replaced_is_loaded_anew(tmp_path: object) -> None:
    path = f"{tmp_path}/ca.pem"
    shutil.copy(certifi.where(), path)
    first = tls.tls_context(path)
    assert tls.tls_context(path) is first
    os.utime(path, (1.0, 1.0))
    assert tls.tls_context(path) is not first


def test_a_directory_of_certificates_is_taken(tmp_path: object) -> None:
    assert tls.tls_context(str(tmp_path)).ca == str(tmp_path)


def test_a_missing_or_broken_bundle_is_an_error_that_names_it(tmp_path: object) -> None:
    with pytest.raises(OSError, match=f"invalid path: {tmp_path}/none.pem"):
        tls.tls_context(f"{tmp_path}/none.pem")
    with open(f"{tmp_path}/broken.pem", "w") as file:
        file.write("not a certificate")
    with pytest.raises(ssl.SSLError):
        tls.tls_context(f"{tmp_path}/broken.pem")


def test_the_default_bundle_is_the_environment_s_or_certifi_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    assert tls.default_ca() == certifi.where()
    monkeypatch.setenv("CURL_CA_BUNDLE", "/curl.pem")
    assert tls.default_ca() == "/curl.pem"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/requests.pem")
    assert tls.default_ca() == "/requests.pem"


def test_a_key_log_is_kept_where_the_environment_asks_for_one(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", f"{tmp_path}/keys")
    shutil.copy(certifi.where(), f"{tmp_path}/ca.pem")
    assert tls.tls_context(f"{tmp_path}/ca.pem").keylog_filename == f"{tmp_path}/keys"


def test_the_alpn_list_reaches_openssl_once() -> None:
    context = tls.tls_context(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    assert context._alpn == ["http/1.1"]


def test_a_secured_socket_keeps_deadlines_and_verifies(api: FaultyAPI) -> None:
    plain = open_socket("localhost", api.port, timeout=5.0)
    with tls.secure(plain, "localhost.", tls.tls_context(api.ca_file), 5.0) as sock:
        assert isinstance(sock, tls.DeadlineSSLSocket)
        assert sock.selected_alpn_protocol() in (None, "http/1.1")
        sock.deadline = CLOCK.monotonic() - 1.0
        with pytest.raises(TimeoutError, match="deadline"):
            sock.sendall(b"x")
    plain = open_socket("localhost", api.port, timeout=5.0)
    with pytest.raises(ssl.SSLCertVerificationError):
        tls.secure(plain, "other.test", tls.tls_context(api.ca_file), 5.0)
    assert plain.fileno() == -1


def test_a_peer_that_resets_before_the_handshake_is_an_error_and_leaves_nothing_open(listener: socket.socket) -> None:
    plain = open_socket("127.0.0.1", listener.getsockname()[1], timeout=5.0)
    peer, _ = listener.accept()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with pytest.raises(OSError, match=r"peer was gone|reset"):
        tls.secure(plain, "localhost", tls.tls_context(certifi.where()), 5.0)
    gc.collect()
    assert plain.fileno() == -1


def test_a_handshake_that_is_not_answered_ends_by_the_deadline(listener: socket.socket) -> None:
    token = ATTEMPT.set(Attempt(CLOCK.monotonic() + 0.1))
    try:
        plain = open_socket("127.0.0.1", listener.getsockname()[1], timeout=5.0)
        with pytest.raises(TimeoutError):
            tls.secure(plain, "localhost", tls.tls_context(certifi.where()), 60.0)
    finally:
        ATTEMPT.reset(token)
    assert plain.fileno() == -1


def test_a_forked_child_has_a_lock_of_its_own() -> None:
    before = tls._lock
    tls._after_fork()
    assert tls._lock is not before
    assert tls.tls_context(certifi.where())
