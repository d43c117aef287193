"""What a call costs when all goes well, when the circuit is open, and when 64 come at once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from time import perf_counter, sleep
from typing import Any

import pybreaker
import pyresilience
import stamina
import tenacity

import resilience
from benchmarks.figures import REFERENCE, Figure
from benchmarks.sampling import batch, interleaved

__all__ = ["parallel", "rejection", "success"]

EVENT = {"n": 1}


def _five(fn: Any) -> Any:
    for decorate in (
        resilience.fresh_auth(provider=lambda: "key", hosts="api.example.com"),
        resilience.retry_ratelimit,
        resilience.circuit_breaker,
        resilience.pooled(base_url="https://api.example.com/v1"),
        resilience.warm,
    ):
        fn = decorate(fn)
    return fn


def _handler() -> Any:
    def handler(event: Any, context: Any) -> Any:
        return event

    return handler


def _async_handler() -> Any:
    async def handler(event: Any, context: Any) -> Any:
        return event

    return handler


def _pyresilience(fn: Any) -> Any:
    retry, breaker = pyresilience.RetryConfig(), pyresilience.CircuitBreakerConfig()
    return pyresilience.resilient(retry=retry, circuit_breaker=breaker)(fn)


def _by_hand(fn: Any) -> Any:
    return tenacity.retry(stop=tenacity.stop_after_attempt(4))(pybreaker.CircuitBreaker()(fn))


def success(quick: bool) -> list[Figure]:
    """All five on an empty function, sync and async."""
    rounds, times = (15, 1000) if quick else (60, 2000)
    made = {
        "bare": _handler(),
        "ours": _five(_handler()),
        "pyresilience": _pyresilience(_handler()),
        "stamina": stamina.retry(on=OSError)(_handler()),
        "tenacity over pybreaker": _by_hand(_handler()),
    }
    for fn in made.values():
        fn(EVENT, None)
    best = interleaved({name: batch(_calling(fn), times) for name, fn in made.items()}, rounds)
    sync = {name: seconds * 1e6 for name, seconds in best.items()}
    best = asyncio.run(_success_async(rounds, times))
    return [
        *_of_success("five on a success", sync, 3.0, REFERENCE["pyresilience"]),
        *_of_success("five on a success, async", best, 4.0, REFERENCE["pyresilience async"]),
    ]


def _calling(fn: Callable[..., Any]) -> Callable[[], Any]:
    return lambda: fn(EVENT, None)


def _of_success(name: str, us: dict[str, float], limit: float, reference: float) -> list[Figure]:
    slower = us["pyresilience"] / reference
    note = f"a bare call is {us['bare']:.2f} µs; this machine is {slower:.1f}x slower than the reference"
    group = "success"
    return [
        Figure(group, name, us["ours"], "µs", "bare", us["bare"], "value", limit, slower, note),
        Figure(group, name, us["ours"], "µs", "pyresilience retry + breaker", us["pyresilience"], "ratio", 1.0),
        *(
            Figure(group, name, us["ours"], "µs", peer, us[peer])
            for peer in ("stamina", "tenacity over pybreaker", "tenacity")
            if peer in us
        ),
    ]


async def _success_async(rounds: int, times: int) -> dict[str, float]:
    made = {
        "bare": _async_handler(),
        "ours": _five(_async_handler()),
        "pyresilience": _pyresilience(_async_handler()),
        "stamina": stamina.retry(on=OSError)(_async_handler()),
        # pybreaker counts no failure of an `async def`, so there is nothing to put under it.
        "tenacity": tenacity.retry(stop=tenacity.stop_after_attempt(4))(_async_handler()),
    }
    calls = [None] * times

    async def sample(fn: Any) -> float:
        start = perf_counter()
        for _ in calls:
            await fn(EVENT, None)
        return (perf_counter() - start) / times

    best = dict.fromkeys(made, float("inf"))
    for _ in range(rounds):
        for name, fn in made.items():
            best[name] = min(best[name], await sample(fn))
    return {name: seconds * 1e6 for name, seconds in best.items()}


def rejection(quick: bool) -> list[Figure]:
    """What an open circuit takes to say no: raised, caught."""
    rounds, times = (15, 1000) if quick else (60, 2000)

    ours = resilience.circuit_breaker(reset_timeout=300)(_handler())
    ours.resilience.breaker.open()
    breaker = pybreaker.CircuitBreaker(reset_timeout=300)
    theirs = breaker(_handler())
    breaker.open()
    third = _opened_pyresilience()

    def rejected(fn: Any, error: type[Exception]) -> Callable[[], None]:
        def call() -> None:
            try:
                fn(EVENT, None)
            except error:
                return
            raise AssertionError("it was not open")

        return call

    calls = {
        "ours": rejected(ours, resilience.CircuitOpen),
        "pybreaker": rejected(theirs, pybreaker.CircuitBreakerError),
        "pyresilience": rejected(third, pyresilience.CircuitOpenError),
    }
    best = interleaved({name: batch(call, times) for name, call in calls.items()}, rounds)
    us = {name: seconds * 1e6 for name, seconds in best.items()}
    slower = us["pybreaker"] / REFERENCE["pybreaker rejection"]
    note = f"this machine is {slower:.1f}x slower than the reference"
    name = "rejected by an open circuit"
    return [
        Figure("rejection", name, us["ours"], "µs", "pybreaker", us["pybreaker"], "value", 2.0, slower, note),
        Figure("rejection", name, us["ours"], "µs", "pyresilience", us["pyresilience"]),
    ]


def _opened_pyresilience() -> Any:
    settings = pyresilience.CircuitBreakerConfig(failure_threshold=1, recovery_timeout=300)
    failing = [True]

    def handler(event: Any, context: Any) -> Any:
        if failing:
            raise OSError
        return event

    fn = pyresilience.resilient(circuit_breaker=settings)(handler)
    with contextlib.suppress(OSError):
        fn(EVENT, None)
    failing.clear()
    return fn


def parallel(quick: bool) -> list[Figure]:
    """64 threads, a call of 50 ms each, through one breaker."""

    def slow() -> None:
        sleep(0.05)

    def ours() -> None:
        sleep(0.05)

    def theirs() -> None:
        sleep(0.05)

    guarded = resilience.circuit_breaker(ours)
    guarded()
    rounds = 3 if quick else 10
    best = interleaved({"bare": lambda: _at_once(slow), "ours": lambda: _at_once(guarded)}, rounds)
    # It holds its lock while the function runs: 3.2 s a round.
    locked = _at_once(pybreaker.CircuitBreaker()(theirs))
    name = "64 threads x 50 ms through one breaker"
    return [
        Figure("parallel", name, best["ours"] * 1000, "ms", "bare", best["bare"] * 1000, "speed", 0.95),
        Figure("parallel", name, best["ours"] * 1000, "ms", "pybreaker", locked * 1000, "speed"),
    ]


def _at_once(fn: Callable[[], Any], threads: int = 64) -> float:
    """Seconds until all of them have returned, from when all of them are there."""
    begin = threading.Barrier(threads + 1)

    def work() -> None:
        begin.wait()
        fn()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    begin.wait()
    start = perf_counter()
    for worker in workers:
        worker.join()
    return perf_counter() - start
