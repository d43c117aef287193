"""Unchanged handlers: what `requests` does within a call, outside one, and beside others who touch the same point."""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter

import resilience
from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit
from resilience.http import transparent
from resilience.testing import FakeClock, Fault, FaultyAPI

STOCK_SEND = inspect.unwrap(HTTPAdapter.send)


@pytest.fixture(autouse=True)
def choke_point(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins and ends with the adapter as requests ships it."""
    monkeypatch.setattr(HTTPAdapter, "send", STOCK_SEND)
    yield
    monkeypatch.setattr(HTTPAdapter, "send", STOCK_SEND)


@pytest.fixture
def api(faulty_api: FaultyAPI) -> FaultyAPI:
    return faulty_api


@pytest.fixture
def guarded(api: FaultyAPI) -> Callable[[Callable[..., Any]], Any]:
    """The decorators that matter to a request, with a pool of this test's own."""

    def decorate(fn: Callable[..., Any]) -> Any:
        return own_pool(api)(retry_ratelimit(attempts=3)(fresh_auth(provider=lambda: api.key, hosts="localhost")(fn)))

    return decorate


def own_pool(api: FaultyAPI, **settings: Any) -> Any:
    # No other test has these settings, so none has the pool.
    return pooled(base_url=api.base_url, timeout=(3.0 + api.port / 1e6, 10.0), **settings)


def is_ours() -> bool:
    return hasattr(HTTPAdapter.send, "_resilience_self")


# ---- unchanged handlers


def by_function(api: FaultyAPI) -> requests.Response:
    return requests.get(api.base_url + "/models")


def by_post(api: FaultyAPI) -> requests.Response:
    return requests.post(api.base_url + "/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]})


def by_session_within(api: FaultyAPI) -> requests.Response:
    with requests.Session() as session:
        return session.get(api.base_url + "/models")


MODULE_SESSION = requests.Session()


def by_session_of_the_module(api: FaultyAPI) -> requests.Response:
    return MODULE_SESSION.get(api.base_url + "/models")


class SDK:
    """As SDKs built on requests do it: a session kept, requests prepared and sent."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "sdk/1"

    def models(self) -> requests.Response:
        request = requests.Request("GET", self._base_url + "/models")
        settings = self._session.merge_environment_settings(request.url, {}, None, None, None)
        return self._session.send(self._session.prepare_request(request), timeout=5, **settings)


def by_sdk(api: FaultyAPI) -> requests.Response:
    return SDK(api.base_url).models()


@pytest.mark.parametrize(
    "body", [by_function, by_post, by_session_within, by_session_of_the_module, by_sdk], ids=lambda b: b.__name__
)
def test_an_unchanged_handler_is_pooled_guarded_and_authorised(
    body: Any, api: FaultyAPI, guarded: Any, fake_clock: FakeClock
) -> None:
    runs = []

    @guarded
    def handler() -> Any:
        runs.append(1)
        return body(api).json()

    api.script([Fault.rate_limited("retry-after", 1)])
    for _ in range(3):
        assert handler()["object"] in ("list", "chat.completion")
    # The body was not run again for the 429, which was waited for.
    assert (len(runs), api.count(), api.count(status=429)) == (3, 4, 1)
    assert sum(fake_clock.slept) >= 1.0
    assert (api.connections, api.handshakes) == (1, 1)
    assert set(api.by_key) == {api.key}


def test_what_a_session_of_the_handler_says_still_holds(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler() -> Any:
        with requests.Session() as session:
            session.headers["X-Mine"] = "1"
            session.params = {"a": "b"}
            session.hooks["response"].append(lambda r, **_: setattr(r, "seen", True))
            response = session.get(api.base_url + "/echo", cookies={"c": "d"}, headers={"X-Other": "2"})
        return response, response.json()

    response, echo = handler()
    assert response.seen
    assert (echo["headers"]["X-Mine"], echo["headers"]["X-Other"], echo["query"]) == ("1", "2", {"a": "b"})
    assert echo["headers"]["Cookie"] == "c=d"


# ---- outside a call


def outside(api: FaultyAPI) -> None:
    """`requests` does what it does without us: an adapter and a connection of its own, no credential, no retry."""
    before = api.handshakes
    api.script([Fault.status(503)])
    with requests.Session() as session:
        response = session.get(api.base_url + "/models")
        assert response.status_code == 503
        assert session.get(api.base_url + "/models").status_code == 401
        assert response.connection is session.get_adapter(api.base_url)
        assert type(response.connection) is HTTPAdapter
        assert len(response.connection.poolmanager.pools) == 1
    assert requests.get(api.base_url + "/models").status_code == 401
    assert api.handshakes == before + 2
    assert api.requests[-1].key is None


def test_outside_a_call_requests_is_as_if_we_were_not_there(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler() -> int:
        return requests.get(api.base_url + "/models").status_code

    @guarded
    def failing() -> None:
        requests.get(api.base_url + "/models")
        raise KeyError("of the handler's own")

    outside(api)
    assert handler() == 200
    outside(api)
    with pytest.raises(KeyError):
        failing()
    outside(api)
    assert handler() == 200


def test_a_thread_that_outlives_its_call_is_outside_of_it(api: FaultyAPI, guarded: Any) -> None:
    go = threading.Event()
    answers: list[int] = []

    def later() -> None:
        go.wait(10)
        answers.append(requests.get(api.base_url + "/models").status_code)

    @guarded
    def handler() -> threading.Thread:
        thread = threading.Thread(target=resilience.bind(later))
        thread.start()
        return thread

    thread = handler()
    go.set()
    thread.join()
    assert answers == [401]


# ---- what is left alone


class OwnAdapter(HTTPAdapter):
    """A user's own."""

    sent = 0

    def send(self, *args: Any, **settings: Any) -> Any:
        type(self).sent += 1
        return super().send(*args, **settings)


def test_an_adapter_of_the_user_s_own_is_left_alone(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler() -> tuple[int, type]:
        with requests.Session() as session:
            session.mount("https://", OwnAdapter())
            response = session.get(api.base_url + "/models")
            return response.status_code, type(response.connection)

    OwnAdapter.sent = 0
    api.script([Fault.status(503)])
    assert handler() == (503, OwnAdapter)
    assert (OwnAdapter.sent, api.requests[0].key) == (1, None)


@pytest.mark.parametrize("retries", ["2", "Retry(total=None, status=2)"])
def test_a_stock_adapter_that_retries_by_itself_is_left_alone(retries: str, api: FaultyAPI, guarded: Any) -> None:
    from urllib3.util import Retry

    max_retries = 2 if retries == "2" else Retry(total=None, status=2, status_forcelist=[503])

    @guarded
    def handler() -> requests.Response:
        with requests.Session() as session:
            session.mount("https://", HTTPAdapter(max_retries=max_retries))
            return session.get(api.base_url + "/models")

    response = handler()
    assert type(response.connection) is HTTPAdapter
    assert (response.status_code, api.requests[0].key) == (401, None)


def test_not_transparent_means_only_the_session_that_is_handed_over(api: FaultyAPI) -> None:
    @own_pool(api, transparent=False)
    @fresh_auth(provider=lambda: api.key, hosts="localhost")
    def handler(session: Any = None) -> tuple[int, int]:
        return requests.get(api.base_url + "/models").status_code, session.get("models").status_code

    assert [handler(), handler()] == [(401, 200), (401, 200)]
    # One for each `requests.get`, and one in the pool.
    assert api.handshakes == 3
    assert not is_ours()


# ---- a `session` of one's own


def test_a_function_that_names_a_session_gets_the_pooled_one(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler(event: dict[str, str], session: requests.Session) -> int:
        return session.get(event["path"]).status_code

    @guarded
    def by_keyword(event: dict[str, str], *, session: requests.Session) -> int:
        return session.get(event["path"]).status_code

    assert handler({"path": "models"}) == 200
    assert by_keyword({"path": "/models"}) == 200
    assert api.handshakes == 1
    assert list(inspect.signature(handler).parameters) == ["event"]
    assert list(inspect.signature(by_keyword).parameters) == ["event"]


def test_a_session_that_the_caller_passes_is_used(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler(event: Any, session: Any = None) -> Any:
        return session

    mine = requests.Session()
    assert handler({}, mine) is mine
    assert handler({}, session=mine) is mine
    assert handler({}) is handler.resilience.session
    assert handler({}, None) is None


def test_a_session_given_to_the_decorator_is_handed_over(api: FaultyAPI) -> None:
    mine = requests.Session()

    @own_pool(api, session=mine)
    def handler(session: Any) -> Any:
        return session

    assert handler() is mine


def test_the_sessions_of_a_method_and_of_an_async_function(api: FaultyAPI, guarded: Any) -> None:
    class Service:
        @guarded
        def models(self, session: Any) -> int:
            return session.get("models").status_code

    @guarded
    async def models(session: Any) -> int:
        return (await asyncio.to_thread(session.get, "models")).status_code

    assert Service().models() == 200
    assert asyncio.run(models()) == 200
    assert api.handshakes == 1


@pytest.mark.parametrize(
    ("base", "url", "expected"),
    [
        ("", "echo", "/v1/echo"),
        ("", "/echo", "/v1/echo"),
        ("/", "echo?to=https://example.com/x", "/v1/echo"),
        ("", "//echo", "/v1/echo"),
    ],
)
def test_a_url_without_a_scheme_is_below_the_base_url(base: str, url: str, expected: str, api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url + base)
    @fresh_auth(provider=lambda: api.key)
    def handler(session: Any) -> Any:
        return session.get(url).json()["path"]

    assert handler() == expected


def test_a_whole_url_is_what_it_says(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler(session: Any) -> int:
        return session.get(api.url + "/health").status_code

    assert handler() == 200
    assert api.count("/health") == 1


def test_a_request_that_was_prepared_by_hand_may_be_relative_too(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler(session: Any) -> int:
        return session.send(session.prepare_request(requests.Request("GET", "models")), verify=api.ca_file).status_code

    assert handler() == 200


def test_the_pooled_session_works_outside_a_call_and_is_guarded_there(
    api: FaultyAPI, guarded: Any, fake_clock: FakeClock
) -> None:
    @guarded
    def handler(session: Any) -> Any:
        raise AssertionError

    api.script([Fault.rate_limited("retry-after", 1)])
    assert handler.resilience.session.get("models").status_code == 200
    assert (api.count(), api.count(status=429)) == (2, 1)
    with pytest.raises(resilience.ResilienceError):
        resilience.current()


def test_credentials_in_a_url_are_sent_by_the_pooled_session_as_requests_does(api: FaultyAPI) -> None:
    api.require_key = False

    @own_pool(api)
    def handler(session: Any) -> str:
        return session.get(api.base_url.replace("//", "//me:secret@") + "/echo").json()["headers"]["Authorization"]

    assert handler() == "Basic bWU6c2VjcmV0"


def test_closing_the_pooled_session_closes_nothing_of_others(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler(session: Any) -> int:
        with session:
            return session.get("models").status_code

    assert [handler(), handler()] == [200, 200]
    assert api.handshakes == 1


def test_the_adapter_of_the_pooled_session_takes_positional_options(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler(session: Any) -> Any:
        prepared = session.prepare_request(requests.Request("GET", api.base_url + "/models"))
        return session.get_adapter(prepared.url).send(prepared, True, 5.0, api.ca_file)

    response = handler()
    assert not response._content_consumed
    assert response.json()["object"] == "list"


# ---- mocks


def calls_models(api: FaultyAPI) -> Callable[[], Any]:
    def handler() -> Any:
        return requests.get(api.base_url + "/models").json()

    return handler


def test_responses_activated_before_the_first_call(api: FaultyAPI, guarded: Any) -> None:
    import responses

    handler = guarded(calls_models(api))
    with responses.RequestsMock() as mock:
        mock.get(api.base_url + "/models", json={"mocked": 1})
        assert handler() == {"mocked": 1}
    assert HTTPAdapter.send is STOCK_SEND
    assert handler()["object"] == "list"
    assert is_ours()


def test_responses_activated_after_a_call(api: FaultyAPI, guarded: Any) -> None:
    import responses

    handler = guarded(calls_models(api))
    assert handler()["object"] == "list"
    with responses.RequestsMock() as mock:
        mock.get(api.base_url + "/models", json={"mocked": 2})
        assert handler() == {"mocked": 2}
        assert mock.calls[0].request.headers["Authorization"] == f"Bearer {api.key}"
    assert is_ours()
    assert handler()["object"] == "list"
    assert api.count() == 2


def test_responses_as_a_decorator(api: FaultyAPI, guarded: Any) -> None:
    import responses

    handler = guarded(calls_models(api))

    @responses.activate
    def a_test_of_the_user_s() -> None:
        responses.get(api.base_url + "/models", status=503)
        responses.get(api.base_url + "/models", json={"mocked": 3})
        # What is mocked is guarded: the 503 was retried.
        with FakeClock():
            assert handler() == {"mocked": 3}
        responses.assert_call_count(api.base_url + "/models", 2)

    a_test_of_the_user_s()
    assert handler()["object"] == "list"
    a_test_of_the_user_s()
    assert api.count() == 1


def test_responses_activated_within_the_handler(api: FaultyAPI, guarded: Any) -> None:
    import responses

    @guarded
    def handler() -> Any:
        with responses.RequestsMock() as mock:
            mock.get(api.base_url + "/models", json={"mocked": 4})
            mocked = requests.get(api.base_url + "/models").json()
        return mocked, requests.get(api.base_url + "/models").json()["object"]

    assert handler() == ({"mocked": 4}, "list")
    assert handler() == ({"mocked": 4}, "list")


def test_responses_within_responses(api: FaultyAPI, guarded: Any) -> None:
    import responses

    handler = guarded(calls_models(api))
    url = api.base_url + "/models"
    with responses.RequestsMock() as outer:
        outer.get(url, json={"mock": "outer"})
        assert handler() == {"mock": "outer"}
        with responses.RequestsMock() as inner:
            inner.get(url, json={"mock": "inner"})
            assert handler() == {"mock": "inner"}
        assert handler() == {"mock": "outer"}
    assert handler()["object"] == "list"
    assert is_ours()
    outside(api)


def test_what_responses_lets_through_is_sent_once(api: FaultyAPI, guarded: Any) -> None:
    import responses

    handler = guarded(calls_models(api))
    handler()
    # As if `responses` were imported only now: what it passes requests on to is our choke point.
    with responses.RequestsMock(real_adapter_send=HTTPAdapter.send) as mock:
        mock.add_passthru(api.url)
        assert handler()["object"] == "list"
    assert api.count() == 2
    assert api.handshakes == 1


def test_what_responses_lets_through_is_sent_once_without_a_pool(api: FaultyAPI) -> None:
    import responses

    handler = fresh_auth(provider=lambda: api.key, hosts="localhost")(calls_models(api))
    handler()
    with responses.RequestsMock(real_adapter_send=HTTPAdapter.send) as mock:
        mock.add_passthru(api.url)
        assert handler()["object"] == "list"
    assert api.count() == 2


@pytest.mark.parametrize("error", [requests.ReadTimeout, requests.ConnectionError])
def test_a_mocked_failure_of_a_post_may_have_been_sent_and_is_not_repeated(
    error: type[Exception], guarded: Any, fake_clock: FakeClock
) -> None:
    import responses

    @guarded
    def handler() -> None:
        requests.post("https://api.test/x", json={})

    with responses.RequestsMock() as mock:
        mock.post("https://api.test/x", body=error("as a test has it"))
        with pytest.raises(error):
            handler()
        assert len(mock.calls) == 1


def test_requests_mock(api: FaultyAPI, guarded: Any) -> None:
    import requests_mock

    @guarded
    def handler(session: Any) -> Any:
        return requests.get(api.base_url + "/models").json(), session.get("models").json()

    for _ in range(2):
        with requests_mock.Mocker() as mock:
            mock.get(api.base_url + "/models", json={"mocked": 5})
            assert handler() == ({"mocked": 5}, {"mocked": 5})
            assert mock.call_count == 2
        assert [answer["object"] for answer in handler()] == ["list", "list"]
    assert api.count() == 4


def test_vcrpy_records_and_replays_a_decorated_call(api: FaultyAPI, guarded: Any, tmp_path: Any) -> None:
    import vcr

    handler = guarded(calls_models(api))
    for path, warm in (("first.yaml", False), ("second.yaml", True)):
        if warm:
            handler()
        before = api.count()
        for _ in range(2):
            with vcr.use_cassette(str(tmp_path / path), filter_headers=["authorization"]):
                assert handler()["object"] == "list"
        assert api.count() == before + 1
        assert api.key not in (tmp_path / path).read_text()
    assert handler()["object"] == "list"


def test_a_plain_mock_in_the_place_of_send_sees_each_attempt(guarded: Any, fake_clock: FakeClock) -> None:
    from unittest import mock

    @guarded
    def handler() -> int:
        return requests.get("https://localhost/x").status_code

    answers = []
    for status in (503, 200):
        answer = requests.Response()
        answer.status_code, answer._content = status, b"{}"
        answers.append(answer)
    with mock.patch("requests.adapters.HTTPAdapter.send", side_effect=answers) as send:
        assert handler() == 200
    assert send.call_count == 2
    assert HTTPAdapter.send is STOCK_SEND


# ---- tracers


class Tracer:
    """Wraps `HTTPAdapter.send` as OpenTelemetry and ddtrace wrap what they trace, by wrapt."""

    def __init__(self) -> None:
        self.spans: list[int | str] = []

    def instrument(self) -> None:
        import wrapt

        wrapt.wrap_function_wrapper("requests.adapters", "HTTPAdapter.send", self._traced)

    def _traced(self, wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        assert isinstance(instance, HTTPAdapter)
        assert isinstance(args[0], requests.PreparedRequest)
        try:
            response = wrapped(*args, **kwargs)
        except BaseException as error:
            self.spans.append(type(error).__name__)
            raise
        self.spans.append(response.status_code)
        return response


@pytest.mark.parametrize("pool", [True, False], ids=["pooled", "auth only"])
@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
def test_a_tracer_sees_each_attempt_once(
    first: bool, pool: bool, api: FaultyAPI, guarded: Any, fake_clock: FakeClock
) -> None:
    tracer = Tracer()
    only_auth = fresh_auth(provider=lambda: api.key, hosts="localhost")
    handler = (guarded if pool else only_auth)(calls_models(api))
    if first:
        tracer.instrument()
    handler()
    if not first:
        tracer.instrument()
        handler()
    assert tracer.spans == [200]
    if pool:
        api.script([Fault.status(503)])
        assert handler()["object"] == "list"
        assert tracer.spans == [200, 503, 200]
        assert handler.resilience.session.get("models").ok
        assert tracer.spans == [200, 503, 200, 200]
        tracer.spans.clear()
    outside_spans = len(tracer.spans)
    requests.get(api.url + "/health")
    assert len(tracer.spans) == outside_spans + 1


def test_a_tracer_that_was_put_in_twice_is_not_laid_over_again_at_each_call(api: FaultyAPI, guarded: Any) -> None:
    tracer = Tracer()
    handler = guarded(calls_models(api))
    handler()
    tracer.instrument()
    handler()
    settled = HTTPAdapter.__dict__["send"]
    for _ in range(20):
        handler()
    assert HTTPAdapter.__dict__["send"] is settled


@pytest.mark.parametrize("put_back", ["the stock one", "ours"])
def test_who_puts_back_what_stood_there_finds_ours_in_again_at_the_next_call(
    put_back: str, api: FaultyAPI, guarded: Any
) -> None:
    handler = guarded(calls_models(api))
    if put_back == "ours":
        handler()
    before = HTTPAdapter.send
    HTTPAdapter.send = lambda self, *a, **k: before(self, *a, **k)  # type: ignore[method-assign]
    handler()
    HTTPAdapter.send = before  # type: ignore[method-assign]
    assert handler()["object"] == "list"
    assert is_ours()
    assert api.handshakes == 1
    outside(api)


def test_looking_for_the_choke_point_takes_no_lock_once_it_is_there(
    api: FaultyAPI, guarded: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = guarded(calls_models(api))
    Tracer().instrument()
    handler()
    Tracer().instrument()
    handler()

    def fail() -> None:
        raise AssertionError("laid over again")

    monkeypatch.setattr(transparent, "_install", fail)
    handler()


# ---- threads


def test_workers_of_an_executor_are_bound_to_the_call(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    def handler() -> list[int]:
        def fetch(n: int) -> int:
            return requests.get(api.base_url + "/models").status_code

        with ThreadPoolExecutor(4) as pool:
            return [*pool.map(resilience.bind(fetch), range(8)), *pool.map(fetch, range(1))]

    assert handler() == [200] * 8 + [401]


def test_to_thread_carries_the_call_by_itself(api: FaultyAPI, guarded: Any) -> None:
    @guarded
    async def handler() -> list[int]:
        answers = await asyncio.gather(*(asyncio.to_thread(requests.get, api.base_url + "/models") for _ in range(4)))
        return [answer.status_code for answer in answers]

    assert asyncio.run(handler()) == [200] * 4


def test_many_threads_may_make_the_first_call_at_once(api: FaultyAPI) -> None:
    for _ in range(5):
        HTTPAdapter.send = STOCK_SEND  # type: ignore[method-assign]
        asked = []

        @own_pool(api)
        @circuit_breaker
        @retry_ratelimit
        @fresh_auth(provider=lambda asked=asked: asked.append(1) or api.key, hosts="localhost")
        def handler(session: Any) -> int:
            return requests.get(api.base_url + "/models").status_code + session.get("models").status_code

        barrier = threading.Barrier(16)

        def call(handler: Any = handler, barrier: Any = barrier) -> int:
            barrier.wait(10)
            return handler()

        with ThreadPoolExecutor(16) as pool:
            assert [f.result() for f in [pool.submit(call) for _ in range(16)]] == [400] * 16
        assert len(asked) == 1


# ---- calls within calls


def foreign(fn: Any) -> Any:
    """Somebody else's decorator."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


def test_a_request_of_a_nested_call_is_guarded_once(api: FaultyAPI, guarded: Any, fake_clock: FakeClock) -> None:
    runs: list[str] = []

    @guarded
    def inner() -> int:
        runs.append("inner")
        response = requests.get(api.base_url + "/models")
        response.raise_for_status()
        return response.status_code

    @guarded
    def outer() -> int:
        runs.append("outer")
        return inner()

    api.script([Fault.status(503)] * 20)
    with pytest.raises(requests.HTTPError):
        outer()
    assert (api.count(), runs) == (3, ["outer", "inner"])


def test_a_helper_that_only_retries_leaves_it_to_the_pool_of_the_call_around(
    api: FaultyAPI, guarded: Any, fake_clock: FakeClock
) -> None:
    runs: list[str] = []

    @retry_ratelimit(attempts=5)
    def helper() -> Any:
        runs.append("helper")
        response = requests.get(api.base_url + "/models")
        response.raise_for_status()
        return response.json()

    handler = guarded(lambda: helper()["object"])
    api.script([Fault.status(503)] * 2)
    assert handler() == "list"
    assert (api.count(), runs) == (3, ["helper"])
    api.script([Fault.status(503)] * 20)
    with pytest.raises(requests.HTTPError):
        handler()
    assert (api.count(), len(runs)) == (6, 2)


DECORATORS = ("pooled", "retry_ratelimit", "fresh_auth")


@pytest.mark.parametrize("outside_of_it", [s for n in (1, 2) for s in itertools.combinations(DECORATORS, n)])
def test_a_foreign_decorator_in_between_changes_nothing(
    outside_of_it: tuple[str, ...], api: FaultyAPI, fake_clock: FakeClock
) -> None:
    made: dict[str, Any] = {
        "pooled": own_pool(api),
        "retry_ratelimit": retry_ratelimit(attempts=3),
        "fresh_auth": fresh_auth(provider=lambda: api.key, hosts="localhost"),
    }

    def handler() -> Any:
        response = requests.get(api.base_url + "/models")
        response.raise_for_status()
        return response.json()

    fn: Any = handler
    for name in DECORATORS:
        if name not in outside_of_it:
            fn = made[name](fn)
    fn = foreign(fn)
    for name in outside_of_it:
        fn = made[name](fn)
    api.script([Fault.status(503)])
    assert fn()["object"] == "list"
    assert fn()["object"] == "list"
    assert (api.count(), api.handshakes, set(api.by_key)) == (3, 1, {api.key})
    api.script([Fault.status(503)] * 20)
    with pytest.raises(requests.HTTPError):
        fn()
    assert api.count() == 6


def test_a_retry_of_calls_sees_what_no_guard_of_requests_has_seen(api: FaultyAPI, fake_clock: FakeClock) -> None:
    api.require_key = False

    @own_pool(api)
    @retry_ratelimit(attempts=3, scope="call")
    def handler() -> int:
        return requests.get(api.base_url + "/models").status_code

    @own_pool(api)
    @retry_ratelimit(attempts=3, scope="call")
    def raising() -> None:
        requests.get(api.base_url + "/models").raise_for_status()

    api.script([Fault.reset_after_reading()])
    with pytest.raises(requests.ConnectionError):
        # A call is no GET: nobody said that it may be run twice.
        handler()
    api.script([Fault.status(503)])
    raising()
    assert api.count() == 3
