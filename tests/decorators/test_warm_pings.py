"""What is a ping, and what is a real call."""

from __future__ import annotations

import hmac
import json
from types import SimpleNamespace
from typing import Any

import pytest

from resilience import ConfigurationError, retry_ratelimit, warm
from resilience.testing import LambdaContext

SCHEDULED = {
    "version": "0",
    "id": "89d1a02d-5ec7-412e-82f5-13505f849b41",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "region": "us-east-1",
    "resources": ["arn:aws:events:us-east-1:123456789012:rule/every-five-minutes"],
    "detail": {},
}
PLUGIN = {"source": "serverless-plugin-warmup"}
ODD_EVENTS: list[Any] = [
    None,
    [],
    [1, {"warmup": True}],
    "",
    "warmup",
    0,
    -1.5,
    True,
    {},
    {"warmup": False},
    {"warmup": "true"},
    {"warmup": 1},
    {"warmer": None, "concurrency": 3},
    {"source": ["serverless-plugin-warmup"]},
    {"source": {"aws": "events"}, "detail-type": []},
    {"source": None},
    {"requestContext": "text", "headers": "text", "rawPath": 7},
    {"requestContext": {"http": []}, "headers": {"authorization": None}, "path": "/warm", "httpMethod": "GET"},
    {"httpMethod": "GET", "path": "/warm", "headers": {"Authorization": "\ud800"}},
    {"httpMethod": "GET", "path": "/warm", "headers": ["Authorization"]},
    {"httpMethod": "GET", "path": "/warm"},
]


def handler_with(**settings: Any) -> Any:
    @warm(**settings)
    def handler(event: Any = None, context: Any = None) -> Any:
        return "handled", event

    return handler


def is_ping(answer: Any) -> bool:
    return isinstance(answer, dict) and "warmed" in json.dumps(answer)


# --- events ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event", [{"warmup": True}, {"warmer": True}, {"warmer": True, "concurrency": 3}, PLUGIN, {**PLUGIN, "more": 1}]
)
@pytest.mark.parametrize("context", [None, LambdaContext()], ids=["plain", "lambda"])
def test_the_usual_pings_are_answered_without_running_the_handler(event: Any, context: Any) -> None:
    handler = handler_with()
    assert is_ping(handler(event, context))
    assert is_ping(handler(event=event, context=context))
    assert is_ping(handler(event, context=context))


async def test_an_async_handler_answers_too() -> None:
    @warm
    async def handler(event: Any, context: Any) -> Any:
        return "handled"

    assert is_ping(await handler({"warmup": True}, LambdaContext()))
    assert await handler({"warmup": False}, LambdaContext()) == "handled"


@pytest.mark.parametrize("context", [None, LambdaContext()], ids=["plain", "lambda"])
def test_a_method_answers_too(context: Any) -> None:
    class Service:
        @warm
        def handle(self, event: Any, context: Any) -> Any:
            return "handled"

    service = Service()
    assert is_ping(service.handle({"warmup": True}, context))
    assert is_ping(service.handle(event={"warmup": True}, context=context))
    assert service.handle({"warmup": False}, context) == "handled"


def test_a_function_of_one_argument_answers_too() -> None:
    @warm
    def handler(event: Any) -> Any:
        return "handled"

    assert is_ping(handler({"warmup": True}))
    assert is_ping(handler(event={"warmup": True}))
    assert handler({"question": 1}) == "handled"


def test_the_plugin_may_say_so_in_the_client_context() -> None:
    handler = handler_with()
    told = LambdaContext(client_context=SimpleNamespace(custom=dict(PLUGIN), env=None, client=None))
    for event in ({}, None, [1], "text"):
        assert is_ping(handler(event, told))
    for custom in (None, {}, {"source": "phone"}, [1], "serverless-plugin-warmup"):
        other = LambdaContext(client_context=SimpleNamespace(custom=custom))
        assert handler({}, other) == ("handled", {})


def test_a_schedule_is_a_ping_only_where_that_was_said() -> None:
    # A real cron job's event has the same shape.
    assert handler_with()(SCHEDULED, LambdaContext()) == ("handled", SCHEDULED)
    opted = handler_with(pings=["scheduled", "warmup"])
    assert is_ping(opted(SCHEDULED, LambdaContext()))
    assert is_ping(opted({"warmup": True}, LambdaContext()))
    other = {**SCHEDULED, "detail-type": "EC2 Instance State-change Notification"}
    assert opted(other, LambdaContext()) == ("handled", other)


def test_only_the_kinds_that_were_named_count() -> None:
    handler = handler_with(pings="warmer")
    assert is_ping(handler({"warmer": True}))
    assert handler({"warmup": True}) == ("handled", {"warmup": True})
    assert handler(PLUGIN) == ("handled", PLUGIN)
    told = LambdaContext(client_context=SimpleNamespace(custom=dict(PLUGIN)))
    assert handler({}, told) == ("handled", {})
    assert handler_with(pings=())({"warmer": True}) == ("handled", {"warmer": True})


@pytest.mark.parametrize("event", ODD_EVENTS, ids=repr)
@pytest.mark.parametrize("context", [None, LambdaContext()], ids=["plain", "lambda"])
def test_no_event_at_all_crashes_it(event: Any, context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRON_SECRET", "s3cret")
    for settings in ({}, {"pings": ["warmup", "warmer", "scheduled", lambda e: e["x"]["y"] > 1], "path": "/warm"}):
        assert handler_with(**settings)(event, context) == ("handled", event)


# --- predicates ------------------------------------------------------------------------------------------------------


def test_a_predicate_decides_by_the_event_whatever_it_is() -> None:
    seen = []

    def keep_alive(event: Any) -> bool:
        seen.append(event)
        return bool(event == "keep alive")

    handler = handler_with(pings=keep_alive)
    assert is_ping(handler("keep alive", LambdaContext()))
    assert is_ping(handler("keep alive", None))
    for event in (None, [1], {"n": 1}, 5):
        assert handler(event, LambdaContext()) == ("handled", event)
    # Never the context in the place of an event that is None.
    assert all(isinstance(event, (str, list, dict, int, type(None))) for event in seen)


def test_a_predicate_of_a_method_gets_the_event_not_the_object() -> None:
    class Service:
        @warm(pings=lambda event: event == "keep alive")
        def handle(self, event: Any, context: Any = None) -> Any:
            return "handled"

    for context in (None, LambdaContext()):
        assert is_ping(Service().handle("keep alive", context))
        assert Service().handle("other", context) == "handled"


def test_a_predicate_that_raises_says_no_and_the_next_is_asked() -> None:
    def wants_a_dict(event: Any) -> Any:
        return event["kind"] == "ping"

    def wants_a_list(event: Any) -> Any:
        return event[0] == "ping"

    handler = handler_with(pings=[wants_a_dict, wants_a_list])
    assert is_ping(handler({"kind": "ping"}))
    assert is_ping(handler(["ping"]))
    assert handler(7) == ("handled", 7)


# --- by HTTP ---------------------------------------------------------------------------------------------------------

SECRET = "s3cret, ünï"


def v1(path: str = "/api/warm", method: str = "GET", **headers: str) -> dict[str, Any]:
    """API Gateway's REST APIs and ALB."""
    return {"httpMethod": method, "path": path, "headers": headers, "requestContext": {"stage": "prod"}}


def v2(path: str = "/api/warm", method: str = "GET", **headers: str) -> dict[str, Any]:
    """API Gateway's HTTP APIs and function URLs."""
    return {
        "version": "2.0",
        "rawPath": path,
        "headers": {name.lower(): value for name, value in headers.items()},
        "requestContext": {"http": {"method": method, "path": path}},
    }


@pytest.fixture
def knocked(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("CRON_SECRET", SECRET)
    return handler_with(path="/api/warm")


@pytest.mark.parametrize("make", [v1, v2])
def test_a_get_of_the_path_that_knows_the_secret_is_answered_by_http(make: Any, knocked: Any) -> None:
    answer = knocked(make(Authorization=f"Bearer {SECRET}"), LambdaContext())
    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"] == "application/json"
    assert answer["headers"]["cache-control"] == "no-store"
    assert json.loads(answer["body"])["warmed"] is True


@pytest.mark.parametrize("make", [v1, v2])
@pytest.mark.parametrize(
    "given",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": SECRET},
        {"Authorization": f"Basic {SECRET}"},
        {"Authorization": f"Bearer {SECRET} "},
        {"Authorization": ""},
        {"User-Agent": "vercel-cron/1.0"},
        {},
    ],
)
def test_who_does_not_know_the_secret_gets_the_handler(make: Any, given: Any, knocked: Any) -> None:
    event = make(**given)
    assert knocked(event, LambdaContext()) == ("handled", event)


@pytest.mark.parametrize("make", [v1, v2])
@pytest.mark.parametrize("other", [{"method": "POST"}, {"path": "/api/warmer"}, {"path": "/"}])
def test_another_method_or_path_is_no_ping(make: Any, other: Any, knocked: Any) -> None:
    event = make(**other, Authorization=f"Bearer {SECRET}")
    assert knocked(event, LambdaContext()) == ("handled", event)


@pytest.mark.parametrize("secret", [None, ""])
def test_without_a_secret_nobody_knows_it(secret: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRON_SECRET", raising=False)
    if secret is not None:
        monkeypatch.setenv("CRON_SECRET", secret)
    handler = handler_with(path="/api/warm")
    for given in ("Bearer ", "Bearer", "Bearer None", ""):
        event = v2(Authorization=given)
        assert handler(event) == ("handled", event)


def test_the_secret_is_read_when_it_is_needed_and_from_the_variable_named(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = handler_with(path="/api/warm", secret_env="WARM_SECRET")
    monkeypatch.setenv("CRON_SECRET", "other")
    monkeypatch.setenv("WARM_SECRET", "rotated")
    assert is_ping(handler(v2(Authorization="Bearer rotated")))
    event = v2(Authorization="Bearer other")
    assert handler(event) == ("handled", event)


def test_secrets_are_compared_in_constant_time(knocked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for given in (f"Bearer {SECRET}", "Bearer wrong", ""):
        assert not is_ping(knocked(v2(Authorization=given)))
    assert len(compared) == 3


def test_without_a_path_no_request_is_a_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRON_SECRET", SECRET)
    event = v2(Authorization=f"Bearer {SECRET}")
    assert handler_with()(event) == ("handled", event)


# --- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "value", "allowed"),
    [
        ("probe", 7, "a URL, a callable or None"),
        ("probe", "not a url", "https://"),
        ("interval", 0, "above 0"),
        ("interval", "300", "above 0"),
        ("timeout", 0, "above 0 and at most 60"),
        ("timeout", 61, "above 0 and at most 60"),
        ("timeout", float("nan"), "above 0 and at most 60"),
        ("connections", 0, "at least 1 and at most 100"),
        ("connections", 101, "at least 1 and at most 100"),
        ("connections", 1.5, "at least 1 and at most 100"),
        ("pings", "cron", "'warmup'"),
        ("pings", ["warmup", 3], "'warmup'"),
        ("pings", 3, "'scheduled'"),
        ("path", "api/warm", "'/api/warm'"),
        ("path", 3, "'/api/warm'"),
        ("secret_env", "", "not empty"),
        ("secret_env", None, "not empty"),
        ("concurrency", 3, "True or False"),
        ("heartbeat", 0, "above 0"),
        ("heartbeat", "60", "above 0"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_the_range(setting: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        warm(**{setting: value})
    message = str(raised.value)
    assert f"{setting}={value!r}" in message
    assert allowed in message


def test_it_stands_once_on_a_function() -> None:
    with pytest.raises(ConfigurationError, match="warm"):

        @warm
        @retry_ratelimit
        @warm
        def handler() -> None: ...
