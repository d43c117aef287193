"""Connections made before they are needed."""

from __future__ import annotations

import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from resilience.core.clock import CLOCK
from resilience.core.errors import ConfigurationError
from resilience.http import prewarm as module
from resilience.http.prewarm import drop_all, prewarm, take
from resilience.testing.faulty_api import FaultyAPI


@pytest.fixture(scope="module")
def api() -> Iterator[FaultyAPI]:
    with FaultyAPI(require_key=False) as server:
        yield server


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    yield
    drop_all()
    CLOCK.reset()


class Later:
    """The real clocks, set forward by so many seconds each."""

    def __init__(self, monotonic: float = 0.0, wall: float = 0.0) -> None:
        self.monotonic = lambda: time.monotonic() + monotonic
        self.wall = lambda: time.time() + wall
        self.sleep = time.sleep
        self.sleep_async = None


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


def ready(api: FaultyAPI) -> None:
    [ticket] = module._tickets["localhost", api.port, True]
    assert ticket.ready.wait(20.0)


def test_the_connection_is_shaken_hands_on_verified_and_handed_over_once(api: FaultyAPI) -> None:
    api.reset_counts()
    prewarm(api.url, ca=api.ca_file)
    sock = take("localhost", api.port, api.ca_file, 20.0)
    assert sock is not None
    with sock:
        sock.settimeout(5.0)
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
    assert take("localhost", api.port, api.ca_file, 20.0) is None
    assert api.handshakes == 1


def test_taking_waits_for_what_is_under_way_but_not_for_ever() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        # Given a server that accepts and never shakes hands,
        prewarm(f"https://127.0.0.1:{port}", timeout=0.3)
        # when nobody answers in time, nothing is handed over,
        assert take("127.0.0.1", port, "/some/ca.pem", 0.02) is None
        # and what comes of it later is closed.
        assert not module._tickets


def test_a_connection_is_not_handed_to_who_trusts_another_bundle(api: FaultyAPI, tmp_path: object) -> None:
    prewarm(api.url, ca=api.ca_file)
    assert take("localhost", api.port, f"{tmp_path}/other.pem", 20.0) is None


@pytest.mark.parametrize("clock", [Later(monotonic=56.0), Later(wall=56.0)], ids=["monotonic", "wall"])
def test_one_that_either_clock_calls_old_is_not_handed_over(api: FaultyAPI, clock: Later) -> None:
    prewarm(api.url, ca=api.ca_file)
    ready(api)
    CLOCK.install(clock)
    assert take("localhost", api.port, api.ca_file, 20.0) is None


def test_one_that_its_peer_has_closed_is_not_handed_over() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        prewarm(f"http://127.0.0.1:{port}")
        peer, _ = server.accept()
        [ticket] = module._tickets["127.0.0.1", port, False]
        assert ticket.ready.wait(20.0)
        peer.close()
        sock = ticket.sock
        assert sock is not None
        until(lambda: not sock.is_quiet())
        assert take("127.0.0.1", port, None, 20.0) is None


def test_plain_http_is_connected_and_no_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        prewarm(f"http://127.0.0.1:{port}/path?query", connections=2)
        for _ in range(2):
            sock = take("127.0.0.1", port, None)
            assert sock is not None
            sock.close()
        assert take("127.0.0.1", port, None) is None


def test_what_is_dropped_is_closed_also_when_it_was_under_way(api: FaultyAPI) -> None:
    prewarm(api.url, ca=api.ca_file)
    ready(api)
    [ticket] = module._tickets["localhost", api.port, True]
    sock = ticket.sock
    prewarm(api.url, ca=api.ca_file)
    drop_all()
    assert sock is not None
    assert sock.fileno() == -1
    assert take("localhost", api.port, api.ca_file, 20.0) is None
    until(lambda: not [t for t in threading.enumerate() if t.name == "resilience-prewarm"])


def test_what_nobody_takes_is_closed_after_a_while(api: FaultyAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_IDLE", 0.01)
    prewarm(api.url, ca=api.ca_file)
    until(lambda: not module._tickets)


@pytest.mark.parametrize("ca", ["no-such-file.pem", None])
def test_failures_are_silent(api: FaultyAPI, ca: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    prewarm(api.url, ca=ca)
    until(lambda: not module._tickets)
    assert take("localhost", api.port, ca or "default", 20.0) is None
    assert not caplog.records


def test_a_name_that_is_not_in_the_certificate_is_a_failure(
    api: FaultyAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **s: real("127.0.0.1", *a, **s))
    caplog.set_level("DEBUG", "resilience")
    prewarm(f"https://other.test:{api.port}", ca=api.ca_file)
    until(lambda: caplog.records)
    assert "Hostname mismatch" in caplog.text
    assert take("other.test", api.port, api.ca_file, 20.0) is None


def test_where_no_thread_can_be_started_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    prewarm("https://api.test")
    assert not module._tickets


@pytest.mark.parametrize(
    ("environment", "url", "proxied"),
    [
        ({}, "https://api.test", False),
        ({"https_proxy": "http://p:1"}, "https://api.test", True),
        ({"HTTPS_PROXY": "http://p:1"}, "https://api.test", True),
        ({"https_proxy": "http://p:1"}, "http://api.test", False),
        ({"ALL_PROXY": "http://p:1"}, "http://api.test", True),
        ({"https_proxy": "http://p:1", "no_proxy": "other.test, api.test"}, "https://api.test", False),
        ({"https_proxy": "http://p:1", "NO_PROXY": ".test"}, "https://api.test", False),
        ({"https_proxy": "http://p:1", "no_proxy": "api.test:444"}, "https://api.test:444", False),
        ({"https_proxy": "http://p:1", "no_proxy": "*"}, "https://api.test", False),
        ({"https_proxy": "http://p:1", "no_proxy": "pi.test"}, "https://api.test", True),
    ],
)
def test_a_host_behind_a_proxy_is_left_alone(
    environment: dict[str, str], url: str, proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    started: list[object] = []
    monkeypatch.setattr(module, "_start", lambda *args, **settings: started.append(args))
    prewarm(url)
    assert bool(started) is not proxied


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://api.test", ("https", "api.test", 443)),
        ("HTTP://API.test/v1?a=b#c", ("http", "api.test", 80)),
        ("https://user:p:w@api.test:8443/", ("https", "api.test", 8443)),
        ("https://[::1]:8443/v1", ("https", "::1", 8443)),
        ("https://[::1]", ("https", "::1", 443)),
    ],
)
def test_urls_are_understood(url: str, expected: tuple[str, str, int]) -> None:
    assert module._parse(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        *("", "api.test", "ftp://api.test", "https://", "https://:443", "https://a b", "https://a:b", "https://a:0"),
        *("https://a:70000", "https://[::1]x", "https:///path", "https://a:²", None, 5),
    ],
)
def test_a_url_that_cannot_work_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match="prewarm: ") as caught:
        prewarm("https://api.test:1", url)
    assert repr(url) in str(caught.value)
    assert not module._tickets


@pytest.mark.parametrize("settings", [{"connections": 0}, {"connections": 1.5}, {"timeout": 0}, {"timeout": "5"}])
def test_a_setting_that_cannot_work_is_named(settings: dict[str, object]) -> None:
    [(name, value)] = settings.items()
    with pytest.raises(ConfigurationError, match=f"{name}: ") as caught:
        prewarm("https://api.test", **settings)  # type: ignore[arg-type]
    assert repr(value) in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_none_and_the_parent_s_goes_on(api: FaultyAPI) -> None:
    prewarm(api.url, ca=api.ca_file)
    ready(api)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os._exit(0 if take("localhost", api.port, api.ca_file, 5.0) is None else 1)
    assert os.waitpid(pid, 0)[1] == 0
    sock = take("localhost", api.port, api.ca_file, 5.0)
    assert sock is not None
    with sock:
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
