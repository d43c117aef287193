"""What failures of the transport mean: real ones of each client on loopback, then each class by hand."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import socket
import ssl
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import botocore.exceptions as aws
import httpx
import openai
import pytest
import requests
import urllib3

from resilience.core.outcome import Meaning, Outcome, Retry, of_error

M, R = Meaning, Retry


def brief(outcome: Outcome) -> tuple[Meaning, Retry]:
    return outcome.meaning, outcome.retry


def raised(fn: Callable[[], Any]) -> BaseException:
    try:
        fn()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


# -- transport: real failures --------------------------------------------------------------------------------


@contextlib.contextmanager
def server(behave: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server on loopback whose every connection is given to `behave`; yields its port."""
    stop = threading.Event()

    def serve(conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError):
            behave(conn)
            stop.wait(10) if behave is stall else None

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threads.append(threading.Thread(target=serve, args=(listener.accept()[0],)))
                threads[-1].start()

    threads: list[threading.Thread] = []
    listener = socket.create_server(("127.0.0.1", 0))
    main = threading.Thread(target=accept)
    main.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stop.set()
        # Closing alone does not wake a thread in accept().
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        main.join()
        for thread in threads:
            thread.join()


def reset(conn: socket.socket) -> None:
    conn.recv(65536)
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def hang_up(conn: socket.socket) -> None:
    conn.recv(65536)


def stall(conn: socket.socket) -> None:
    conn.recv(65536)


def truncate(conn: socket.socket) -> None:
    conn.recv(65536)
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")


def truncate_chunk(conn: socket.socket) -> None:
    conn.recv(65536)
    conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\nabc")


def garbage(conn: socket.socket) -> None:
    conn.recv(65536)
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc")


def no_tls(conn: socket.socket) -> None:
    conn.recv(65536)
    conn.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        port: int = s.getsockname()[1]
    return port


def bare_get(url: str) -> object:
    address = url.partition("://")[2].rstrip("/")
    connection = http.client.HTTPConnection(address, timeout=0.1)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


def openai_get(url: str) -> object:
    with openai.OpenAI(api_key="k", base_url=url, max_retries=0, timeout=0.1) as client:
        return client.models.list()


def boto_get(url: str) -> object:
    import boto3
    from botocore.config import Config

    config = Config(retries={"max_attempts": 0}, read_timeout=0.1)
    session = boto3.Session(aws_access_key_id="k", aws_secret_access_key="s", region_name="eu-west-1")
    client = session.client("sqs", endpoint_url=url, config=config)
    try:
        return client.list_queues()
    finally:
        client.close()


def urllib3_get(url: str) -> object:
    with urllib3.PoolManager(timeout=0.1, retries=False) as pool:
        return pool.request("GET", url).data


def urllib3_get_retrying(url: str) -> object:
    with urllib3.PoolManager(timeout=0.1, retries=urllib3.Retry(1, backoff_factor=0)) as pool:
        return pool.request("GET", url).data


CLIENTS: dict[str, Callable[[str], object]] = {
    "requests": lambda url: requests.get(url, timeout=0.1),
    "httpx": lambda url: httpx.get(url, timeout=0.1),
    "urllib3": urllib3_get,
    "urllib3 retrying": urllib3_get_retrying,
    "urllib": lambda url: urllib.request.urlopen(url, timeout=0.1).read(),
    "http.client": bare_get,
    "openai": openai_get,
    "botocore": boto_get,
}
UNREACHABLE, DROPPED = (M.UNREACHABLE, R.ALWAYS), (M.DROPPED, R.IF_IDEMPOTENT)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("get", CLIENTS.values(), ids=CLIENTS)
def test_given_a_closed_port_then_every_client_found_it_unreachable(
    get: Callable[[str], object], closed_port: int
) -> None:
    assert brief(of_error(raised(lambda: get(f"http://127.0.0.1:{closed_port}/")))) == UNREACHABLE


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("behave", [reset, hang_up, stall])
@pytest.mark.parametrize("get", CLIENTS.values(), ids=CLIENTS)
def test_given_a_server_that_leaves_after_reading_then_every_client_was_dropped(
    get: Callable[[str], object], behave: Callable[[socket.socket], object]
) -> None:
    with server(behave) as port:
        error = raised(lambda: get(f"http://127.0.0.1:{port}/"))
    assert brief(of_error(error)) == DROPPED


@pytest.mark.parametrize("behave", [truncate, truncate_chunk, garbage])
@pytest.mark.parametrize("client", ["requests", "httpx", "urllib3"])
def test_given_a_body_that_is_torn_or_garbled_then_the_client_was_dropped(
    client: str, behave: Callable[[socket.socket], object]
) -> None:
    with server(behave) as port:
        error = raised(lambda: CLIENTS[client](f"http://127.0.0.1:{port}/"))
    assert brief(of_error(error)) == DROPPED


@pytest.mark.parametrize("client", ["requests", "httpx", "urllib3", "urllib", "openai"])
def test_given_a_server_that_speaks_no_tls_then_nothing_was_sent(client: str) -> None:
    with server(no_tls) as port:
        error = raised(lambda: CLIENTS[client](f"https://127.0.0.1:{port}/"))
    assert brief(of_error(error)) == UNREACHABLE


@pytest.mark.parametrize("client", ["requests", "httpx", "urllib3", "urllib", "openai"])
def test_given_a_certificate_that_nobody_trusts_then_nothing_was_sent(client: str) -> None:
    import trustme

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    def handshake(conn: socket.socket) -> None:
        with context.wrap_socket(conn, server_side=True):
            pass

    with server(handshake) as port:
        error = raised(lambda: CLIENTS[client](f"https://127.0.0.1:{port}/"))
    assert brief(of_error(error)) == UNREACHABLE


def test_given_a_full_pool_then_nothing_was_sent() -> None:
    with urllib3.HTTPConnectionPool("127.0.0.1", 1, maxsize=1, block=True) as pool:
        held = pool._get_conn()
        assert brief(of_error(raised(lambda: pool._get_conn(timeout=0.001)))) == UNREACHABLE
        held.close()


def test_given_urllib3s_own_retries_gave_up_on_a_status_then_that_status_decides() -> None:
    def unavailable(conn: socket.socket) -> None:
        for _ in range(2):
            conn.recv(65536)
            conn.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    session = requests.Session()
    retry = urllib3.Retry(1, status_forcelist=[502], backoff_factor=0)
    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
    with session, server(unavailable) as port:
        error = raised(lambda: session.get(f"http://127.0.0.1:{port}/", timeout=5))
    assert isinstance(error, requests.exceptions.RetryError)
    assert of_error(error) == Outcome(M.SERVER_ERROR, 502, None, R.ALWAYS)


# -- transport: by hand --------------------------------------------------------------------------------------

POOL: Any = None


def in_requests(reason: Exception) -> requests.ConnectionError:
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(POOL, "/", reason))


def caused_by(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def redirected() -> requests.Response:
    response = requests.Response()
    response.status_code = 302
    return response


def fake(module: str, name: str, *bases: type[Exception]) -> Exception:
    return type(name, bases or (Exception,), {"__module__": module})()


EOF = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
BAD_RECORD = ssl.SSLError(1, "x")
BAD_RECORD.reason = "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
u3 = urllib3.exceptions


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectTimeout(),
        requests.exceptions.ProxyError(),
        requests.exceptions.SSLError(),
        in_requests(u3.NewConnectionError(POOL, "refused")),
        in_requests(u3.ConnectTimeoutError(POOL, "timed out")),
        in_requests(u3.NameResolutionError("host", POOL, socket.gaierror(-2, "unknown"))),
        in_requests(u3.SSLError(ssl.SSLCertVerificationError(1, "self-signed"))),
        in_requests(u3.ProxyError("no", OSError("Tunnel connection failed: 407"))),
        requests.exceptions.SSLError(u3.MaxRetryError(POOL, "/", u3.SSLError(ssl.SSLError(1, "wrong version")))),
        u3.SSLError("no"),
        u3.EmptyPoolError(POOL, "full"),
        httpx.ConnectError("no"),
        httpx.ConnectTimeout("no"),
        httpx.PoolTimeout("no"),
        httpx.ProxyError("no"),
        caused_by(openai.APIConnectionError(request=POOL), httpx.ConnectError("no")),
        caused_by(openai.APITimeoutError(request=POOL), httpx.ConnectTimeout("no")),
        caused_by(fake("anthropic", "APIConnectionError"), httpx.PoolTimeout("no")),
        aws.EndpointConnectionError(endpoint_url="u"),
        aws.ConnectTimeoutError(endpoint_url="u"),
        aws.ProxyConnectionError(proxy_url="u"),
        aws.SSLError(endpoint_url="u", error="e"),
        fake("aiohttp.client_exceptions", "ClientConnectorError", OSError),
        fake("aiohttp.client_exceptions", "ConnectionTimeoutError", TimeoutError),
        ConnectionRefusedError(),
        socket.gaierror(-2, "unknown"),
        ssl.SSLCertVerificationError(1, "expired"),
        ssl.SSLError(1, "wrong version"),
        OSError(errno.EHOSTUNREACH, "no route"),
        OSError(errno.ENETUNREACH, "no net"),
        urllib.error.URLError(ConnectionRefusedError()),
        type("Mine", (ConnectionRefusedError,), {})(),
    ],
    ids=repr,
)
def test_given_a_failure_before_sending_then_it_is_unreachable(error: BaseException) -> None:
    assert brief(of_error(error)) == UNREACHABLE
    assert brief(of_error(error, sent=False)) == UNREACHABLE
    assert brief(of_error(error, sent=True)) == DROPPED


@pytest.mark.parametrize(
    "error",
    [
        requests.ReadTimeout(),
        requests.Timeout(),
        requests.ConnectionError(),
        requests.ConnectionError(u3.ProtocolError("Connection aborted.", ConnectionResetError())),
        requests.ConnectionError(u3.ReadTimeoutError(POOL, "/", "timed out")),
        in_requests(u3.ReadTimeoutError(POOL, "/", "timed out")),
        in_requests(u3.ProtocolError("Connection aborted.")),
        in_requests(u3.SSLError(EOF)),
        requests.exceptions.ChunkedEncodingError(),
        requests.exceptions.ContentDecodingError(),
        u3.IncompleteRead(1, 2),
        httpx.ReadTimeout("no"),
        httpx.WriteTimeout("no"),
        httpx.ReadError("no"),
        httpx.WriteError("no"),
        httpx.RemoteProtocolError("no"),
        httpx.DecodingError("no"),
        openai.APIConnectionError(request=POOL),
        openai.APITimeoutError(request=POOL),
        caused_by(openai.APITimeoutError(request=POOL), httpx.ReadTimeout("no")),
        aws.ReadTimeoutError(endpoint_url="u"),
        aws.ConnectionClosedError(endpoint_url="u"),
        aws.HTTPClientError(error="e"),
        caused_by(aws.SSLError(endpoint_url="u", error="e"), u3.SSLError(EOF)),
        fake("aiohttp.client_exceptions", "ServerDisconnectedError", type(fake("aiohttp", "ClientConnectionError"))),
        fake("aiohttp.client_exceptions", "ClientPayloadError"),
        TimeoutError(),
        ConnectionResetError(),
        BrokenPipeError(),
        ConnectionAbortedError(),
        ConnectionError(),
        OSError(errno.ENOTCONN, "not connected"),
        EOF,
        BAD_RECORD,
        http.client.RemoteDisconnected(),
        http.client.IncompleteRead(b""),
        http.client.BadStatusLine("x"),
        asyncio.IncompleteReadError(b"", 5),
        urllib.error.URLError(TimeoutError()),
    ],
    ids=repr,
)  # fmt: skip
def test_given_a_failure_that_may_be_after_sending_then_it_is_dropped(error: BaseException) -> None:
    assert brief(of_error(error)) == DROPPED
    assert brief(of_error(error, sent=True)) == DROPPED
    assert brief(of_error(error, sent=False)) == UNREACHABLE


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        Exception(),
        StopIteration(),
        FileNotFoundError(errno.ENOENT, "no"),
        PermissionError(errno.EACCES, "no"),
        OSError("no CA bundle"),
        requests.exceptions.InvalidURL(),
        requests.exceptions.MissingSchema(),
        requests.exceptions.JSONDecodeError("m", "", 0),
        requests.TooManyRedirects(response=redirected()),
        requests.HTTPError(),
        u3.LocationParseError("x"),
        u3.MaxRetryError(POOL, "/", u3.ResponseError("too many redirects")),
        httpx.UnsupportedProtocol("x"),
        httpx.LocalProtocolError("x"),
        httpx.TooManyRedirects("x"),
        httpx.InvalidURL("x"),
        http.client.CannotSendRequest(),
        urllib.error.URLError("unknown url type"),
        aws.NoCredentialsError(),
        aws.ParamValidationError(report="r"),
        ExceptionGroup("g", [ConnectionResetError()]),
        fake("mine", "SSLError"),
        fake("mine", "TimeoutError"),
        type("Coded", (Exception,), {"code": 503})(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("sent", [None, True, False])
def test_given_any_other_exception_then_it_is_unknown(error: BaseException, sent: bool | None) -> None:
    assert of_error(error, sent=sent) == Outcome(M.UNKNOWN)


def test_given_a_failure_raised_while_another_was_handled_then_only_wrappers_are_looked_through() -> None:
    mistake = caused_by(ValueError("bad input"), ConnectionResetError())
    bare = requests.ConnectionError("mocked")
    bare.__context__ = ConnectionRefusedError()
    assert of_error(mistake).meaning is M.UNKNOWN
    assert of_error(bare).meaning is M.DROPPED


def test_given_a_chain_that_is_a_ring_then_it_ends() -> None:
    first, second = (openai.APIConnectionError(request=POOL) for _ in range(2))
    first.__cause__, second.__cause__ = second, first
    assert of_error(first).meaning is M.DROPPED
    knot = requests.ConnectionError()
    knot.args = (knot,)
    assert of_error(knot).meaning is M.DROPPED


def test_given_a_chain_of_great_depth_then_it_is_cut() -> None:
    error: Exception = ConnectionRefusedError()
    for _ in range(100):
        error = requests.ConnectionError(error)
    assert of_error(error).meaning is M.DROPPED
