"""What users' editors see. Checked by mypy (`files` in pyproject.toml), never run.

Each decorator keeps the type of what it decorates: bare, with settings, for `def` and `async def`, and for methods.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import assert_type

import pybreaker
import tenacity

import resilience
from resilience import (
    Call,
    CircuitOpen,
    Credential,
    RateLimited,
    circuit_breaker,
    fresh_auth,
    pooled,
    resilient,
    retry_ratelimit,
    warm,
)
from resilience.core import events

# ---- functions, bare


@warm
@pooled
@circuit_breaker
@retry_ratelimit
@fresh_auth
def bare(event: dict[str, str], *, n: int = 0) -> str:
    return event["name"] * n


assert_type(bare({"name": "a"}, n=2), str)
bare({"name": "a"}, n="2")  # type: ignore[arg-type]
bare()  # type: ignore[call-arg]
bare({}, m=1)  # type: ignore[call-arg]


@warm
@pooled
@circuit_breaker
@retry_ratelimit
@fresh_auth
async def bare_async(n: int) -> str:
    return str(n)


async def await_bare() -> None:
    assert_type(await bare_async(1), str)
    await bare_async("1")  # type: ignore[arg-type]


# ---- functions, with settings


@warm(probe="https://api.example.com/health", interval=60, pings=("warmup", lambda event: bool(event)))
@pooled(base_url="https://api.example.com/v1", timeout=(3.05, 10), max_idle=20)
@circuit_breaker(fail_max=3, counts=(OSError, ValueError), fallback={"statusCode": 200})
@retry_ratelimit(attempts=3, on=OSError, limit="60/minute")
@fresh_auth(env="API_KEY", hosts=["api.example.com", "*.example.com"])
def with_settings(n: int) -> int:
    return n


assert_type(with_settings(1), int)
with_settings("1")  # type: ignore[arg-type]


@warm()
@pooled()
@circuit_breaker()
@retry_ratelimit()
@fresh_auth()
async def with_settings_async(n: int) -> int:
    return n


async def await_with_settings() -> None:
    assert_type(await with_settings_async(1), int)
    await with_settings_async("1")  # type: ignore[arg-type]


# ---- streams


@retry_ratelimit
@circuit_breaker
def words(text: str) -> Iterator[str]:
    yield from text.split()


@retry_ratelimit(attempts=2)
@circuit_breaker
async def words_async(text: str) -> AsyncIterator[str]:
    for word in text.split():
        yield word


assert_type(words("a b"), Iterator[str])
assert_type(words_async("a b"), AsyncIterator[str])


# ---- methods


class Service:
    @circuit_breaker
    def method(self, n: int) -> str:
        return str(n)

    @retry_ratelimit(attempts=2)
    async def method_async(self, n: int) -> str:
        return str(n)

    @classmethod
    @circuit_breaker
    def of_class(cls, n: int) -> Service:
        return cls()

    @staticmethod
    @retry_ratelimit
    def static(n: int) -> bytes:
        return bytes(n)


assert_type(Service().method(1), str)
assert_type(Service.of_class(1), Service)
assert_type(Service.static(1), bytes)
Service().method("1")  # type: ignore[arg-type]


async def await_method() -> None:
    assert_type(await Service().method_async(1), str)
    await Service().method_async("1")  # type: ignore[arg-type]


# ---- resilient


@resilient
def all_five(n: int) -> str:
    return str(n)


@resilient(base_url="https://api.example.com/v1", env="API_KEY", warm=False, pooled={"maxsize": 5})
async def all_five_async(n: int) -> str:
    return str(n)


@resilient(warm, pooled(timeout=5), retry_ratelimit)
def some_of_them(n: int) -> str:
    return str(n)


assert_type(all_five(1), str)
assert_type(some_of_them(1), str)
all_five("1")  # type: ignore[arg-type]


async def await_all_five() -> None:
    assert_type(await all_five_async(1), str)


# ---- settings


class Listener(pybreaker.CircuitBreakerListener):
    pass


def provide() -> Credential:
    return Credential("key", expires_at=None)


async def provide_async() -> str:
    return "key"


fresh_auth(provider=provide, hosts="api.example.com", scheme=None, refresh_on=(401, 403))
fresh_auth(provider=provide_async, hosts="api.example.com", idempotency_key=True)
circuit_breaker(listeners=(Listener(),), store=pybreaker.CircuitMemoryStorage("closed"), scope="request")
circuit_breaker(breaker=pybreaker.CircuitBreaker(fail_max=2), stale_if_error=60, fallback=lambda event: "sorry")
circuit_breaker(counts=lambda end: end is None)
retry_ratelimit(wait=tenacity.wait_fixed(1), stop=tenacity.stop_after_attempt(3) | tenacity.stop_after_delay(9))
retry_ratelimit(retry=tenacity.retry_if_result(lambda result: result is None), on=(OSError, ValueError))
retry_ratelimit(scope="everything")  # type: ignore[call-overload]
retry_ratelimit(attempts="3")  # type: ignore[call-overload]
circuit_breaker(nope=1)  # type: ignore[call-overload]


# ---- what else there is


def callback(n: int) -> str:
    return str(n)


assert_type(resilience.bind(callback)(1), str)
resilience.bind(callback)("1")  # type: ignore[arg-type]
assert_type(resilience.current(), Call)
assert_type(resilience.current().remaining, float | None)
assert_type(resilience.current().auth_headers("https://api.example.com"), dict[str, str])


def on_event(event: events.Event) -> None: ...


assert_type(resilience.listen(on_event, events.CallFinished, events.ColdStart), Callable[[], None])


def errors() -> None:
    try:
        bare({})
    except CircuitOpen as error:
        assert_type(error.retry_after, float | None)
        assert_type(error.dependency, str)
    except RateLimited as limited:
        assert_type(limited.retry_after, float | None)
