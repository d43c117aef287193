"""The pooled adapter against a real server that fails as real ones do."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import urllib3
from requests.adapters import HTTPAdapter

from resilience.core import events
from resilience.core.clock import CLOCK
from resilience.core.outcome import of_error
from resilience.http import prewarm
from resilience.http.adapter import PooledAdapter
from resilience.http.sockets import ATTEMPT, Attempt
from resilience.testing.faulty_api import Fault, FaultyAPI


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name)
    yield
    CLOCK.reset()
    prewarm.drop_all()


@pytest.fixture
def api() -> Iterator[FaultyAPI]:
    with FaultyAPI(require_key=False) as server:
        yield server


@pytest.fixture
def adapter() -> Iterator[PooledAdapter]:
    made = PooledAdapter(timeout=(3.0, 5.0))
    yield made
    made.close()


@pytest.fixture
def session(adapter: PooledAdapter, api: FaultyAPI) -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.mount("https://", adapter)
        made.mount("http://", adapter)
        made.verify = api.ca_file
        yield made


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    found: list[Any] = []
    stop = events.listen(found.append, events.ConnectionOpened, events.ConnectionRetired)
    yield found
    stop()


class Later:
    """The real clocks, set forward by so many seconds each."""

    def __init__(self, monotonic: float = 0.0, wall: float = 0.0) -> None:
        self.monotonic = lambda: time.monotonic() + monotonic
        self.wall = lambda: time.time() + wall
        self.sleep = time.sleep
        self.sleep_async = None


def attempt(
    adapter: PooledAdapter, api: FaultyAPI, path: str = "/health", within: float | None = 5.0, **options: Any
) -> tuple[requests.Response, Attempt]:
    """One attempt at GET `path`, which has `within` seconds."""
    made = Attempt(None if within is None else CLOCK.monotonic() + within)
    method, data = options.pop("method", "GET"), options.pop("data", None)
    wanted: dict[str, Any] = {
        "stream": False, "timeout": None, "verify": api.ca_file if api.tls else True, "cert": None, "proxies": {}
    }  # fmt: skip
    options = wanted | options
    return adapter.send_attempt(prepared(api.url + path, method, data), attempt=made, **options), made


def prepared(url: str, method: str = "GET", data: Any = None) -> requests.PreparedRequest:
    return requests.Request(method, url, data=data).prepare()


def failing(
    adapter: PooledAdapter, api: FaultyAPI, path: str = "/v1/models", within: float | None = 5.0, **options: Any
) -> tuple[requests.RequestException, bool]:
    """The error in which an attempt ends, and whether the request may have been sent."""
    made = Attempt(None if within is None else CLOCK.monotonic() + within)
    wanted: dict[str, Any] = {
        "stream": False, "timeout": None, "verify": api.ca_file, "cert": None, "proxies": {}
    }  # fmt: skip
    with pytest.raises(requests.RequestException) as caught:
        adapter.send_attempt(prepared(api.url + path), attempt=made, **(wanted | options))
    return caught.value, made.sent


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


def named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`name`, which no certificate here holds, is this machine."""
    real = socket.getaddrinfo

    def look_up(host: str, *args: Any, **settings: Any) -> Any:
        if host == name and not settings.get("flags"):
            host = "127.0.0.1"
        return real(host, *args, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


# Reuse.


def test_thirty_requests_make_one_handshake(session: requests.Session, api: FaultyAPI) -> None:
    for _ in range(30):
        assert session.get(api.url + "/health").ok
    assert (api.connections, api.handshakes) == (1, 1)


def test_an_attempt_says_whether_it_was_sent_and_whether_its_connection_was_new(
    adapter: PooledAdapter, api: FaultyAPI
) -> None:
    response, first = attempt(adapter, api)
    assert response.json()
    assert (first.sent, first.connection_reused) == (True, False)
    _, second = attempt(adapter, api)
    assert (second.sent, second.connection_reused) == (True, True)
    assert ATTEMPT.get() is None
    assert response.connection is adapter


@pytest.mark.parametrize("clock", [Later(monotonic=56.0), Later(wall=56.0)], ids=["monotonic", "wall"])
def test_a_connection_that_either_clock_calls_idle_too_long_is_replaced(
    session: requests.Session, api: FaultyAPI, clock: Later, heard: list[Any]
) -> None:
    session.get(api.url + "/health")
    CLOCK.install(clock)
    session.get(api.url + "/health")
    assert api.handshakes == 2
    opened, retired, again = heard
    assert opened.dependency == retired.dependency == again.dependency == f"https://localhost:{api.port}"
    assert (retired.why, opened.prewarmed) == ("idle", False)
    assert retired.idle >= 55.0


def test_a_connection_within_max_idle_is_used_again(session: requests.Session, api: FaultyAPI) -> None:
    session.get(api.url + "/health")
    CLOCK.install(Later(monotonic=40.0, wall=40.0))
    session.get(api.url + "/health")
    assert api.handshakes == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_that_its_peer_closed_is_replaced_unnoticed(
    session: requests.Session, adapter: PooledAdapter, api: FaultyAPI, method: str, heard: list[Any]
) -> None:
    api.script([Fault.close_when_idle()])
    session.get(api.url + "/health")
    [pool] = adapter._all_pools()
    [conn] = pool.pool.idle()  # type: ignore[union-attr]
    until(lambda: not conn.sock.is_quiet())
    assert session.request(method, api.url + "/v1/echo").ok
    assert api.handshakes == 2
    assert [e.why for e in heard if isinstance(e, events.ConnectionRetired)] == ["dropped"]


def test_a_peer_that_says_goodbye_by_tls_alone_is_not_used_again(adapter: PooledAdapter, tmp_path: object) -> None:
    import trustme

    ca = trustme.CA()
    ca.cert_pem.write_to_path(f"{tmp_path}/ca.pem")
    with Answering(ca.issue_cert("localhost"), goodbye=True) as server:
        for _ in range(2):
            assert adapter.send(prepared(server.url), verify=f"{tmp_path}/ca.pem").text == "ok"
            [pool] = adapter._all_pools()
            [conn] = pool.pool.idle()  # type: ignore[union-attr]
            # However often one looks: the first look takes the notice in.
            until(lambda conn=conn: conn.unfit())
            assert conn.unfit() == "dropped"
        assert server.connections == 2
        adapter.close()


def test_an_answer_that_says_close_is_not_used_again(session: requests.Session, api: FaultyAPI) -> None:
    session.get(api.url + "/health", headers={"Connection": "close"})
    session.get(api.url + "/health")
    assert api.handshakes == 2


def test_plain_http_is_pooled_too(adapter: PooledAdapter) -> None:
    with FaultyAPI(tls=False, require_key=False) as plain:
        reused = [attempt(adapter, plain)[1].connection_reused for _ in range(3)]
        assert plain.connections == 1
    assert reused == [False, True, True]


def test_threads_beyond_maxsize_wait_and_share(api: FaultyAPI) -> None:
    adapter = PooledAdapter(pool_maxsize=3)
    api.latency = 0.01
    codes: list[int] = []

    def work() -> None:
        codes.extend(attempt(adapter, api, within=20.0)[0].status_code for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [200] * 60
    assert api.connections <= 3
    assert adapter.idle_connections == api.connections
    adapter.close()


def test_waiting_for_a_place_ends_by_the_deadline(api: FaultyAPI) -> None:
    adapter = PooledAdapter(pool_maxsize=1)
    taken, _ = attempt(adapter, api, "/v1/models", stream=True)
    error, sent = failing(adapter, api, within=0.05)
    assert isinstance(error, requests.ConnectTimeout)
    # It is our own limit: nothing was learnt of the dependency, and no breaker counts it.
    assert not of_error(error, sent=sent).failure
    assert not sent
    taken.close()
    assert attempt(adapter, api)[0].ok
    adapter.close()


def test_a_streamed_response_that_is_let_go_gives_its_place_back(api: FaultyAPI) -> None:
    adapter = PooledAdapter(pool_maxsize=1)
    for _ in range(3):
        response, _ = attempt(adapter, api, "/v1/stream", stream=True)
        assert response.ok
        del response
        gc.collect()
    # One that was read to its end gives back its place itself, and its connection with it.
    assert attempt(adapter, api, "/v1/stream", stream=True)[0].content
    assert attempt(adapter, api)[1].connection_reused
    adapter.close()


def test_a_place_given_back_while_the_queue_is_locked_is_not_lost(api: FaultyAPI) -> None:
    adapter = PooledAdapter(pool_maxsize=1)
    response, _ = attempt(adapter, api, "/v1/stream", stream=True)
    [pool] = adapter._all_pools()
    with pool.pool.mutex:  # type: ignore[union-attr]
        # The garbage collector may run here.
        del response
        gc.collect()
    assert attempt(adapter, api)[0].ok
    adapter.close()


# Deadlines and failures.


@pytest.mark.parametrize("fault", [Fault.drip(0.02), Fault.drip_headers(0.02), Fault.hang()], ids=lambda f: f.name)
def test_what_drips_or_hangs_ends_by_the_deadline(adapter: PooledAdapter, api: FaultyAPI, fault: Fault) -> None:
    api.script([fault])
    error, sent = failing(adapter, api, within=0.2)
    assert isinstance(error, requests.ReadTimeout)
    assert sent
    assert adapter.idle_connections == 0
    # And its connection is used by no other.
    assert not attempt(adapter, api)[1].connection_reused


def test_a_body_that_is_late_is_a_connection_error_as_in_requests_and_a_read_timeout(
    adapter: PooledAdapter, api: FaultyAPI
) -> None:
    api.script([Fault.drip(2.0)])
    error, sent = failing(adapter, api, timeout=(3.0, 0.05), within=None)
    assert isinstance(error, requests.ReadTimeout)
    assert isinstance(error, requests.ConnectionError)
    assert sent
    assert error.request.url == api.url + "/v1/models"  # type: ignore[union-attr]


def test_a_streamed_body_ends_by_the_deadline_while_it_is_read(adapter: PooledAdapter, api: FaultyAPI) -> None:
    api.script([Fault.drip(0.02)])
    response, _ = attempt(adapter, api, "/v1/models", within=0.2, stream=True)
    with pytest.raises(requests.ConnectionError):
        _ = response.content
    assert attempt(adapter, api)[0].ok


def test_the_deadline_of_one_request_is_not_that_of_the_next(adapter: PooledAdapter, api: FaultyAPI) -> None:
    attempt(adapter, api, within=0.2)
    api.latency = 0.25
    _, second = attempt(adapter, api, within=None)
    assert second.connection_reused


@pytest.mark.parametrize("reused", [True, False])
def test_an_attempt_whose_deadline_has_passed_sends_nothing(
    adapter: PooledAdapter, api: FaultyAPI, reused: bool
) -> None:
    if reused:
        attempt(adapter, api)
    before = api.count()
    error, sent = failing(adapter, api, within=-1.0)
    assert isinstance(error, requests.ConnectTimeout)
    assert not sent
    assert api.count() == before


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.truncated_body(), requests.exceptions.ChunkedEncodingError),
        (Fault.reset_before_reading(), requests.ConnectionError),
        (Fault.reset_after_reading(), requests.ConnectionError),
        (Fault.eof_after_reading(), requests.ConnectionError),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_breaks_after_sending_raises_within_the_attempt(
    adapter: PooledAdapter, api: FaultyAPI, fault: Fault, kind: type[Exception]
) -> None:
    api.script([fault])
    error, sent = failing(adapter, api)
    assert isinstance(error, kind)
    assert not isinstance(error, requests.Timeout)
    assert sent
    assert adapter.idle_connections == 0


def test_an_upload_that_the_peer_does_not_take_in_ends_by_the_deadline(adapter: PooledAdapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        made = Attempt(CLOCK.monotonic() + 0.2)
        request = prepared(f"http://127.0.0.1:{deaf.getsockname()[1]}/", "POST", b"x" * 30_000_000)
        with pytest.raises(requests.ReadTimeout):
            adapter.send_attempt(request, stream=False, timeout=None, verify=True, cert=None, proxies={}, attempt=made)
        assert made.sent


def test_a_refused_connection_was_not_sent(adapter: PooledAdapter, api: FaultyAPI) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        made = Attempt()
        with pytest.raises(requests.ConnectionError):
            adapter.send_attempt(
                prepared(f"https://127.0.0.1:{closed.getsockname()[1]}/"),
                stream=False, timeout=None, verify=api.ca_file, cert=None, proxies={}, attempt=made,
            )  # fmt: skip
        assert not made.sent


@pytest.mark.skipif(sys.platform != "linux", reason="a full backlog drops packets on Linux")
@pytest.mark.parametrize(("timeout", "within"), [(None, 0.1), ((0.1, 5.0), None)])
def test_a_black_hole_ends_by_the_deadline_or_the_connect_timeout(
    adapter: PooledAdapter, api: FaultyAPI, timeout: Any, within: float | None
) -> None:
    with socket.socket() as hole, socket.socket() as one, socket.socket() as two:
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        made = Attempt(None if within is None else CLOCK.monotonic() + within)
        with pytest.raises(requests.ConnectTimeout):
            adapter.send_attempt(
                prepared(f"https://127.0.0.1:{hole.getsockname()[1]}/"),
                stream=False, timeout=timeout, verify=api.ca_file, cert=None, proxies={}, attempt=made,
            )  # fmt: skip
        assert not made.sent


def test_a_handshake_that_is_not_answered_is_a_connect_timeout(adapter: PooledAdapter, api: FaultyAPI) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for options in ({"timeout": (0.1, 5.0)}, {"attempt": Attempt(CLOCK.monotonic() + 0.1), "timeout": None}):
            made = options.pop("attempt", Attempt())
            assert isinstance(made, Attempt)
            with pytest.raises(requests.ConnectTimeout):
                adapter.send_attempt(
                    prepared(f"https://127.0.0.1:{silent.getsockname()[1]}/"),
                    stream=False, verify=api.ca_file, cert=None, proxies={}, attempt=made, **options,
                )  # fmt: skip
            assert not made.sent


def test_a_request_without_a_timeout_has_the_adapter_s(api: FaultyAPI) -> None:
    adapter = PooledAdapter(timeout=(3.0, 0.05))
    api.latency = 0.2
    for timeout in (None, (3.0, None), (None, None)):
        error, sent = failing(adapter, api, within=None, timeout=timeout)
        assert isinstance(error, requests.ReadTimeout)
        assert sent
    assert adapter.send(prepared(api.url + "/health"), timeout=5, verify=api.ca_file).ok
    assert adapter._timeouts((None, 7)) == (3.0, 7)
    with pytest.raises(ValueError, match="Invalid timeout"):
        adapter.send(prepared(api.url), timeout=(1, 2, 3), verify=api.ca_file)
    adapter.close()


# TLS.


def test_a_certificate_of_another_name_or_issuer_is_refused_before_anything_is_sent(
    adapter: PooledAdapter, api: FaultyAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, sent = failing(adapter, api, verify=True)
    assert isinstance(error, requests.exceptions.SSLError)
    assert not sent
    named(monkeypatch, "other.test")
    made = Attempt()
    with pytest.raises(requests.exceptions.SSLError, match="Hostname mismatch"):
        adapter.send_attempt(
            prepared(api.url.replace("localhost", "other.test")),
            stream=False, timeout=None, verify=api.ca_file, cert=None, proxies={}, attempt=made,
        )  # fmt: skip
    assert not made.sent
    assert api.count() == 0


def test_a_tls_failure_of_the_peer_is_an_ssl_error(adapter: PooledAdapter, api: FaultyAPI) -> None:
    api.script([Fault.tls_failure()])
    error, sent = failing(adapter, api)
    assert isinstance(error, requests.exceptions.SSLError)
    assert not sent


def test_verification_can_be_turned_off_and_such_connections_are_kept_apart(
    adapter: PooledAdapter, api: FaultyAPI
) -> None:
    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        assert attempt(adapter, api, verify=False)[0].ok
    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        assert attempt(adapter, api, verify=False)[1].connection_reused
    # The verified one does not get the unverified connection, nor the other way round,
    assert not attempt(adapter, api)[1].connection_reused
    with pytest.raises(requests.exceptions.SSLError):
        attempt(adapter, api, verify=True)
    # and has its own deadline and idle time.
    api.script([Fault.drip(0.02)])
    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        error, _ = failing(adapter, api, verify=False, within=0.2)
    assert isinstance(error, requests.ReadTimeout)


def test_an_unverified_request_leaves_the_shared_context_as_it_was(adapter: PooledAdapter, api: FaultyAPI) -> None:
    from resilience.http.tls import tls_context

    with pytest.warns(urllib3.exceptions.InsecureRequestWarning):
        attempt(adapter, api, verify=False)
    attempt(adapter, api)
    context = tls_context(api.ca_file)
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


def test_a_client_certificate_is_sent(adapter: PooledAdapter, tmp_path: object) -> None:
    import trustme

    ca = trustme.CA()
    server, client = ca.issue_cert("localhost"), ca.issue_cert("client.test")
    ca.cert_pem.write_to_path(f"{tmp_path}/ca.pem")
    client.private_key_and_cert_chain_pem.write_to_path(f"{tmp_path}/client.pem")
    with Answering(server, client_ca=ca) as answering:
        for _ in range(2):
            response = adapter.send(prepared(answering.url), verify=f"{tmp_path}/ca.pem", cert=f"{tmp_path}/client.pem")
            assert response.text == "ok"
        assert len(answering.names) == 1
        assert ("DNS", "client.test") in answering.names[0]["subjectAltName"]
        with pytest.raises(requests.ConnectionError):
            adapter.send(prepared(answering.url), verify=f"{tmp_path}/ca.pem")
        adapter.close()


def test_a_bundle_that_is_missing_or_broken_raises_what_requests_raises(
    adapter: PooledAdapter, api: FaultyAPI, tmp_path: object
) -> None:
    with pytest.raises(OSError, match="Could not find a suitable TLS CA certificate bundle"):
        adapter.send(prepared(api.url), verify=f"{tmp_path}/none.pem")
    with open(f"{tmp_path}/broken.pem", "w") as file:
        file.write("no")
    with pytest.raises(requests.exceptions.SSLError):
        adapter.send(prepared(api.url), verify=f"{tmp_path}/broken.pem")


@pytest.mark.parametrize("url", ["https://", "https://?x", "http:///path"])
def test_a_url_without_a_host_is_an_invalid_one(adapter: PooledAdapter, url: str) -> None:
    request = prepared("https://localhost/")
    request.url = url
    with pytest.raises(requests.exceptions.InvalidURL):
        adapter.send(request)


# Proxies.


class Proxy:
    """A proxy on loopback: CONNECT, and plain requests passed on; counts both."""

    def __init__(self) -> None:
        self.connects: list[str] = []
        self.forwards: list[str] = []
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.sock.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                client, _ = self.sock.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with client:
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(4096)
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            if method == "CONNECT":
                self.connects.append(target)
                host, _, port = target.rpartition(":")
                with socket.create_connection((host, int(port))) as upstream:
                    client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                    pipe(client, upstream)
            else:
                self.forwards.append(target)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def pipe(one: socket.socket, other: socket.socket) -> None:
    def copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    back = threading.Thread(target=copy, args=(other, one), daemon=True)
    back.start()
    copy(one, other)
    back.join()


class Answering:
    """A TLS server that answers ok, notes the client's certificate, and may end each answer by close_notify, no FIN."""

    def __init__(self, certificate: Any, *, client_ca: Any = None, goodbye: bool = False) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self.context)
        if client_ca is not None:
            client_ca.configure_trust(self.context)
            self.context.verify_mode = ssl.CERT_REQUIRED
        self.goodbye = goodbye
        self.names: list[Any] = []
        self.connections = 0
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://localhost:{self.sock.getsockname()[1]}/"

    def __enter__(self) -> Answering:
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
        self.thread.join()

    def serve(self) -> None:
        while True:
            try:
                plain, _ = self.sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.answer, args=(plain,), daemon=True).start()

    def answer(self, plain: socket.socket) -> None:
        with plain, contextlib.suppress(OSError), self.context.wrap_socket(plain, server_side=True) as conn:
            self.names.append(conn.getpeercert())
            while conn.recv(65536):
                conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                if self.goodbye:
                    # Waits for the client's own notice, which never comes, until the client closes.
                    conn.unwrap()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    made = Proxy()
    yield made
    made.close()


def test_https_goes_through_the_environment_s_proxy_by_one_tunnel(
    session: requests.Session, adapter: PooledAdapter, api: FaultyAPI, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    for _ in range(3):
        assert session.get(api.url + "/health").ok
    assert proxy.connects == [f"localhost:{api.port}"]
    assert api.handshakes == 1
    assert adapter.idle_connections == 1
    CLOCK.install(Later(wall=60.0))
    assert session.get(api.url + "/health").ok
    assert len(proxy.connects) == 2
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert session.get(api.url + "/health").ok
    assert len(proxy.connects) == 2


def test_a_dripping_body_through_a_tunnel_ends_by_the_deadline(
    adapter: PooledAdapter, api: FaultyAPI, proxy: Proxy
) -> None:
    api.script([Fault.drip(0.02)])
    error, sent = failing(adapter, api, within=0.2, proxies={"https": proxy.url})
    assert isinstance(error, requests.ReadTimeout)
    assert sent


def test_what_the_tunnel_leads_to_is_verified(adapter: PooledAdapter, api: FaultyAPI, proxy: Proxy) -> None:
    error, sent = failing(adapter, api, verify=True, proxies={"https": proxy.url})
    assert isinstance(error, requests.exceptions.SSLError)
    assert not sent


def test_plain_http_is_passed_on_by_the_proxy(adapter: PooledAdapter, proxy: Proxy) -> None:
    response = adapter.send(prepared("http://api.test/path"), proxies={"http": proxy.url})
    assert response.text == "ok"
    assert proxy.forwards == ["http://api.test/path"]


def test_a_proxy_that_is_not_there_or_malformed_is_a_proxy_error(adapter: PooledAdapter, api: FaultyAPI) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        error, sent = failing(adapter, api, proxies={"https": f"http://127.0.0.1:{closed.getsockname()[1]}"})
    assert isinstance(error, requests.exceptions.ProxyError)
    assert not sent
    error, _ = failing(adapter, api, proxies={"https": "http://"})
    assert isinstance(error, requests.exceptions.InvalidProxyURL)


def test_a_tls_proxy_is_verified_by_the_bundle_of_the_request(adapter: PooledAdapter, api: FaultyAPI) -> None:
    # The server is no proxy: it answers CONNECT with an error, but only after TLS, verified, with it.
    error, _ = failing(adapter, api, proxies={"https": f"https://localhost:{api.port}"})
    assert isinstance(error, requests.exceptions.ProxyError)
    assert "Tunnel connection failed" in str(error)
    error, _ = failing(adapter, api, verify=True, proxies={"https": f"https://localhost:{api.port}"})
    assert "CERTIFICATE_VERIFY_FAILED" in str(error)


# Warm, retire, fork.


def test_warming_opens_what_is_missing_and_no_more(adapter: PooledAdapter, api: FaultyAPI) -> None:
    deadline = CLOCK.monotonic() + 20.0
    assert adapter.warm(api.url, 3, deadline, verify=api.ca_file) == 3
    assert adapter.idle_connections == 3
    # TLS 1.3: the client is done before the server is.
    until(lambda: api.handshakes == 3)
    assert adapter.warm(api.url + "/v1", 3, deadline, verify=api.ca_file) == 0
    # The session tickets of TLS 1.3, which lie unread on each, do not make it look dropped.
    assert [attempt(adapter, api)[1].sent for _ in range(5)] == [True] * 5
    assert api.handshakes == 3
    assert adapter.idle_connections == 3


def test_a_warmed_connection_is_the_one_that_is_used(adapter: PooledAdapter, api: FaultyAPI) -> None:
    adapter.warm(api.url, verify=api.ca_file)
    attempt(adapter, api)
    assert api.handshakes == 1


def test_warming_is_bounded_by_the_pool_and_goes_by_the_environment(
    api: FaultyAPI, monkeypatch: pytest.MonkeyPatch, proxy: Proxy
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", api.ca_file)
    adapter = PooledAdapter(pool_maxsize=2)
    assert adapter.warm(api.url, 5) == 2
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    assert adapter.warm(api.url, 1) == 1
    assert proxy.connects == [f"localhost:{api.port}"]
    assert attempt(adapter, api, proxies={"https": proxy.url})[0].ok
    assert len(proxy.connects) == 1
    adapter.close()


def test_warming_replaces_what_was_dropped_and_says_so_once(
    adapter: PooledAdapter, api: FaultyAPI, heard: list[Any]
) -> None:
    api.script([Fault.close_when_idle()])
    attempt(adapter, api)
    [pool] = adapter._all_pools()
    [conn] = pool.pool.idle()  # type: ignore[union-attr]
    until(conn.unfit)
    assert adapter.warm(api.url, 1, verify=api.ca_file) == 1
    assert adapter.idle_connections == 1
    assert [type(e).__name__ for e in heard] == ["ConnectionOpened", "ConnectionRetired", "ConnectionOpened"]
    assert attempt(adapter, api)[1].sent
    assert len(heard) == 3


def test_warming_works_where_no_thread_can_be_started(
    adapter: PooledAdapter, api: FaultyAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("resilience"):
            raise RuntimeError("can't start new thread")
        real(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert adapter.warm(api.url, 3, verify=api.ca_file) == 3


def test_a_warm_up_that_fails_says_why(adapter: PooledAdapter, api: FaultyAPI) -> None:
    with pytest.raises((OSError, urllib3.exceptions.HTTPError)):
        adapter.warm(api.url, 2, verify=True)
    with pytest.raises(urllib3.exceptions.ConnectTimeoutError):
        adapter.warm(api.url, 2, CLOCK.monotonic() - 1.0, verify=api.ca_file)
    assert adapter.idle_connections == 0


def test_retiring_closes_what_lies_idle_now_and_what_is_in_use_later(
    adapter: PooledAdapter, api: FaultyAPI, heard: list[Any]
) -> None:
    adapter.warm(api.url, 2, verify=api.ca_file)
    in_use, _ = attempt(adapter, api, "/v1/models", stream=True)
    assert adapter.retire_all("snapshot") == 1
    assert adapter.idle_connections == 0
    assert in_use.json()
    assert adapter.idle_connections == 0
    assert not attempt(adapter, api)[1].connection_reused
    assert [e.why for e in heard if isinstance(e, events.ConnectionRetired)] == ["snapshot"]


def test_a_prewarmed_connection_is_taken_over(adapter: PooledAdapter, api: FaultyAPI, heard: list[Any]) -> None:
    prewarm.prewarm(api.url, ca=api.ca_file)
    _, made = attempt(adapter, api)
    assert (made.sent, made.connection_reused) == (True, False)
    _, second = attempt(adapter, api)
    assert second.connection_reused
    assert api.handshakes == 1
    assert [e.prewarmed for e in heard] == [True]


def test_a_prewarmed_connection_is_not_taken_by_a_request_that_trusts_another_bundle(
    adapter: PooledAdapter, api: FaultyAPI
) -> None:
    prewarm.prewarm(api.url, ca=api.ca_file)
    error, _ = failing(adapter, api, verify=True)
    assert isinstance(error, requests.exceptions.SSLError)


def test_one_that_was_prewarmed_by_a_bundle_since_replaced_is_not_taken(
    adapter: PooledAdapter, api: FaultyAPI, tmp_path: object
) -> None:
    path = f"{tmp_path}/ca.pem"
    with open(path, "w") as file, open(api.ca_file) as source:
        file.write(source.read())
    prewarm.prewarm(api.url, ca=path)
    until(lambda: api.handshakes == 1)
    os.utime(path, (1.0, 1.0))
    assert attempt(adapter, api, verify=path)[0].ok
    assert api.handshakes == 2


def test_plain_http_takes_over_a_prewarmed_connection(adapter: PooledAdapter) -> None:
    with FaultyAPI(tls=False, require_key=False) as plain:
        prewarm.prewarm(plain.url)
        attempt(adapter, plain)
        attempt(adapter, plain)
        assert plain.connections == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_uses_none_of_its_parent_s_connections(
    adapter: PooledAdapter, api: FaultyAPI, heard: list[Any]
) -> None:
    adapter.warm(api.url, 2, verify=api.ca_file)
    attempt(adapter, api)
    streaming, _ = attempt(adapter, api, "/v1/stream", stream=True)
    [pool] = adapter._all_pools()
    with pool.pool.mutex, adapter.poolmanager.pools.lock, warnings.catch_warnings():  # type: ignore[union-attr]
        # Locks that another thread holds at this moment stay locked in the child.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os._exit(child_of_a_fork(adapter, api, heard))
    assert os.waitpid(pid, 0)[1] == 0
    # What the child closed were its own copies: the parent's connections, and its stream, go on.
    assert api.handshakes == 3
    assert streaming.content
    assert [attempt(adapter, api)[1].connection_reused for _ in range(3)] == [True] * 3
    assert api.handshakes == 3


def child_of_a_fork(adapter: PooledAdapter, api: FaultyAPI, heard: list[Any]) -> int:
    try:
        heard.clear()
        made = [attempt(adapter, api)[1] for _ in range(2)]
        assert [a.connection_reused for a in made] == [False, True]
        assert [e.why for e in heard if isinstance(e, events.ConnectionRetired)] == ["fork"]
        return 0
    except BaseException:
        import traceback

        traceback.print_exc()
        return 1


# Living with others.


def test_vcrpy_records_and_replays_what_goes_through_the_adapter(
    session: requests.Session, api: FaultyAPI, tmp_path: object
) -> None:
    import vcr

    session.get(api.url + "/health")
    tape = f"{tmp_path}/tape.yaml"
    for _ in range(2):
        with vcr.use_cassette(tape):
            assert session.get(api.url + "/v1/models").json()
    assert api.count("/v1/models") == 1
    # And afterwards it is the pooled connection again.
    session.get(api.url + "/health")
    assert api.count("/health") == 2


def test_a_socket_class_that_was_replaced_is_respected(
    session: requests.Session, api: FaultyAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Guarded(socket.socket):
        def __init__(self, *args: Any, **settings: Any) -> None:
            raise RuntimeError("no network in this test")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", Guarded)
        with pytest.raises(RuntimeError, match="no network"):
            session.get(api.url + "/health")


def test_responses_stands_in_for_the_network(session: requests.Session, adapter: PooledAdapter) -> None:
    import responses

    with responses.RequestsMock() as mock:
        mock.get("https://api.test/x", json={"a": 1})
        assert session.get("https://api.test/x").json() == {"a": 1}
        mock.get("https://api.test/y", json={"a": 2})
        made = Attempt()
        response = adapter.send_attempt(
            prepared("https://api.test/y"),
            stream=False, timeout=None, verify=True, cert=None, proxies={}, attempt=made,
        )  # fmt: skip
        assert response.json() == {"a": 2}


def test_many_origins_do_not_pile_up(adapter: PooledAdapter) -> None:
    for port in range(1, 250):
        adapter.get_connection_with_tls_context(prepared(f"https://api.test:{port}/"), True)
    assert len(adapter._keys) <= 100
    assert len(adapter._all_pools()) == 10


def test_the_pool_is_that_of_a_stock_adapter(adapter: PooledAdapter) -> None:
    stock = HTTPAdapter()
    for url in ("https://API.test/x", "http://api.test:8080/x", "https://[::1]:8443/", "http://user:pw@api.test/"):
        ours = adapter.get_connection_with_tls_context(prepared(url), True)
        theirs = stock.get_connection_with_tls_context(prepared(url), True)
        assert (ours.scheme, ours.host, ours.port) == (theirs.scheme, theirs.host, theirs.port)
        assert str(ours).partition("(")[0] == str(theirs).partition("(")[0]
        assert ours is adapter.get_connection_with_tls_context(prepared(url), True)
    stock.close()
