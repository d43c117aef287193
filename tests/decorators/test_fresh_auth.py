"""`@fresh_auth`: the credential of now, for its own hosts alone, shown to nobody."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import pickle
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

import resilience
from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit
from resilience.testing import FakeClock, Fault, FaultyAPI, LambdaContext

PACKAGE = os.path.dirname(resilience.__file__) + os.sep
QUESTION = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def api(faulty_api: FaultyAPI) -> FaultyAPI:
    return faulty_api


@pytest.fixture
def other(api: FaultyAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyAPI]:
    """Another host: 127.0.0.1 rather than localhost. It wants no key, and is trusted like the first."""
    with FaultyAPI(seed=1, require_key=False) as other:
        bundle = tmp_path / "both.pem"
        bundle.write_text(Path(api.ca_file).read_text() + Path(other.ca_file).read_text())
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
        yield other


def at(api: FaultyAPI, path: str) -> str:
    """`path` of `api` under its number."""
    return api.base_url.replace("localhost", "127.0.0.1") + path


def models(api: FaultyAPI) -> Callable[[], int]:
    def handler() -> int:
        return requests.get(api.base_url + "/models").status_code

    return handler


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


def at_once(count: int, fn: Callable[[], Any]) -> list[Any]:
    """What `count` threads got from `fn`: its answer, or its exception."""
    barrier = threading.Barrier(count)

    def run() -> Any:
        barrier.wait(20)
        try:
            return fn()
        except Exception as error:
            return error

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run) for _ in range(count)]]


# ---- rotation


@pytest.mark.parametrize("source", ["provider", "env"])
def test_a_rotated_key_fails_no_call(source: str, api: FaultyAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", api.key)
    from_where: dict[str, Any] = {"env": "API_KEY"} if source == "env" else {"provider": lambda: api.key}
    handler = pooled(base_url=api.base_url)(fresh_auth(**from_where)(models(api)))
    turn = threading.Barrier(9)

    def call_and_call() -> list[int]:
        answers = []
        for _ in range(4):
            turn.wait(20)
            answers += [handler(), handler()]
        return answers

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(call_and_call) for _ in range(8)]
        for _ in range(4):
            # Nobody is in a request now: who reads a variable finds the new key or the old one, as it stood.
            until(lambda: turn.n_waiting == 8)
            monkeypatch.setenv("API_KEY", api.rotate())
            turn.wait(20)
        assert [answer for future in futures for answer in future.result()] == [200] * 64
    assert api.count(status=200) == 64


def test_a_variable_that_has_not_changed_is_not_sent_again_and_a_provider_is_asked_again(
    api: FaultyAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "stale")
    assert fresh_auth(env="API_KEY", hosts="localhost")(models(api))() == 401
    assert api.count() == 1
    keys = [api.key, "stale"]
    assert fresh_auth(provider=keys.pop, hosts="localhost")(models(api))() == 200
    assert api.count() == 3


def test_a_variable_that_changes_while_the_request_is_under_way_is_sent_again(
    api: FaultyAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "stale")

    @fresh_auth(env="API_KEY", hosts="localhost")
    def handler() -> int:
        with requests.Session() as session:
            session.hooks["response"].append(lambda r, **_: answers.append(r.status_code))
            return session.get(api.base_url + "/models").status_code

    def rotate() -> None:
        until(lambda: api.count() == 1)
        monkeypatch.setenv("API_KEY", api.key)
        api.recover()

    answers: list[int] = []
    api.outage("hang")
    rotation = threading.Thread(target=rotate)
    rotation.start()
    assert handler() == 200
    rotation.join()
    # The handler's own hooks see one answer.
    assert answers == [200]


@pytest.mark.parametrize("fails", [False, True], ids=["it answers", "it fails"])
def test_32_threads_wait_for_one_call_of_the_provider(fails: bool, api: FaultyAPI) -> None:
    asked = []

    def key() -> str:
        asked.append(1)
        until(lambda: source._flight is not None and source._flight.joined == 31)
        if fails:
            raise OSError("the vault is down")
        return api.key

    handler = pooled(base_url=api.base_url)(fresh_auth(provider=key)(models(api)))
    source: Any = handler.resilience.policy("fresh_auth").source
    answers = at_once(32, handler)
    assert len(asked) == 1
    if not fails:
        assert answers == [200] * 32
        return
    assert {type(answer).__mro__[1:3] for answer in answers} == {
        (resilience.CredentialUnavailable, resilience.ResilienceError)
    }
    assert all(isinstance(answer.__cause__, OSError) for answer in answers)
    assert len({id(answer) for answer in answers}) == 32
    assert api.count() == 0


@pytest.mark.parametrize("fails", [False, True], ids=["it answers", "it fails"])
def test_32_threads_whose_key_was_refused_cause_one_refresh(fails: bool, api: FaultyAPI) -> None:
    asked = []

    def key() -> str:
        asked.append(1)
        if len(asked) > 1:
            # Some were refused; the others found that out before they had asked.
            until(lambda: source._flight is not None and source._flight.joined == 31)
            if fails:
                raise OSError("the vault is down")
        return api.key

    handler = pooled(base_url=api.base_url, maxsize=32)(fresh_auth(provider=key)(models(api)))
    source: Any = handler.resilience.policy("fresh_auth").source
    assert handler() == 200
    api.rotate()
    answers = at_once(32, handler)
    assert len(asked) == 2
    if fails:
        assert all(isinstance(answer, resilience.CredentialUnavailable) for answer in answers)
        assert all(isinstance(answer.__cause__, OSError) for answer in answers)
    else:
        assert answers == [200] * 32
    assert api.count(status=401) <= 32
    assert api.count(status=200) == (1 if fails else 33)


def test_a_key_that_stays_refused_is_sent_once_more_and_no_more(api: FaultyAPI, fake_clock: FakeClock) -> None:
    asked = []
    decorate = [
        pooled(base_url=api.base_url), retry_ratelimit, circuit_breaker(fail_max=1),
        fresh_auth(provider=lambda: asked.append(1) or "wrong"),
    ]  # fmt: skip
    handler: Any = models(api)
    for each in reversed(decorate):
        handler = each(handler)
    assert [handler(), handler()] == [401, 401]
    assert handler.resilience.breaker.state == "closed"
    assert (api.count(), len(asked)) == (4, 3)


def test_the_statuses_that_mean_a_refused_key_are_a_setting(api: FaultyAPI) -> None:
    keys = ["fresh", "stale"]
    handler = fresh_auth(provider=lambda: keys.pop(), hosts="localhost", refresh_on=(403,))(models(api))
    api.require_key = False
    api.script([Fault.status(403)])
    assert handler() == 200
    assert [record.key for record in api.requests] == ["stale", "fresh"]


def test_without_pooled_it_works_too(api: FaultyAPI, fake_clock: FakeClock) -> None:
    runs: list[int] = []

    @retry_ratelimit
    @fresh_auth(provider=lambda: api.key, hosts="localhost")
    def handler() -> str:
        runs.append(1)
        response = requests.get(api.base_url + "/models")
        response.raise_for_status()
        assert type(response.connection) is requests.adapters.HTTPAdapter
        return response.json()["object"]

    assert handler() == "list"
    api.rotate()
    assert handler() == "list"
    assert (api.count(status=200), api.count(status=401), len(runs)) == (2, 1, 2)
    # Nothing is guarded but the call: it is run again.
    api.script([Fault.status(503)])
    assert handler() == "list"
    assert len(runs) == 4


# ---- where it goes


def both(api: FaultyAPI, other: FaultyAPI, **settings: Any) -> Any:
    return fresh_auth(provider=lambda: api.key, hosts=["localhost", "127.0.0.1"], **settings)


def redirect(api: FaultyAPI, target: str, code: int = 302) -> Fault:
    return Fault.status(code, {"Location": target}, b"")


TARGETS = {
    "plain": lambda other: at(other, "/models"),
    "with a fragment": lambda other: at(other, "/models#part"),
    "without a scheme": lambda other: at(other, "/models").removeprefix("https:"),
    "in capitals": lambda other: at(other, "/models").replace("https", "HTTPS"),
    "with an empty query": lambda other: at(other, "/models?"),
    "to be quoted": lambda other: at(other, "/echo?a=b c|é"),
    "with dots": lambda other: at(other, "/x/../models"),
    "with another's name": lambda other: at(other, "/models").replace("//", "//localhost@"),
}


@pytest.mark.parametrize("allowed", [["localhost"], ["localhost", "127.0.0.1"]], ids=["no host of its", "one of its"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize("pool", [True, False], ids=["pooled", "auth only"])
def test_it_is_not_taken_along_by_a_redirect_to_another_host(
    pool: bool, target: Callable[[FaultyAPI], str], allowed: list[str], api: FaultyAPI, other: FaultyAPI
) -> None:
    handler: Any = fresh_auth(provider=lambda: api.key, hosts=allowed)(lambda: requests.get(api.base_url + "/models"))
    if pool:
        handler = pooled(handler)
    location = target(other).encode().decode("latin1")
    api.script([redirect(api, location), redirect(api, location, 307)])
    for _ in range(2):
        assert handler().status_code in (200, 404)
    assert [record.key for record in api.requests] == [api.key] * 2
    assert other.count() == 2
    assert [record.headers.get("Authorization") for record in other.requests] == [None, None]


def test_a_session_outside_a_call_does_not_take_it_along_either(api: FaultyAPI, other: FaultyAPI) -> None:
    handler = pooled(both(api, other)(lambda: None))
    api.script([redirect(api, at(other, "/models"))])
    assert handler.resilience.session.get(api.base_url + "/models").status_code == 200
    assert (api.requests[0].key, other.requests[0].key) == (api.key, None)


def test_from_the_other_host_on_it_is_sent_to_none(api: FaultyAPI, other: FaultyAPI) -> None:
    handler = pooled(both(api, other)(lambda: requests.get(api.base_url + "/models")))
    api.script([redirect(api, at(other, "/models")), None])
    other.script([redirect(other, at(other, "/echo")), redirect(other, api.base_url + "/models?back=1")])
    # To the first host again: not even there, as what the other wants asked of it is not what the handler wanted.
    assert handler().status_code == 401
    assert [record.key for record in (*api.requests, *other.requests)] == [api.key, None, None, None]


def test_a_redirect_within_its_host_keeps_it(api: FaultyAPI) -> None:
    handler = pooled(base_url=api.base_url)(
        fresh_auth(provider=lambda: api.key)(
            lambda: requests.get(api.base_url + "/redirect", params={"to": "/v1/redirect?to=/v1/models#x"})
        )
    )
    assert handler().status_code == 200
    assert [record.key for record in api.requests] == [api.key] * 3


def test_it_goes_to_each_of_its_hosts_if_the_handler_asks_for_it(api: FaultyAPI, other: FaultyAPI) -> None:
    handler = pooled(both(api, other)(lambda: [requests.get(url).status_code for url in urls]))
    urls = [api.base_url + "/models", at(other, "/models")]
    assert handler() == [200, 200]
    assert [record.key for record in (*api.requests, *other.requests)] == [api.key] * 2


def test_it_goes_to_no_host_outside_of_its_own(api: FaultyAPI, other: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @fresh_auth(provider=lambda: api.key, idempotency_key=True)
    def handler() -> int:
        headers = {"Authorization": "Bearer of the handler's own"}
        return requests.post(at(other, "/chat/completions"), json=QUESTION, headers=headers).status_code

    assert handler() == 200
    assert other.requests[0].key == "of the handler's own"


@pytest.mark.parametrize("insecure", [False, True])
def test_it_goes_over_plain_http_only_to_loopback_or_where_that_is_allowed(
    insecure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def look_up(host: str, *args: Any, **settings: Any) -> Any:
        if host == "api.test" and settings.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no number")
        return real("127.0.0.1" if host == "api.test" else host, *args, **settings)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with FaultyAPI(tls=False, require_key=False) as plain:

        @pooled
        @fresh_auth(provider=lambda: "the key", hosts=["api.test", "localhost"], insecure=insecure)
        def handler() -> list[int]:
            return [
                requests.get(f"http://{host}:{plain.port}/health").status_code for host in ("api.test", "localhost")
            ]

        assert handler() == [200, 200]
        assert [record.key for record in plain.requests] == ["the key" if insecure else None, "the key"]


def test_its_hosts_are_by_default_that_of_the_base_url(api: FaultyAPI, other: FaultyAPI) -> None:
    @fresh_auth(provider=lambda: api.key)
    @pooled(base_url=api.base_url)
    def handler() -> list[int]:
        return [requests.get(url).status_code for url in (api.base_url + "/models", at(other, "/models"))]

    assert handler() == [200, 200]
    assert other.requests[0].key is None


def test_without_hosts_the_first_call_says_so(api: FaultyAPI) -> None:
    handler = pooled(fresh_auth(env="API_KEY")(models(api)))
    for _ in range(2):
        with pytest.raises(resilience.ConfigurationError, match=r"hosts=None.*hosts=\"api.example.com\".*base_url"):
            handler()
    assert api.count() == 0


# ---- what else may want to set the header


NETRC = "machine localhost login netrc password of-the-netrc\ndefault login netrc password of-the-netrc\n"


@pytest.mark.parametrize("where", ["NETRC", "HOME"])
@pytest.mark.parametrize("pool", [True, False], ids=["pooled", "auth only"])
def test_netrc_and_the_environment_do_not_change_it(
    pool: bool, where: str, api: FaultyAPI, other: FaultyAPI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NETRC", raising=False)
    (tmp_path / ".netrc").write_text(NETRC)
    monkeypatch.setenv(where, str(tmp_path / (".netrc" if where == "NETRC" else "")))
    for name in ("AUTHORIZATION", "HTTP_AUTHORIZATION", "BEARER", "TOKEN", "API_KEY"):
        monkeypatch.setenv(name, "of-the-environment")

    def handler(session: Any = None) -> list[int]:
        asked = [requests.get(api.base_url + "/models"), requests.Session().get(api.base_url + "/models")]
        asked.append(requests.get(api.base_url + "/redirect", params={"to": "/v1/models"}))
        asked += [session.get("models")] if session else []
        return [response.status_code for response in asked]

    decorated: Any = fresh_auth(provider=lambda: api.key, hosts="localhost")(handler)
    if pool:
        decorated = pooled(base_url=api.base_url)(decorated)
    assert set(decorated()) == {200}
    assert set(api.by_key) == {api.key}


STALE = {
    "headers": {"headers": {"authorization": "Bearer stale"}},
    "bytes": {"headers": {b"Authorization": b"Bearer stale"}},
    "auth": {"auth": ("me", "stale")},
}


@pytest.mark.parametrize("baked", STALE.values(), ids=STALE.keys())
def test_a_header_that_the_handler_baked_in_loses(baked: dict[str, Any], api: FaultyAPI) -> None:
    @pooled(base_url=api.base_url)
    @fresh_auth(provider=lambda: api.key)
    def handler(session: Any) -> list[int]:
        own = requests.Session()
        own.headers["Authorization"] = "Bearer stale"
        asked = [requests.get(api.base_url + "/models", **baked), session.get("models", **baked)]
        asked.append(own.get(api.base_url + "/models"))
        return [response.status_code for response in asked]

    assert handler() == [200] * 3
    for record in api.requests:
        assert [name.lower() for name in record.headers].count("authorization") == 1


def test_header_and_scheme_are_settings(api: FaultyAPI) -> None:
    api.require_key = False

    @fresh_auth(provider=lambda: "the key", hosts="localhost", header="api-key", scheme=None)
    def handler() -> Any:
        return requests.get(api.base_url + "/echo", headers={"Api-Key": "stale", "Authorization": "mine"}).json()

    sent = {name.lower(): value for name, value in handler()["headers"].items()}
    assert (sent["api-key"], sent["authorization"]) == ("the key", "mine")


# ---- request ids and idempotency keys


def test_the_request_id_of_the_invocation_is_sent_to_its_hosts(
    api: FaultyAPI, other: FaultyAPI, fake_clock: FakeClock
) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit
    @fresh_auth(provider=lambda: api.key)
    def handler(event: Any, context: Any) -> None:
        requests.get(api.base_url + "/models")
        requests.get(at(other, "/models"))
        requests.get(api.base_url + "/models", headers={"x-request-id": "the handler's"})

    api.script([Fault.status(503)])
    context = LambdaContext(remaining=60)
    handler({}, context)
    mine = context.aws_request_id
    assert [record.request_id for record in api.requests] == [mine, mine, "the handler's"]
    assert other.requests[0].request_id is None


@pytest.mark.parametrize("name", ["X-Correlation-Id", None])
def test_the_header_of_the_request_id_is_a_setting(name: str | None, api: FaultyAPI) -> None:
    @fresh_auth(provider=lambda: api.key, hosts="localhost", request_id_header=name)
    def handler(event: Any, context: Any) -> dict[str, str]:
        return requests.get(api.base_url + "/echo").json()["headers"]

    context = LambdaContext()
    headers = handler({}, context)
    assert "X-Request-ID" not in headers
    assert (context.aws_request_id in headers.values()) is (name is not None)
    assert headers.get(name or "", context.aws_request_id) == context.aws_request_id


def test_an_idempotency_key_is_the_same_for_all_attempts_of_one_post(api: FaultyAPI, fake_clock: FakeClock) -> None:
    @pooled(base_url=api.base_url)
    @retry_ratelimit
    @fresh_auth(provider=lambda: keys.pop(), idempotency_key=True)
    def handler(**headers: str) -> int:
        requests.get(api.base_url + "/models")
        return requests.post(api.base_url + "/chat/completions", json=QUESTION, headers=headers).status_code

    keys = [api.key, "stale"]
    api.script([None, None, Fault.status(503), Fault.reset_after_reading(), None])
    assert handler() == 200
    assert handler() == 200
    assert handler(**{"Idempotency-Key": "mine"}) == 200
    assert {record.idempotency_key for record in api.requests if record.method == "GET"} == {None}
    sent = [record.idempotency_key for record in api.requests if record.method == "POST"]
    assert len(sent) == 5
    assert sent[0] == sent[1] == sent[2] != sent[3]
    assert sent[0] is not None
    assert sent[4] == "mine"
    assert (api.processed, api.replays) == (3, 1)


# ---- no credential


def test_a_missing_variable_is_an_error_that_a_handler_of_requests_knows(
    api: FaultyAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("API_KEY", raising=False)
    handler = pooled(base_url=api.base_url)(retry_ratelimit(fresh_auth(env="API_KEY")(models(api))))
    with pytest.raises(resilience.CredentialUnavailable, match="API_KEY is not set") as caught:
        handler()
    assert isinstance(caught.value, requests.RequestException)
    assert caught.value.request.url == api.base_url + "/models"
    assert api.count() == 0
    monkeypatch.setenv("API_KEY", api.key)
    assert handler() == 200


@pytest.mark.parametrize("value", ["", "two\nlines", " space"])
def test_a_variable_that_no_header_can_hold_is_refused(
    value: str, api: FaultyAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", value)
    with pytest.raises(resilience.CredentialUnavailable, match="API_KEY"):
        fresh_auth(env="API_KEY", hosts="localhost")(models(api))()
    assert api.count() == 0


# ---- other clients


def test_another_client_s_401_is_asked_once_more_with_a_new_key(api: FaultyAPI) -> None:
    import httpx

    runs: list[int] = []

    @fresh_auth(provider=lambda: api.key, hosts="localhost")
    def handler() -> str:
        runs.append(1)
        url = api.base_url + "/models"
        headers = resilience.current().auth_headers(url)
        assert api.key not in repr(headers)
        return httpx.get(url, headers=headers).raise_for_status().json()["object"]

    assert [handler(), handler()] == ["list", "list"]
    api.rotate()
    assert handler() == "list"
    assert (len(runs), api.count(status=401)) == (4, 1)


def test_another_async_client_s_401_is_asked_once_more_with_a_new_key(api: FaultyAPI) -> None:
    import httpx

    runs: list[int] = []

    @fresh_auth(provider=lambda: api.key, hosts="localhost")
    async def handler() -> dict[str, int]:
        runs.append(1)
        url = api.base_url + "/models"
        async with httpx.AsyncClient() as client:
            response = await client.get(url, headers=resilience.current().auth_headers(url))
        return {"statusCode": response.status_code}

    async def all_of_it() -> None:
        assert await handler() == {"statusCode": 200}
        api.rotate()
        # A 401 that is returned counts like one that is raised.
        assert await handler() == {"statusCode": 200}

    asyncio.run(all_of_it())
    assert (len(runs), api.count(status=401)) == (3, 1)


def test_another_client_s_401_that_stays_is_raised_after_two_runs(api: FaultyAPI) -> None:
    import httpx

    runs: list[int] = []

    @retry_ratelimit
    @fresh_auth(provider=lambda: "wrong", hosts="localhost")
    def handler() -> None:
        runs.append(1)
        url = api.base_url + "/models"
        httpx.get(url, headers=resilience.current().auth_headers(url)).raise_for_status()

    with pytest.raises(httpx.HTTPStatusError):
        handler()
    assert len(runs) == 2


def test_another_client_gets_no_credential_for_another_host(api: FaultyAPI) -> None:
    @fresh_auth(provider=lambda: api.key, hosts="localhost")
    def handler() -> list[dict[str, str]]:
        call = resilience.current()
        return [call.auth_headers(url) for url in ("https://example.com/", "https://127.0.0.1/", "ftp://localhost/")]

    assert handler() == [{}, {}, {}]


# ---- who may see it


def pickled(error: BaseException) -> str:
    try:
        return repr(pickle.dumps(error))
    except (pickle.PicklingError, TypeError) as why:
        return str(why)


def shown_by(error: BaseException) -> str:
    """All that our part of an exception says: its text, its notes, its arguments, and our frames with their locals."""
    told: list[str] = []
    todo: list[Any] = [traceback.TracebackException.from_exception(error, capture_locals=True)]
    while todo:
        one = todo.pop()
        if one is not None:
            frames = [frame for frame in one.stack if frame.filename.startswith(PACKAGE)]
            told += [*one.format_exception_only(), *traceback.StackSummary.from_list(frames).format()]
            todo += [one.__cause__, one.__context__]
    chain: BaseException | None = error
    while chain is not None:
        told += [repr(chain), repr(chain.args), repr(vars(chain))]
        for name in ("request", "response"):
            of_it = getattr(chain, name, None)
            told.append(repr(of_it and vars(of_it)))
            told.append(repr(getattr(getattr(of_it, "request", None), "headers", None)))
        chain = chain.__cause__ or chain.__context__
    return "\n".join(told)


@pytest.fixture
def overheard(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """All that is logged, by anybody and at any level, and all events."""
    heard: list[Any] = []
    stop = resilience.listen(heard.append)
    loggers = [logging.getLogger(name) for name in ("resilience", "urllib3", "requests", "http", "asyncio")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
    caplog.set_level(1)
    yield lambda: "\n".join([caplog.text, *(repr(vars(record)) for record in caplog.records), *map(repr, heard)])
    stop()
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


FAULTS = {
    "rotated": [],
    "busy, then reset": [Fault.rate_limited("retry-after-ms", 0.01), *[Fault.reset_after_reading()] * 3],
    "reset before reading": [Fault.reset_before_reading()] * 4,
    "eof": [Fault.eof_after_reading()] * 4,
    "truncated": [Fault.truncated_body()] * 4,
    "down": [Fault.status(503)] * 4,
    "hanging": [Fault.hang()] * 4,
    "dripping": [Fault.drip(0.01, total=1.0)] * 4,
    "dripping headers": [Fault.drip_headers(0.01, total=1.0)] * 4,
    "no TLS": [Fault.tls_failure()] * 8,
    "refused": [Fault.status(401)] * 4,
}


@pytest.mark.slow
@pytest.mark.parametrize("pool", [True, False], ids=["pooled", "auth only"])
@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_nobody_sees_it(
    faults: list[Fault], pool: bool, api: FaultyAPI, overheard: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", api.key)
    decorate = [
        retry_ratelimit(attempts=3, base=0.01, deadline=0.5), circuit_breaker(fail_max=3),
        fresh_auth(env="API_KEY", hosts="localhost"),
    ]  # fmt: skip

    def handler(size: int = 0) -> Any:
        call = resilience.current()
        seen.append(repr(call) + repr({k: v for k, v in vars(call).items() if k != "kwargs"}))
        response = requests.post(api.base_url + "/chat/completions", json={**QUESTION, "pad": "x" * size}, timeout=0.3)
        seen.append(repr(response.request.headers) + repr([r.request.headers for r in response.history]))
        response.raise_for_status()

    seen: list[str] = []
    fn: Any = handler
    for each in reversed([pooled(base_url=api.base_url), *decorate] if pool else decorate):
        fn = each(fn)
    secrets = [api.key]
    handler_ok = fn()
    assert handler_ok is None
    secrets.append(api.rotate())
    monkeypatch.setenv("API_KEY", api.key)
    api.script(faults)
    for size in (0, 3_000_000):
        try:
            fn(size)
        except Exception as error:
            seen.append(shown_by(error))
            seen.append(pickled(error))
    api.script([])
    seen += [repr(fn.resilience), repr(fn.resilience.policies), repr([vars(p) for p in fn.resilience.policies])]
    seen += [repr(fn.resilience.path), repr(vars(fn.resilience.path)), overheard()]
    assert [key for key in secrets if any(key in text for text in seen)] == []
    assert "POST /v1/chat/completions" in seen[-1]


def test_nobody_sees_it_where_sending_fails(api: FaultyAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    # The connection ends while the head of the request is being written.
    handler = pooled(base_url=api.base_url)(fresh_auth(provider=lambda: api.key)(models(api)))
    assert handler() == 200

    def fail(self: Any, *args: Any, **settings: Any) -> None:
        raise TimeoutError("the write operation timed out")

    with monkeypatch.context() as patch:
        patch.setattr(ssl.SSLSocket, "sendall", fail)
        with pytest.raises(requests.ConnectionError) as caught:
            handler()
    assert "sendall" in shown_by(caught.value)
    assert api.key not in shown_by(caught.value)


def test_nobody_sees_it_where_the_provider_fails(api: FaultyAPI, overheard: Callable[[], str]) -> None:
    secret = api.key

    def key() -> str:
        raise ValueError(f"the vault said: {secret}\n is no JSON")

    handler = pooled(base_url=api.base_url)(fresh_auth(provider=key)(models(api)))
    with pytest.raises(resilience.CredentialUnavailable) as caught:
        handler()
    # What the provider's own exception says is its own; it is the cause, and we repeat none of it.
    assert secret not in str(caught.value)
    assert secret not in overheard()


def test_its_errors_can_be_pickled(api: FaultyAPI, monkeypatch: pytest.MonkeyPatch, fake_clock: FakeClock) -> None:
    monkeypatch.delenv("API_KEY", raising=False)

    def late() -> None:
        fake_clock.advance(9.0)
        requests.get(api.base_url + "/models")

    failing = [
        pooled(base_url=api.base_url)(fresh_auth(env="API_KEY")(models(api))),
        pooled(base_url=api.base_url)(retry_ratelimit(deadline=5.0)(late)),
    ]
    for fn, kind in zip(failing, (resilience.CredentialUnavailable, resilience.DeadlineExceeded), strict=True):
        with pytest.raises(kind) as caught:
            fn()
        again = pickle.loads(pickle.dumps(caught.value))
        assert isinstance(again, kind)
        assert str(again) == str(caught.value)


def test_it_is_kept_in_no_object_of_the_handler_s(api: FaultyAPI) -> None:
    """Once the call is over, only the source holds it: no session, response, pool or copy of a request."""
    kept: list[Any] = []

    @pooled(base_url=api.base_url)
    @fresh_auth(provider=lambda: api.key)
    def handler(session: Any) -> None:
        kept.extend([session, requests.Session(), session.get("models"), requests.get(api.base_url + "/models")])

    handler()
    gc.collect()
    for each in kept:
        assert api.key not in json.dumps(vars(each), default=lambda value: repr(value))
    holders = [o for o in gc.get_objects() if isinstance(o, requests.structures.CaseInsensitiveDict)]
    assert not [h for h in holders if f"Bearer {api.key}" in list(h.values())]
