"""A wrong setting is told when the decorator is made: by name, with the value given and the range."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest

from resilience import ConfigurationError, circuit_breaker, fresh_auth, pooled, resilient, retry_ratelimit, warm

COUNT = "a whole number of at least"
ABOVE_0 = "a number above 0"
FLAG = "True or False"
CALLABLE = "a callable or None"
SCOPE = "one of 'auto', 'call', 'request'"
STORE = "a store that this version has: only 'memory' (None) is, shared ones follow"
NAME = "a string that is not empty or None"
URL = "an absolute URL such as https://api.example.com/v1"

not_counts = [0, -1, 1.5, True, "3", None, math.inf]
not_above_0 = [0, -1, -0.5, math.nan, math.inf, 10**400, True, "3", None]
not_above_0_or_none = [*not_above_0[:-1], [3]]
not_at_least_0 = [-1, -0.5, math.nan, math.inf, True, "3", None]
not_flags = [0, 1, "yes", None]
not_callables = [3, "f", [len]]
not_names = ["", "  ", 3, b"name"]
not_scopes = ["requests", None, 3, ["auto"]]
not_urls = ["", "api.example.com", "ftp://api.example.com", "https://", "https://u:p@api.example.com", "https://a b", 3]
not_stores = ["redis://localhost", "dynamodb://table", object(), 3]

#: decorator, setting, what its range is called, values outside of it
TABLE: list[tuple[Callable[..., Any], str, str, list[Any]]] = [
    (warm, "probe", "a URL, a callable or None", [3, ["https://a.example"]]),
    (warm, "probe", URL, ["", "a.example", "ftp://a.example"]),
    (warm, "interval", ABOVE_0, not_above_0),
    (warm, "timeout", "a number above 0 and at most 60", [*not_above_0, 60.1]),
    (warm, "connections", "a whole number of at least 1 and at most 100", [*not_counts, 101]),
    (warm, "pings", "any of 'warmup', 'warmer', ", ["nope", 3, ["warmup", "nope"], None, [3]]),
    (warm, "path", "a path such as '/api/warm' or None", ["warm", "", 3]),
    (warm, "secret_env", "a string that is not empty", [*not_names, None]),
    (warm, "concurrency", FLAG, not_flags),
    (warm, "heartbeat", ABOVE_0 + " or None", not_above_0_or_none),
    (pooled, "base_url", URL, not_urls),
    (pooled, "connections", COUNT + " 1", not_counts),
    (pooled, "maxsize", COUNT + " 1", not_counts),
    (pooled, "max_idle", ABOVE_0, not_above_0),
    (pooled, "timeout", "seconds above 0, or a pair of them (to connect, to read)", [*not_above_0, (1,), (1, 0), ()]),
    (pooled, "connect_retries", "a whole number of at least 0 and at most 10", [-1, 11, 1.5, True, None]),
    (pooled, "transparent", FLAG, not_flags),
    (pooled, "session", "a requests.Session or None", [3, object(), "session"]),
    (circuit_breaker, "name", NAME, not_names),
    (circuit_breaker, "fail_max", COUNT + " 1", not_counts),
    (circuit_breaker, "reset_timeout", ABOVE_0, not_above_0),
    (circuit_breaker, "success_threshold", COUNT + " 1", not_counts),
    (circuit_breaker, "failure_rate", "a number above 0 and at most 1 or None", [*not_above_0_or_none, 1.01]),
    (circuit_breaker, "window", ABOVE_0, not_above_0),
    (circuit_breaker, "minimum_calls", COUNT + " 1", not_counts),
    (circuit_breaker, "slow_call", ABOVE_0 + " or None", not_above_0_or_none),
    (circuit_breaker, "slow_rate", "a number above 0 and at most 1", [*not_above_0, 1.01]),
    (circuit_breaker, "half_open_calls", COUNT + " 1", not_counts),
    (circuit_breaker, "max_reset_timeout", ABOVE_0, not_above_0),
    (circuit_breaker, "max_reset_timeout", "at least reset_timeout=30.0", [29.9]),
    (circuit_breaker, "stale_if_error", ABOVE_0 + " or None", not_above_0_or_none),
    (
        circuit_breaker,
        "counts",
        "an exception class or a tuple of them or a predicate",
        [3, "OSError", int, (OSError, int), BaseException],
    ),
    (circuit_breaker, "store", STORE, not_stores),
    (circuit_breaker, "breaker", "a pybreaker.CircuitBreaker or None", [3, "closed", object()]),
    (circuit_breaker, "listeners", "a tuple of pybreaker.CircuitBreakerListener", [3, None, (3,), [len], object()]),
    (circuit_breaker, "scope", SCOPE, not_scopes),
    (retry_ratelimit, "attempts", COUNT + " 1", not_counts),
    (retry_ratelimit, "base", "a number of at least 0", not_at_least_0),
    (retry_ratelimit, "max_wait", "a number of at least 0", not_at_least_0),
    (retry_ratelimit, "max_retry_after", "a number of at least 0", not_at_least_0),
    (retry_ratelimit, "deadline", ABOVE_0 + " or None", not_above_0_or_none),
    (
        retry_ratelimit,
        "on",
        "an exception class or a tuple of them",
        [3, None, "OSError", int, (OSError, int), BaseException, KeyboardInterrupt],
    ),
    (retry_ratelimit, "idempotent", FLAG + " or None", [0, "yes"]),
    (
        retry_ratelimit,
        "budget",
        "a number of at least 0 and at most 1 or None",
        [-0.1, 1.1, 20, math.nan, True, "20%"],
    ),
    (
        retry_ratelimit,
        "limit",
        'a quota such as "60/minute" or "10 per second"',
        [60, "", "sixty a minute", "60/fortnight", "1/second;2/hour", ["60/minute"], "0/second"],
    ),
    (retry_ratelimit, "smooth", FLAG, not_flags),
    (retry_ratelimit, "store", STORE, not_stores),
    (retry_ratelimit, "wait", CALLABLE, not_callables),
    (retry_ratelimit, "stop", CALLABLE, not_callables),
    (retry_ratelimit, "retry", CALLABLE, not_callables),
    (retry_ratelimit, "name", NAME, not_names),
    (retry_ratelimit, "scope", SCOPE, not_scopes),
    (fresh_auth, "env", NAME, not_names),
    (fresh_auth, "provider", CALLABLE, not_callables),
    (fresh_auth, "scheme", "an authentication scheme such as 'Bearer', '' or None", [3, "a b", "Bearer\r\nX: y"]),
    (fresh_auth, "header", "the name of an HTTP header", ["", "a b", "a:b", "a\n", None, 3]),
    (fresh_auth, "ttl", ABOVE_0, not_above_0),
    (fresh_auth, "refresh_on", "statuses from 400 to 499", [401, None, (399,), (500,), ("401",), (True,)]),
    (fresh_auth, "request_id_header", "the name of an HTTP header or None", ["", "a b", 3]),
    (fresh_auth, "idempotency_key", FLAG, not_flags),
    (fresh_auth, "insecure", FLAG, not_flags),
]
CASES = [
    pytest.param(decorator, setting, allowed, value, id=f"{decorator.__name__}-{setting}-{n}-{i}")
    for n, (decorator, setting, allowed, values) in enumerate(TABLE)
    for i, value in enumerate(values)
]
DECORATORS = [warm, pooled, circuit_breaker, retry_ratelimit, fresh_auth]


@pytest.mark.parametrize(("decorator", "setting", "allowed", "value"), CASES)
def test_a_wrong_setting_is_named_with_the_value_and_the_range(
    decorator: Callable[..., Any], setting: str, allowed: str, value: Any
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        decorator(**{setting: value})
    message = str(caught.value)
    assert message.startswith(f"{decorator.__name__}: {setting}=")
    assert repr(value) in message
    assert " is not " in message
    assert allowed in message
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("decorator", DECORATORS)
def test_every_setting_is_in_the_table(decorator: Callable[..., Any]) -> None:
    tested = {setting for made, setting, _, _ in TABLE if made is decorator}
    settings = set(inspect.signature(decorator).parameters) - {"fn"}
    # Anything at all may be a fallback; hosts have a test of their own, below.
    assert settings - tested == {circuit_breaker: {"fallback"}, fresh_auth: {"hosts"}}.get(decorator, set())


@pytest.mark.parametrize("decorator", DECORATORS)
def test_every_default_is_a_right_setting(decorator: Callable[..., Any]) -> None:
    defaults = {p.name: p.default for p in inspect.signature(decorator).parameters.values() if p.name != "fn"}
    decorator(**defaults)


@pytest.mark.parametrize(
    ("decorator", "settings"),
    [
        (warm, {"timeout": 60, "connections": 100, "interval": 0.001, "pings": ()}),
        (pooled, {"timeout": 1e-3, "connect_retries": 10, "maxsize": 1, "base_url": "http://localhost:8080"}),
        (circuit_breaker, {"failure_rate": 1, "slow_rate": 1, "max_reset_timeout": 30, "store": "memory://"}),
        (circuit_breaker, {"counts": OSError}),
        (circuit_breaker, {"counts": lambda end: False, "fallback": None}),
        (retry_ratelimit, {"attempts": 1, "base": 0, "max_wait": 0, "max_retry_after": 0, "budget": 0}),
        (retry_ratelimit, {"budget": 1.0, "on": [OSError], "limit": "10 per second", "store": "memory"}),
        (fresh_auth, {"provider": lambda: "key", "hosts": "*.example.com", "scheme": "", "refresh_on": ()}),
    ],
)
def test_the_ends_of_a_range_belong_to_it(decorator: Callable[..., Any], settings: dict[str, Any]) -> None:
    decorator(**settings)


@pytest.mark.parametrize("decorator", DECORATORS)
@pytest.mark.parametrize("value", [3, "name", None.__class__, {"fail_max": 3}])
def test_settings_are_taken_by_keyword_only(decorator: Callable[..., Any], value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"@{decorator.__name__} (takes its settings by keyword only|wraps a)"):
        decorator(value)


@pytest.mark.parametrize("decorator", DECORATORS)
def test_a_setting_that_there_is_not_is_an_error_of_pythons_own(decorator: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="nope"):
        decorator(nope=1)


@pytest.mark.parametrize("decorator", DECORATORS)
def test_a_class_can_t_be_wrapped(decorator: Callable[..., Any]) -> None:
    class Service:
        pass

    for decorate in (decorator, decorator()):
        with pytest.raises(ConfigurationError, match=f"@{decorator.__name__} wraps a function, a method or a callable"):
            decorate(Service)


@pytest.mark.parametrize("decorator", DECORATORS)
def test_the_same_decorator_twice_says_so(decorator: Callable[..., Any]) -> None:
    def handler() -> None: ...

    hint = "give each a name= of its own" if decorator in (circuit_breaker, retry_ratelimit) else "once is enough"
    with pytest.raises(ConfigurationError, match=rf"@{decorator.__name__} stands twice on \S+handler: {hint}"):
        decorator(decorator(handler))
    with pytest.raises(ConfigurationError, match="stands twice"):
        decorator(warm(pooled(decorator()(handler))) if decorator not in (warm, pooled) else decorator(handler))


@pytest.mark.parametrize("decorator", [circuit_breaker, retry_ratelimit])
def test_two_of_a_kind_with_names_are_none_too_many(decorator: Callable[..., Any]) -> None:
    def handler() -> str:
        return "answer"

    both = decorator(name="a")(decorator(name="b")(handler))
    assert both() == "answer"
    assert [p.name for p in both.resilience] == ["a", "b"]
    assert both.resilience.policy(decorator.__name__, "b").name == "b"
    with pytest.raises(LookupError, match="named 'c'"):
        both.resilience.policy(decorator.__name__, "c")


@pytest.mark.parametrize("decorator", [circuit_breaker, retry_ratelimit])
def test_the_request_scope_needs_a_pool(decorator: Callable[..., Any]) -> None:
    def handler() -> None: ...

    guarded = decorator(scope="request")(handler)
    with pytest.raises(ConfigurationError, match=rf"@{decorator.__name__}\(scope='request'\) on .*: add @pooled"):
        guarded()
    pooled(decorator(scope="request")(handler))()


def test_a_credential_for_no_host_is_an_error_of_the_first_call() -> None:
    def handler() -> None: ...

    with pytest.raises(ConfigurationError, match=r"fresh_auth on .*handler: hosts=None, .*pooled\(base_url"):
        fresh_auth(env="API_KEY")(handler)()


@pytest.mark.parametrize("value", [3, "", [], "https://api.example.com/path", "*", "*.com"])
def test_hosts_that_are_none_are_named_with_the_value_and_what_is_allowed(value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        fresh_auth(env="API_KEY", hosts=value)
    message = str(caught.value)
    assert f"hosts={value!r}" in message
    assert "allowed are host names such as 'api.example.com'" in message


def test_a_credential_has_one_source() -> None:
    with pytest.raises(ConfigurationError, match=r"fresh_auth: env='API_KEY' and provider=.* one of them, not both"):
        fresh_auth(env="API_KEY", provider=lambda: "key")


# ---- resilient


def test_resilient_tells_the_settings_that_it_has() -> None:
    with pytest.raises(ConfigurationError, match=r"resilient: nope=1 is no setting of it; those are base_url, env, .*"):
        resilient(nope=1)


@pytest.mark.parametrize("first", [True, False])
def test_a_setting_for_a_decorator_left_out_is_an_error_in_either_order(first: bool) -> None:
    settings = {"warm": False, "interval": 9} if first else {"interval": 9, "warm": False}
    with pytest.raises(ConfigurationError, match="resilient: interval=9 is for warm, which was left out"):
        resilient(**settings)


@pytest.mark.parametrize("value", [None, 3, "yes", [("timeout", 3)]])
def test_a_decorator_of_resilient_is_switched_or_given_a_dict(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"resilient: pooled=.* is not True, False or a dict of its settings"):
        resilient(pooled=value)


def test_a_wrong_setting_within_is_named_too() -> None:
    with pytest.raises(ConfigurationError, match=r"circuit_breaker: fail_max=0 is not a whole number of at least 1"):
        resilient(fail_max=0)
    with pytest.raises(ConfigurationError, match=r"pooled: maxsize=0 is not a whole number of at least 1"):
        resilient(pooled={"maxsize": 0})
    with pytest.raises(
        ConfigurationError, match=r"resilient: pooled=\{'nope': 1\} has \['nope'\], but its settings are base_"
    ):
        resilient(pooled={"nope": 1})


def test_decorators_and_settings_do_not_mix() -> None:
    with pytest.raises(ConfigurationError, match=r"settings \['env'\] go to the decorators given, not beside them"):
        resilient(pooled, retry_ratelimit, env="API_KEY")
    with pytest.raises(ConfigurationError, match="resilient: 3 is not a decorator"):
        resilient(3)


def test_resilient_can_t_wrap_a_class_either() -> None:
    class Service:
        pass

    with pytest.raises(ConfigurationError, match="wraps a function, a method or a callable"):
        resilient()(Service)
    with pytest.raises(ConfigurationError, match="wraps a function, a method or a callable"):
        resilient(Service)
