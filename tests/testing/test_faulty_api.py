from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import requests

from resilience.core.hints import retry_after
from resilience.testing.faults import HINTS, MIXED, hint_headers
from resilience.testing.faulty_api import Fault, FaultyAPI

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "how are you"}]}


@pytest.fixture(scope="module")
def shared() -> Iterator[FaultyAPI]:
    with FaultyAPI(seed=1) as api:
        yield api


@pytest.fixture
def api(shared: FaultyAPI) -> FaultyAPI:
    """The module's server, as new."""
    shared.recover()
    shared.script([])
    shared.rate(probability=0)
    shared.limit(None)
    shared.latency, shared.require_key = 0.0, True
    shared.reset_counts()
    return shared


@pytest.fixture
def session(api: FaultyAPI) -> Iterator[requests.Session]:
    with requests.Session() as session:
        # Without the environment: its CA bundle would win over `verify`.
        session.trust_env = False
        session.verify = api.ca_file
        session.headers["Authorization"] = f"Bearer {api.key}"
        yield session


@pytest.fixture
def plain() -> Iterator[FaultyAPI]:
    """Without TLS, whose client side (CPython's ssl) does not tell an RST from a FIN."""
    with FaultyAPI(seed=1, tls=False) as api:
        yield api


@contextlib.contextmanager
def connected(api: FaultyAPI) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as sock:
        yield sock


def ask(sock: socket.socket, api: FaultyAPI, path: str = "/v1/models", method: str = "GET", *more: str) -> None:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {api.key}", *more, "", ""]
    sock.sendall("\r\n".join(lines).encode())


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


# --- when all is well ------------------------------------------------------------------------------------------------


def test_a_completion_is_the_same_each_time(api, session):
    first = session.post(api.base_url + "/chat/completions", json=QUESTION)
    again = session.post(api.base_url + "/chat/completions", json=QUESTION)
    assert first.json() == again.json()
    assert first.json()["choices"][0]["message"]["content"] == "You said: how are you"
    assert first.json()["usage"] == {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
    assert (api.connections, api.handshakes, api.processed) == (1, 1, 2)


def test_the_openai_sdk_works_against_it(api):
    import httpx
    import openai

    context = ssl.create_default_context(cafile=api.ca_file)
    with httpx.Client(verify=context, trust_env=False) as http:
        client = openai.OpenAI(api_key=api.key, base_url=api.base_url, http_client=http, max_retries=0)
        whole = client.chat.completions.create(**QUESTION)
        options = {"include_usage": True}
        chunks = list(client.chat.completions.create(**QUESTION, stream=True, stream_options=options))
        names = [model.id for model in client.models.list()]
        api.script([Fault.rate_limited()])
        with pytest.raises(openai.RateLimitError) as limited:
            client.chat.completions.create(**QUESTION)
    assert whole.choices[0].message.content == "You said: how are you"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    assert names == ["faulty-large", "faulty-small"]
    assert (limited.value.code, limited.value.response.headers["retry-after"]) == ("rate_limit_exceeded", "1")


def test_a_stream_is_server_sent_events(api, session):
    answer = session.get(api.base_url + "/stream", params={"n": 2, "delay": 0.01})
    assert answer.headers["Content-Type"] == "text/event-stream"
    assert answer.text == 'data: {"n": 0}\n\ndata: {"n": 1}\n\ndata: [DONE]\n\n'


def test_echo_returns_what_was_sent(api, session):
    answer = session.put(
        api.base_url + "/echo?a=1", data=(part for part in (b"x" * 100_000, b"y")), headers={"X-A": "b"}
    )
    said = answer.json()
    assert (said["method"], said["query"], said["headers"]["X-A"]) == ("PUT", {"a": "1"}, "b")
    assert said["body"] == "x" * 100_000 + "y"


def test_cookies_are_set_and_reported(api, session):
    assert session.get(api.base_url + "/cookie").json() == {"cookies": {}}
    assert session.get(api.base_url + "/cookie").json() == {"cookies": {"session": "one-caller"}}


def test_a_redirect_goes_where_it_is_told(api, session):
    answer = session.get(api.base_url + "/redirect", params={"to": api.url + "/health"})
    assert (answer.json(), [step.status_code for step in answer.history]) == ({"status": "ok"}, [302])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/v1/models", 200),
        ("HEAD", "/v1/chat/completions", 200),
        ("HEAD", "/v1/stream", 200),
        ("HEAD", "/health", 200),
        ("GET", "/v1/chat/completions", 405),
        ("GET", "/nowhere", 404),
        ("GET", "/v1/redirect", 400),
        ("GET", "/v1/stream?n=-1", 400),
        ("POST", "/v1/chat/completions", 400),
    ],
)
def test_statuses(api, session, method, path, status):
    answer = session.request(method, api.url + path)
    assert answer.status_code == status
    assert session.get(api.base_url + "/models").ok
    # Had the first answer been framed wrongly, the second would have needed a new connection.
    assert api.connections == 1


def test_what_is_not_http_gets_400(plain):
    with connected(plain) as sock:
        sock.sendall(b"what?\r\n\r\n")
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")


def test_it_keeps_records(api, session):
    before = time.monotonic()
    headers = {"X-Request-ID": "r1", "Idempotency-Key": "i1"}
    session.post(api.base_url + "/chat/completions?q=1", json=QUESTION, headers=headers)
    session.get(api.base_url + "/models")
    record, other = api.requests
    assert before <= record.t <= other.t <= time.monotonic()
    assert (record.method, record.path, record.query) == ("POST", "/v1/chat/completions", {"q": "1"})
    assert (record.request_id, record.idempotency_key, record.status) == ("r1", "i1", 200)
    assert record.headers["content-TYPE"] == "application/json"
    assert "nothing" not in record.headers
    assert json.loads(record.body) == QUESTION
    assert record.connection == other.connection
    assert api.by_key == {api.key: 2}
    assert api.by_id == {"r1": 1, None: 1}
    assert (api.count(), api.count(path="/v1/models"), api.count(status=404), api.count(method="POST")) == (2, 1, 0, 1)
    api.reset_counts()
    assert (api.requests, api.connections, api.handshakes, api.injected) == ([], 0, 0, Counter())


def test_other_names_may_stand_in_the_certificate():
    with FaultyAPI(hostnames=["api.example.com"]) as api, connected(api) as sock:
        context = ssl.create_default_context(cafile=api.ca_file)
        with context.wrap_socket(sock, server_hostname="api.example.com") as tls:
            ask(tls, api, "/health")
            assert tls.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_requests_are_served_side_by_side(plain):
    barrier = threading.Barrier(4, timeout=10)

    def one() -> None:
        with connected(plain) as sock:
            barrier.wait()
            ask(sock, plain, "/v1/models", "GET", "Connection: close")
            assert b" 200 OK" in read_all(sock)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert plain.count(status=200) == plain.connections == 4


def test_latency_is_added_to_each_answer(api, session):
    api.latency = 0.05
    began = time.monotonic()
    session.get(api.base_url + "/models")
    assert time.monotonic() - began >= 0.05


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_required_except_for_health(api, session):
    del session.headers["Authorization"]
    refused = session.get(api.base_url + "/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert session.get(api.url + "/health").ok
    api.require_key = False
    assert session.get(api.base_url + "/models").ok


def test_a_rotated_key_is_refused(api, session):
    old = api.key
    new = api.rotate()
    assert session.get(api.base_url + "/models").status_code == 401
    session.headers["Authorization"] = f"Bearer {new}"
    assert session.get(api.base_url + "/models").status_code == 200
    assert new == api.key != old
    assert api.by_key == {old: 1, new: 1}


def test_an_old_key_lives_on_for_its_grace(api, session):
    api.rotate(grace=60)
    assert session.get(api.base_url + "/models").status_code == 200
    api.rotate()
    assert session.get(api.base_url + "/models").status_code == 200


def test_the_same_seed_makes_the_same_keys():
    assert FaultyAPI(seed=3).key == FaultyAPI(seed=3).key != FaultyAPI(seed=4).key


# --- faults that replace the answer ----------------------------------------------------------------------------------


def test_a_script_is_followed_and_then_all_is_well(api, session):
    api.script(
        [Fault.status(503, {"Retry-After": "7"}, {"oh": "no"}), None, Fault.status(204), Fault.status(599, body="x")]
    )
    answers = [session.get(api.base_url + "/models") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [503, 200, 204, 599, 200]
    assert (answers[0].json(), answers[0].headers["Retry-After"], answers[3].text) == ({"oh": "no"}, "7", "x")
    assert [record.fault for record in api.requests] == ["status", None, "status", "status", None]
    assert api.injected == {"status": 3}


def test_what_is_replaced_is_not_processed(api, session):
    api.script([Fault.status(500)])
    session.post(api.base_url + "/chat/completions", json=QUESTION)
    assert api.processed == 0


@pytest.mark.parametrize("hint", [hint for hint in HINTS if hint not in ("malformed", "none")])
@pytest.mark.parametrize("seconds", [0.07, 1.5, 360.0])
def test_each_kind_of_hint_asks_for_the_time_or_a_little_more(api, session, hint, seconds):
    api.script([Fault.rate_limited(hint, seconds)])
    now = time.time()
    answer = session.get(api.base_url + "/models")
    asked = retry_after(answer.headers, now)
    assert answer.status_code == 429
    assert asked is not None
    # A date and a whole second are rounded up; `now` was read a moment before the date was made.
    assert seconds - 0.001 <= asked
    assert hint in ("retry-after", "http-date") or "ratelimit" in hint or asked == pytest.approx(seconds)


@pytest.mark.parametrize("hint", ["malformed", "none"])
def test_hints_that_say_nothing(hint):
    assert retry_after(hint_headers(hint, 5), time.time()) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "250ms"), (1.5, "1.5s"), (360, "6m0s"), (3600, "1h0m0s"), (86400, "24h0m0s"), (0, "0ms")],
)
def test_openai_writes_durations_as_go_does(seconds, text):
    assert hint_headers("x-ratelimit-reset-requests", seconds)["x-ratelimit-reset-requests"] == text


def test_an_exhausted_quota_says_so(api, session):
    api.script([Fault.quota_exhausted()])
    answer = session.get(api.base_url + "/models")
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "insufficient_quota")


@pytest.mark.slow
def test_a_limit_holds_until_its_window_ends(api, session):
    api.limit(2, per=1.0, hint="retry-after-ms")
    answers = [session.get(api.base_url + "/models") for _ in range(3)]
    wait = int(answers[2].headers["retry-after-ms"]) / 1000
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 0 < wait <= 1
    time.sleep(wait)
    assert session.get(api.base_url + "/models").status_code == 200
    assert api.requests[2].fault == "limit"


def test_the_same_seed_draws_the_same_faults():
    def drawn(seed: int) -> list[str | None]:
        with FaultyAPI(seed=seed, tls=False) as api, requests.Session() as session:
            session.trust_env = False
            session.headers["Authorization"] = f"Bearer {api.key}"
            api.rate({Fault.status(503): 3, Fault.rate_limited(): 1}, probability=0.4)
            for _ in range(60):
                session.get(api.base_url + "/models")
            return [record.fault for record in api.requests]

    first = drawn(5)
    assert first == drawn(5) != drawn(6)
    assert set(first) == {None, "status", "rate_limited"}


def test_the_mixture_of_a_busy_service_can_all_be_survived(api, session):
    api.rate(MIXED, probability=0.5)
    ok = 0
    for _ in range(30):
        with contextlib.suppress(requests.RequestException):
            ok += session.get(api.base_url + "/models").ok
    assert 0 < ok < 30
    assert sum(api.injected.values()) > 0


# --- faults of delivery ----------------------------------------------------------------------------------------------


def test_reset_before_reading_leaves_nothing_read(plain):
    plain.script([Fault.reset_before_reading()])
    with connected(plain) as sock:
        ask(sock, plain)
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    assert (plain.requests, plain.injected) == ([], {"reset_before_reading": 1})


def test_reset_after_reading_has_processed_the_request(plain):
    plain.script([Fault.reset_after_reading()])
    with connected(plain) as sock:
        ask(sock, plain, "/v1/echo", "POST")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)
    (record,) = plain.requests
    assert (plain.processed, record.status, record.fault) == (1, None, "reset_after_reading")


def test_eof_after_reading_has_processed_the_request(plain):
    plain.script([Fault.eof_after_reading()])
    with connected(plain) as sock:
        ask(sock, plain, "/v1/echo", "POST")
        assert read_all(sock) == b""
    assert plain.processed == 1


@pytest.mark.parametrize(
    "fault", [Fault.reset_before_reading(), Fault.reset_after_reading(), Fault.eof_after_reading()]
)
def test_dropped_requests_are_connection_errors_over_tls(api, session, fault):
    api.script([None, fault])
    session.get(api.base_url + "/models")
    with pytest.raises(requests.ConnectionError):
        session.post(api.base_url + "/echo")
    assert session.get(api.base_url + "/models").ok


def test_close_when_idle_answers_and_closes_unannounced(plain):
    plain.script([Fault.close_when_idle()])
    with connected(plain) as sock:
        ask(sock, plain)
        answer = read_all(sock)
    assert b" 200 OK" in answer
    assert b"Connection: close" not in answer


def test_a_truncated_body_is_shorter_than_promised(api, session):
    api.script([Fault.truncated_body(), Fault.truncated_body()])
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        session.get(api.base_url + "/models")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        session.get(api.base_url + "/stream")


def test_a_stall_comes_before_the_headers(api, session):
    api.script([Fault.stall_before_headers(3600)])
    with pytest.raises(requests.ReadTimeout):
        session.get(api.base_url + "/models", timeout=0.05)
    api.script([Fault.stall_before_headers(0.05)])
    began = time.monotonic()
    assert session.get(api.base_url + "/models").ok
    assert time.monotonic() - began >= 0.05


def test_a_drip_sends_the_headers_and_then_bytes(plain):
    plain.script([Fault.drip(0.01, size=50)])
    with connected(plain) as sock:
        began = time.monotonic()
        ask(sock, plain, "/v1/models", "GET", "Connection: close")
        _, _, body = sock.recv(65536).partition(b"\r\n\r\n")
        body += read_all(sock)
    assert json.loads(body)["object"] == "list"
    assert time.monotonic() - began >= 0.01 * (len(body) // 50)


def test_a_drip_may_end(plain):
    plain.script([Fault.drip_headers(3600, total=0.05)])
    with connected(plain) as sock:
        began = time.monotonic()
        ask(sock, plain, "/v1/models", "GET", "Connection: close")
        # Had it not ended, this test would have timed out.
        answer = read_all(sock)
    assert time.monotonic() - began >= 0.05
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert answer.endswith(b"}")


def test_a_tls_failure_meets_the_next_connection(api, session):
    api.script([Fault.tls_failure()])
    with pytest.raises(requests.exceptions.SSLError):
        session.get(api.base_url + "/models")
    assert session.get(api.base_url + "/models").ok
    assert (api.connections, api.handshakes, api.injected) == (2, 1, {"tls_failure": 1})


def test_a_tls_failure_drawn_by_an_open_connection_closes_it(api):
    context = ssl.create_default_context(cafile=api.ca_file)
    with connected(api) as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
        api.script([Fault.tls_failure()])
        ask(tls, api)
        assert read_all(tls).startswith(b"HTTP/1.1 200 OK")
    with connected(api) as sock, pytest.raises(ssl.SSLError):
        context.wrap_socket(sock, server_hostname="localhost")
    with connected(api) as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
        ask(tls, api)
        assert tls.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_tls_failure_without_tls_is_a_reset(plain):
    plain.script([Fault.tls_failure()])
    # Whether the connect or the first use of it fails depends on which thread is the faster.
    with pytest.raises(ConnectionError), connected(plain) as sock:
        sock.recv(1)


def test_hang_never_answers_and_stop_does_not_wait_for_it():
    with FaultyAPI(tls=False) as api:
        api.script([Fault.hang(), Fault.stall_before_headers(3600), Fault.drip(3600)])
        socks = [socket.create_connection(("127.0.0.1", api.port), timeout=10) for _ in range(3)]
        for sock in socks:
            ask(sock, api)
        while len(api.requests) < 3:
            time.sleep(0.001)
        api.stop()
        # Had `stop` waited for the stall, this test would have timed out.
        for sock in socks:
            read_all(sock)
            sock.close()
    assert api.by_key == {api.key: 3}


# --- idempotency -----------------------------------------------------------------------------------------------------


def test_an_idempotency_key_is_answered_from_the_store(api, session):
    headers = {"Idempotency-Key": "one"}
    api.script([Fault.reset_after_reading()])
    with pytest.raises(requests.ConnectionError):
        session.post(api.base_url + "/echo", headers=headers, data="a")
    answer = session.post(api.base_url + "/echo", headers=headers, data="a")
    assert (api.processed, api.replays) == (1, 1)
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert api.requests[-1].fault == "replay"
    assert session.post(api.base_url + "/echo", headers={"Idempotency-Key": "two"}).ok
    assert (api.processed, api.replays) == (2, 1)


def test_a_failed_request_is_not_stored(api, session):
    headers = {"Idempotency-Key": "three"}
    assert session.post(api.base_url + "/chat/completions", headers=headers, data="no json").status_code == 400
    assert session.post(api.base_url + "/chat/completions", headers=headers, json=QUESTION).status_code == 200
    assert (api.processed, api.replays) == (1, 0)


# --- outages ---------------------------------------------------------------------------------------------------------


def test_an_outage_answers_503_until_it_is_over(api, session):
    api.outage()
    assert session.get(api.url + "/health").status_code == 503
    assert session.get(api.base_url + "/models").status_code == 503
    api.recover()
    assert session.get(api.base_url + "/models").status_code == 200
    assert [record.fault for record in api.requests] == ["outage", "outage", None]


def test_an_outage_may_refuse_connections(plain):
    with connected(plain) as idle:
        ask(idle, plain)
        idle.recv(65536)
        plain.outage("refuse")
        with pytest.raises(ConnectionResetError):
            idle.recv(1)
        # Whether the connect or the first use of it fails depends on which thread is the faster.
        with pytest.raises(ConnectionError), connected(plain) as new:
            new.recv(1)
        plain.recover()
        with connected(plain) as new:
            ask(new, plain)
            assert b" 200 OK" in new.recv(65536)


def test_an_outage_may_hang(plain):
    plain.outage("hang")
    with connected(plain) as sock:
        ask(sock, plain)
        sock.settimeout(0.05)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(10)
        plain.recover()
        assert b" 200 OK" in sock.recv(65536)


# --- life ------------------------------------------------------------------------------------------------------------


def test_before_start_and_after_stop():
    api = FaultyAPI()
    with pytest.raises(RuntimeError, match="not started"):
        _ = api.url
    with pytest.raises(RuntimeError, match="ca_file"):
        _ = api.ca_file
    api.stop()
    with api:
        path = api.ca_file
        assert os.path.exists(path)
        with pytest.raises(RuntimeError, match="once"):
            api.start()
    api.stop()
    assert not os.path.exists(path)
    with pytest.raises(ConnectionRefusedError), connected(api):
        pass


def test_stop_leaves_no_thread():
    before = set(threading.enumerate())
    with FaultyAPI(tls=False) as api, connected(api) as sock:
        ask(sock, api)
        sock.recv(65536)
        started = set(threading.enumerate()) - before
        assert len(started) == 2
    assert not any(thread.is_alive() for thread in started)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda api: FaultyAPI(latency=-1), r"latency=-1 is not .* 0 and at most 86400"),
        (lambda api: api.rotate(grace="x"), r"grace='x'"),
        (lambda api: api.script(["503"]), r"script='503'"),
        (lambda api: api.script([503]), r"script=503"),
        (lambda api: api.rate([None]), r"faults=None"),
        (lambda api: api.rate({Fault.hang(): -1}), r"weight of hang=-1"),
        (lambda api: api.rate([], probability=0.5), r"faults=\{\}"),
        (lambda api: api.rate(Fault.hang(), probability=1.5), r"probability=1.5"),
        (lambda api: api.outage("slow"), r"mode='slow' is not one of '503', 'refuse', 'hang'"),
        (lambda api: api.limit(-1), r"n=-1"),
        (lambda api: api.limit(1, per=0), r"per=0"),
        (lambda api: api.limit(1, hint="soon"), r"hint='soon'"),
        (lambda api: Fault.status(99), r"code=99 is not .* 200 and at most 599"),
        (lambda api: Fault.rate_limited("soon"), r"hint='soon'"),
        (lambda api: Fault.rate_limited(seconds=-1), r"seconds=-1"),
        (lambda api: Fault.stall_before_headers(-1), r"seconds=-1"),
        (lambda api: Fault.drip(-1), r"interval=-1"),
        (lambda api: Fault.drip(1, size=0), r"size=0"),
        (lambda api: Fault.drip_headers(1, total=-1), r"total=-1"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_range(act, message):
    with pytest.raises(ValueError, match=message):
        act(FaultyAPI())
