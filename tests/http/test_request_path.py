"""The way of a request over real sockets: one connection, its deadline, its body, and whose it is."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import resilience
from resilience import fresh_auth, pooled, retry_ratelimit
from resilience.core import events
from resilience.testing import FakeClock, Fault, FaultyAPI, Relay

QUESTION = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def api(faulty_api: FaultyAPI) -> FaultyAPI:
    faulty_api.require_key = False
    return faulty_api


@pytest.fixture
def pool(api: FaultyAPI) -> Callable[..., Any]:
    def make(**settings: Any) -> Any:
        # No other test has these settings, so none has the pool.
        return pooled(**{"base_url": api.base_url, "max_idle": 50.0 + api.port / 1e6, **settings})

    return make


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    found: list[Any] = []
    stop = events.listen(found.append)
    yield found
    stop()


# ---- one connection


def test_thirty_calls_make_one_handshake(api: FaultyAPI, pool: Any) -> None:
    @pool()
    def handler() -> int:
        return requests.post(api.base_url + "/chat/completions", json=QUESTION).status_code

    assert [handler() for _ in range(30)] == [200] * 30
    assert (api.connections, api.handshakes, api.processed) == (1, 1, 30)


def test_ten_threads_each_new_in_turn_make_one_handshake(api: FaultyAPI, pool: Any) -> None:
    @pool()
    def handler() -> None:
        answers.append(requests.get(api.base_url + "/models").status_code)

    answers: list[int] = []
    for _ in range(10):
        thread = threading.Thread(target=handler)
        thread.start()
        thread.join()
    assert answers == [200] * 10
    assert (api.connections, api.handshakes) == (1, 1)


def test_functions_with_the_same_settings_share_a_pool_and_others_do_not(api: FaultyAPI, pool: Any) -> None:
    def get() -> int:
        return requests.get(api.base_url + "/models").status_code

    same = [pool()(lambda: get()), pool()(lambda: get())]
    assert [fn() for fn in same] == [200, 200]
    assert api.handshakes == 1
    assert same[0].resilience.pool is same[1].resilience.pool
    assert pool(maxsize=3)(get)() == 200
    assert api.handshakes == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_makes_a_connection_of_its_own_and_leaves_its_parent_s_alone(api: FaultyAPI, pool: Any) -> None:
    @pool()
    def handler() -> list[int]:
        return [requests.get(api.base_url + "/models").status_code for _ in range(2)]

    assert handler() == [200, 200]
    with warnings.catch_warnings():
        # 3.12 warns of forks beside threads; the API's are the parent's alone.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if handler() == [200, 200] else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert api.handshakes == 2
    # The parent's works on, and is the same.
    assert handler() == [200, 200]
    assert api.handshakes == 2
    by_connection = [record.connection for record in api.requests]
    assert by_connection == [1, 1, 2, 2, 1, 1]


# ---- cookies


def test_a_cookie_set_in_one_call_is_not_sent_in_the_next(api: FaultyAPI, pool: Any) -> None:
    url = api.base_url + "/cookie"

    @pool()
    def handler(session: Any) -> list[dict[str, str]]:
        answers = [session.get("cookie"), requests.post(url), requests.get(url), session.post("cookie")]
        return [answer.json()["cookies"] for answer in answers]

    for _ in range(2):
        assert handler() == [{}] * 4
    assert list(handler.resilience.session.cookies) == []


def test_a_cookie_set_by_a_redirect_does_not_outlive_it(api: FaultyAPI, pool: Any) -> None:
    to_cookie = Fault.status(302, {"Location": api.base_url + "/cookie", "Set-Cookie": "login=once; Path=/"}, b"")

    @pool()
    def handler(session: Any) -> list[dict[str, str]]:
        return [session.get("models").json(), requests.get(api.base_url + "/models").json()]

    api.script([to_cookie, None, to_cookie, None])
    # Within one chain it is sent, as a login page wants it.
    assert handler() == [{"cookies": {"login": "once"}}] * 2
    api.reset_counts()
    handler()
    assert [record.headers.get("Cookie") for record in api.requests] == [None, None]


def test_cookies_that_the_handler_sends_itself_are_sent(api: FaultyAPI, pool: Any) -> None:
    @pool()
    def handler(session: Any) -> list[Any]:
        return [get(api.base_url + "/cookie", cookies={"mine": "1"}).json() for get in (session.get, requests.get)]

    assert handler() == [{"cookies": {"mine": "1"}}] * 2


# ---- timeouts


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"timeout": None}, {"timeout": (5.0, None)}])
def test_a_request_without_a_timeout_has_the_pool_s(given: dict[str, Any], api: FaultyAPI, pool: Any) -> None:
    @pool(timeout=(3.0, 0.15))
    def handler() -> None:
        requests.get(api.base_url + "/models", **given)

    api.script([Fault.hang()])
    with pytest.raises(requests.ReadTimeout):
        handler()


@pytest.mark.slow
def test_a_timeout_that_the_handler_gives_holds(api: FaultyAPI, pool: Any) -> None:
    @pool(timeout=(3.0, 0.1))
    def patient() -> int:
        return requests.get(api.base_url + "/models", timeout=10).status_code

    @pool(timeout=(3.0, 60.0))
    def impatient() -> None:
        requests.get(api.base_url + "/models", timeout=0.1)

    api.script([Fault.stall_before_headers(0.3), Fault.hang()])
    assert patient() == 200
    with pytest.raises(requests.ReadTimeout):
        impatient()


# ---- the deadline

#: Seconds of a call, and by how much its end may come later: the one bound in absolute time, by the issue itself.
LIMIT, LATE = 0.4, 0.1


def outlives_its_limit(call: Callable[[], Any], begin: Callable[[], Any], tries: int = 3) -> float:
    """By how many seconds `call` went on after LIMIT, at best: what the machine's own load adds is not ours."""
    late = float("inf")
    for _ in range(tries):
        begin()
        started = time.monotonic()
        call()
        late = min(late, time.monotonic() - started - LIMIT)
        if late <= LATE:
            break
    return late


SLOW = {
    "drip": Fault.drip(0.02),
    "drip headers": Fault.drip_headers(0.02),
    "hang": Fault.hang(),
    "stall": Fault.stall_before_headers(5.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("fault", SLOW.values(), ids=SLOW.keys())
def test_nothing_outlives_the_deadline(fault: Fault, stream: bool, api: FaultyAPI, pool: Any) -> None:
    @retry_ratelimit(deadline=LIMIT, attempts=50, base=0.02, budget=None)
    @pool()
    def handler() -> None:
        response = requests.get(api.base_url + "/models", stream=stream)
        for _ in response.iter_content(16):
            pass

    def call() -> None:
        with pytest.raises((requests.Timeout, requests.ConnectionError)):
            handler()

    def begin() -> None:
        # A 503 first, so that the one that is cut short is a later attempt.
        api.script([Fault.status(503), *[fault] * 50])
        started.append(time.monotonic())

    started: list[float] = []
    assert outlives_its_limit(call, begin) <= LATE
    assert api.requests[-1].t <= started[-1] + LIMIT + LATE


@pytest.mark.slow
def test_a_black_hole_does_not_outlive_the_deadline(api: FaultyAPI, pool: Any) -> None:
    with Relay(api.port) as relay:

        @retry_ratelimit(deadline=LIMIT, budget=None)
        @pool(base_url=None)
        def handler() -> int:
            return requests.get(relay.base_url + "/models").status_code

        def call() -> None:
            with pytest.raises(requests.Timeout):
                handler()

        def begin() -> None:
            assert handler() == 200
            assert relay.black_hole() >= 1

        assert outlives_its_limit(call, begin) <= LATE
        # A new connection is made for the next.
        assert handler() == 200


@pytest.mark.slow
def test_no_attempt_starts_after_the_deadline(api: FaultyAPI, pool: Any) -> None:
    @retry_ratelimit(deadline=LIMIT, attempts=1000, base=0.01, max_wait=0.02, budget=None)
    @pool()
    def handler() -> int:
        return requests.get(api.base_url + "/models").status_code

    def begin() -> None:
        api.script([Fault.status(503)] * 1000)
        started.append(time.monotonic())

    def call() -> None:
        # The last attempt may have had the time for an answer, or not.
        with contextlib.suppress(requests.Timeout):
            assert handler() == 503

    started: list[float] = []
    assert outlives_its_limit(call, begin) <= LATE
    assert api.count() > 3
    assert api.requests[-1].t <= started[-1] + LIMIT + LATE


def test_a_request_after_the_deadline_is_not_sent_and_says_so(api: FaultyAPI, pool: Any, fake_clock: FakeClock) -> None:
    @retry_ratelimit(deadline=5.0)
    @pool()
    def handler() -> None:
        assert requests.get(api.base_url + "/models").status_code == 200
        fake_clock.advance(5.0)
        requests.get(api.base_url + "/models")

    with pytest.raises(resilience.DeadlineExceeded, match="deadline") as caught:
        handler()
    assert isinstance(caught.value, requests.Timeout)
    assert isinstance(caught.value, TimeoutError)
    assert api.count() == 1


def test_a_retry_that_would_not_fit_is_not_waited_for(api: FaultyAPI, pool: Any, fake_clock: FakeClock) -> None:
    @retry_ratelimit(deadline=5.0)
    @pool()
    def handler() -> requests.Response:
        return requests.get(api.base_url + "/models")

    api.script([Fault.rate_limited("retry-after", 10)])
    response = handler()
    assert (response.status_code, response.resilience.why) == (429, "deadline")
    assert fake_clock.slept == []


def test_the_deadline_of_one_call_is_not_that_of_the_next(api: FaultyAPI, pool: Any, fake_clock: FakeClock) -> None:
    @retry_ratelimit(deadline=5.0)
    @pool()
    def handler() -> int:
        return requests.get(api.base_url + "/models").status_code

    @pool()
    def without() -> int:
        return requests.get(api.base_url + "/models").status_code

    for fn in (handler, without, handler):
        assert fn() == 200
        fake_clock.advance(20.0)
    assert api.handshakes == 1


# ---- bodies of answers


def test_a_truncated_answer_to_a_get_is_asked_for_again(api: FaultyAPI, pool: Any, fake_clock: FakeClock) -> None:
    @pool()
    @retry_ratelimit
    def handler() -> Any:
        return requests.get(api.base_url + "/models").json()["object"]

    api.script([Fault.truncated_body()])
    assert handler() == "list"
    assert api.count() == 2


@pytest.mark.parametrize("key", [False, True], ids=["plain", "with an idempotency key"])
def test_a_truncated_answer_to_a_post_is_asked_for_again_only_with_an_idempotency_key(
    key: bool, api: FaultyAPI, pool: Any, fake_clock: FakeClock
) -> None:
    @pool()
    @retry_ratelimit
    @fresh_auth(provider=lambda: api.key, hosts="localhost", idempotency_key=key)
    def handler() -> Any:
        return requests.post(api.base_url + "/chat/completions", json=QUESTION).json()["object"]

    api.script([Fault.truncated_body()])
    if key:
        assert handler() == "chat.completion"
        assert len({record.idempotency_key for record in api.requests}) == 1
    else:
        with pytest.raises(requests.exceptions.ChunkedEncodingError) as caught:
            handler()
        assert "may have been processed" in "".join(caught.value.__notes__)
        assert caught.value.request.method == "POST"
    assert (api.count(), api.processed, api.replays) == ((2, 1, 1) if key else (1, 1, 0))


def test_an_answer_that_is_discarded_gives_its_connection_back(
    api: FaultyAPI, pool: Any, fake_clock: FakeClock
) -> None:
    @pool(maxsize=1)
    @retry_ratelimit
    def handler() -> Any:
        return requests.get(api.base_url + "/models", stream=True).json()["object"]

    api.script([Fault.status(503), Fault.status(503)])
    assert handler() == "list"
    assert api.count() == 3


# ---- bodies of requests


@pytest.mark.parametrize("kind", ["file", "BytesIO", "from the middle", "multipart"])
def test_a_file_is_sent_again_from_where_it_stood(
    kind: str, api: FaultyAPI, pool: Any, fake_clock: FakeClock, tmp_path: Path
) -> None:
    @pool()
    @retry_ratelimit
    def handler(**body: Any) -> int:
        return requests.put(api.base_url + "/echo", **body).status_code

    (tmp_path / "body").write_bytes(b"0123456789" * 1000)
    api.script([Fault.status(503), Fault.reset_after_reading(), Fault.eof_after_reading()])
    with (tmp_path / "body").open("rb") as file:
        opened: Any = io.BytesIO(file.read()) if kind == "BytesIO" else file
        opened.seek(5 if kind == "from the middle" else 0)
        assert handler(**({"files": {"f": opened}} if kind == "multipart" else {"data": opened})) == 200
    bodies = [record.body for record in api.requests]
    assert (len(bodies), len(set(bodies))) == (4, 1)
    assert b"56789" + b"0123456789" * 999 in bodies[0]


def test_a_file_is_sent_again_with_a_refreshed_credential(api: FaultyAPI, pool: Any) -> None:
    api.require_key = True

    @pool()
    @fresh_auth(provider=lambda: keys.pop(), hosts="localhost")
    def handler() -> Any:
        return requests.post(api.base_url + "/echo", data=io.BytesIO(b"contents")).json()["body"]

    keys = [api.key, "stale"]
    assert handler() == "contents"
    assert [record.body for record in api.requests] == [b"contents"] * 2


def test_a_body_that_can_be_read_once_only_is_sent_once_only(
    api: FaultyAPI, pool: Any, fake_clock: FakeClock, heard: list[Any]
) -> None:
    @pool()
    @retry_ratelimit
    def handler() -> Any:
        return requests.put(api.base_url + "/echo", data=(chunk for chunk in (b"once", b"only")))

    api.script([Fault.status(503)])
    response = handler()
    assert (response.status_code, response.resilience.why) == (503, "body")
    api.script([Fault.reset_after_reading()])
    with pytest.raises(requests.ConnectionError) as caught:
        handler()
    assert "body" in "".join(caught.value.__notes__)
    assert [record.body for record in api.requests] == [b"onceonly"] * 2
    assert [e.why for e in heard if isinstance(e, events.RetryGivenUp)] == ["body", "body"]


def test_a_generator_s_body_is_not_sent_again_for_a_401(api: FaultyAPI, pool: Any) -> None:
    api.require_key = True

    @pool()
    @fresh_auth(provider=lambda: "stale", hosts="localhost")
    def handler() -> int:
        return requests.post(api.base_url + "/echo", data=iter([b"once"])).status_code

    assert handler() == 401
    assert api.count() == 1


# ---- whose the request is


def test_answers_and_exceptions_name_the_caller_s_request_which_knows_no_credential(
    api: FaultyAPI, pool: Any, fake_clock: FakeClock
) -> None:
    api.require_key = True
    prepared: list[requests.PreparedRequest] = []

    @pool()
    @retry_ratelimit(attempts=2)
    @fresh_auth(provider=lambda: api.key, hosts="localhost")
    def handler(path: str = "/models") -> Any:
        with requests.Session() as session:
            prepared.append(session.prepare_request(requests.Request("GET", api.base_url + path)))
            return session.send(prepared[-1], verify=api.ca_file)

    response = handler()
    assert response.request is prepared[-1]
    faults = [Fault.reset_after_reading(), Fault.eof_after_reading(), Fault.truncated_body(), Fault.tls_failure()]
    for fault in faults:
        api.script([fault] * 2)
        with pytest.raises(requests.RequestException) as caught:
            handler()
        assert caught.value.request is prepared[-1], fault
    api.script([Fault.status(500)] * 2)
    with pytest.raises(requests.HTTPError) as caught:
        handler().raise_for_status()
    assert caught.value.request is prepared[-1]
    assert all("Authorization" not in p.headers for p in prepared)
    assert set(api.by_key) == {api.key}


def test_the_history_of_redirects_knows_no_credential(api: FaultyAPI, pool: Any) -> None:
    api.require_key = True

    @pool()
    @fresh_auth(provider=lambda: api.key, hosts="localhost")
    def handler() -> requests.Response:
        return requests.get(api.base_url + "/redirect", params={"to": api.base_url + "/models"})

    response = handler()
    assert response.status_code == 200
    assert len(response.history) == 1
    for each in (response, *response.history):
        assert "Authorization" not in each.request.headers
    assert set(api.by_key) == {api.key}


def test_two_calls_at_once_do_not_mix(api: FaultyAPI, pool: Any) -> None:
    @pool(maxsize=4)
    @retry_ratelimit
    def handler(n: int) -> bool:
        sent = {"n": str(n)}
        return requests.get(api.base_url + "/echo", params=sent).json()["query"] == sent

    answers: list[bool] = []
    threads = [threading.Thread(target=lambda n=n: answers.extend(handler(n) for _ in range(10))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [True] * 80
    assert api.handshakes <= 4


def test_a_redirect_to_a_port_out_of_range_fails_as_in_requests(api: FaultyAPI, pool: Any) -> None:
    @pool()
    @retry_ratelimit
    def handler() -> None:
        requests.get(f"{api.base_url}/redirect?to=http://localhost:99999/")

    with pytest.raises(requests.exceptions.InvalidURL):
        handler()
