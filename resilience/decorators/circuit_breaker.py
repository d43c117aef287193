"""`@circuit_breaker`: a dependency that is down is not asked, so that it costs nothing and can come up again."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, overload

from resilience.core.outcome import Meaning, Outcome
from resilience.core.policy import Level, Plan, Policy, Scope, WarmUp
from resilience.core.settings import Settings
from resilience.decorators._apply import F, apply, check_scope
from resilience.decorators._breaking import NOTHING, BreakerGuard
from resilience.state.breaker import Breaker, BreakerSettings

if TYPE_CHECKING:
    from resilience.core.pipeline import Pipeline

__all__ = ["BreakerHandle", "BreakerPolicy", "circuit_breaker"]

_check = Settings("circuit_breaker")
_lock = threading.Lock()
#: Breakers of URLs and of names, for the whole process: functions with the same settings share one. What changes:
#: entries are added, under `_lock`.
_breakers: dict[tuple[Any, ...], Breaker] = {}
#: All policies that live, which keep what they have found.
_policies: weakref.WeakSet[BreakerPolicy] = weakref.WeakSet()
_MOST = 1000


class BreakerPolicy(Policy):
    """The settings of one `@circuit_breaker`. What changes: `known`, its breakers by dependency, under `_lock`."""

    kind = "circuit_breaker"
    acts = "guard"

    def __init__(self, settings: BreakerSettings, *, name: str | None, scope: Scope, counts: Any, rescue: Any) -> None:
        self.settings = settings
        self.name = name
        self.scope = scope
        self.counts: Callable[[Any], bool] | tuple[type[BaseException], ...] | None = counts
        #: fallback and stale_if_error.
        self.rescue = rescue
        self.known: dict[str, Breaker] = {}
        _policies.add(self)

    def guard(self, level: Level, pipeline: Pipeline) -> BreakerGuard | None:
        """Around each request and, for what does not come through the pool, around the call."""
        guards = level == "request" or self.scope != "request"
        if level == "request":
            return BreakerGuard(self, self.name)
        if not guards and self.rescue is None:
            return None
        return BreakerGuard(self._of_calls(pipeline), self._call_name(pipeline), guards=guards, rescue=self.rescue)

    def _of_calls(self, pipeline: Pipeline) -> BreakerPolicy:
        """With a pool, a storage or breaker of the user's is that of what requests go to: a call that went well after a
        request that did not would set its failures back."""
        s = self.settings
        if self._is_pooled(pipeline) and (s.storage is not None or s.cb is not None):
            settings = s._replace(storage=None, cb=None)
            own = BreakerPolicy(settings, name=self.name, scope=self.scope, counts=self.counts, rescue=None)
            own.known = self.known
            return own
        return self

    def _call_name(self, pipeline: Pipeline) -> str | None:
        """With a pool, the name is that of what requests go to; the call has a breaker of its own."""
        return None if self._is_pooled(pipeline) else self.name

    def _is_pooled(self, pipeline: Pipeline) -> bool:
        return self.scope == "auto" and any(p.kind == "pooled" for p in pipeline.policies)

    def breaker(self, dependency: str) -> Breaker:
        """The breaker of a dependency, made when it is first asked for."""
        shared = "://" in dependency or dependency == self.name
        with _lock:
            for registry in (_breakers, self.known):
                if len(registry) > _MOST:
                    registry.clear()
            if shared:
                found = _breakers.setdefault(self._same(dependency), Breaker(dependency, self.settings))
            else:
                found = self.known.get(dependency) or Breaker(dependency, self.settings)
            self.known[dependency] = found
        return found

    def _same(self, dependency: str) -> tuple[Any, ...]:
        """What tells the breakers that functions share apart."""
        s = self.settings
        # The user's own objects are told apart by identity, since they need have no hash; the breaker keeps them alive.
        guests = tuple(map(id, (s.storage, s.cb, *s.listeners)))
        return (dependency, s._replace(storage=None, cb=None, listeners=()), guests)

    def handle(self, pipeline: Pipeline, *others: BreakerPolicy) -> BreakerHandle:
        """What `handler.resilience.breaker` gives; others: those that stand on the same function."""
        return BreakerHandle((self, *others), pipeline)

    def decorated(self, pipeline: Pipeline) -> None:
        """Raise `ConfigurationError` where the function can't await what stands in for it."""
        if self.rescue is not None:
            self.rescue.check(_check, pipeline)

    def warm_up(self, warmup: WarmUp, pipeline: Pipeline) -> None:
        """Tell the states; on a ping, be the probe of a breaker whose time has come, so that no user is."""
        handle = self.handle(pipeline)
        if warmup.reason == "ping":
            for breaker in handle:
                if breaker.due:
                    self._probe(breaker, warmup, pipeline)
        warmup.report["breakers"] = {breaker.dependency: breaker.state for breaker in handle}

    def _probe(self, breaker: Breaker, warmup: WarmUp, pipeline: Pipeline) -> None:
        hosts = [] if pipeline.path is None or self.scope == "call" else list(pipeline.path.hosts)
        url = breaker.dependency if breaker.dependency in hosts else next(iter(hosts), None)
        if breaker.dependency == pipeline.name:
            url = None
        if url is None and warmup.probe is None:
            return
        permit = breaker.admit()
        try:
            outcome = warmup.probe() if url is None and warmup.probe is not None else _ask(pipeline, url, warmup)
        except BaseException:
            breaker.release(permit)
            raise
        # Whatever it answered, it answered: a 404 to a probe is a dependency that is up.
        if outcome.failure or outcome.meaning is Meaning.UNKNOWN:
            breaker.failure(permit, None, retry_after=outcome.retry_after)
        elif outcome.meaning is Meaning.RATE_LIMITED:
            breaker.release(permit)
        else:
            breaker.success(permit)

    def describe(self) -> str:
        s = self.settings
        if s.failure_rate is not None:
            trips = f"opens at {s.failure_rate:.0%} failures of at least {s.minimum_calls} in {s.window:g} s"
        else:
            trips = f"opens after {s.fail_max} failures in a row"
        if s.slow_call is not None:
            trips += f", or {s.slow_rate:.0%} slower than {s.slow_call:g} s"
        probes = f"{s.half_open_calls} probe{'s' if s.half_open_calls > 1 else ''} after {s.reset_timeout:g} s"
        return (f"{self.name}: " if self.name else "") + f"{trips}, {probes}"


def forget_all() -> None:
    """Forget the breakers of all functions; for tests."""
    with _lock:
        for policy in _policies:
            policy.known.clear()
        _breakers.clear()


def _ask(pipeline: Pipeline, url: str | None, warmup: WarmUp) -> Outcome:
    call = pipeline.stand_alone()
    call.deadline = warmup.deadline
    outcome: Outcome = pipeline.path.probe(call, url)
    return outcome


class BreakerHandle:
    """The breakers of one function: all of them at once, or `handle["https://api.example.com:443"]`."""

    def __init__(self, policies: tuple[BreakerPolicy, ...], pipeline: Pipeline) -> None:
        self._policies = policies
        self._pipeline = pipeline

    def _all(self) -> list[Breaker]:
        return [breaker for policy in self._policies for breaker in self._of(policy)]

    def _of(self, policy: BreakerPolicy) -> list[Breaker]:
        plan: Plan = self._pipeline.planned()
        if plan.pool is None or policy.scope == "call":
            names = [policy.name or self._pipeline.name]
        elif policy.name is not None:
            names = [policy.name]
        else:
            names = list(self._pipeline.path.hosts) or [self._pipeline.name]
        for name in names:
            if name not in policy.known:
                policy.breaker(name)
        return list(policy.known.values())

    def __getitem__(self, dependency: str) -> Breaker:
        """The breaker of one dependency; KeyError lists those that there are."""
        breakers = {b.dependency: b for b in self._all()}
        if dependency not in breakers:
            raise KeyError(f"{dependency!r}: the breakers are {', '.join(breakers) or 'none yet'}")
        return breakers[dependency]

    def __iter__(self) -> Iterator[Breaker]:
        return iter(self._all())

    @property
    def state(self) -> str:
        """The worst state of them: isolated, open, half-open or closed."""
        states = {b.state for b in self._all()}
        return next((s for s in ("isolated", "open", "half-open") if s in states), "closed")

    def _acting(self) -> list[Breaker]:
        """Those of requests, where there are any: the function's own body goes on to meet them."""
        breakers = self._all()
        return [b for b in breakers if b.dependency != self._pipeline.name] or breakers

    def open(self) -> None:
        """Open them, as if they had tripped: those of the requests, or the function's own where it has no pool."""
        for breaker in self._acting():
            breaker.open()

    def close(self) -> None:
        """Close them and forget the failures."""
        for breaker in self._all():
            breaker.close()

    def half_open(self) -> None:
        """Let the next call through as a probe."""
        for breaker in self._acting():
            breaker.half_open()

    def isolate(self) -> None:
        """Keep them open until `close()`."""
        for breaker in self._acting():
            breaker.isolate()

    def __repr__(self) -> str:
        return "<breakers " + ", ".join(f"{b.dependency}: {b.state}" for b in self._all()) + ">"


@overload
def circuit_breaker(fn: F, /) -> F: ...
@overload
def circuit_breaker(
    *,
    name: str | None = None,
    fail_max: int = 5,
    reset_timeout: float = 30.0,
    success_threshold: int = 1,
    failure_rate: float | None = None,
    window: float = 60.0,
    minimum_calls: int = 10,
    slow_call: float | None = None,
    slow_rate: float = 1.0,
    half_open_calls: int = 1,
    max_reset_timeout: float = 300.0,
    fallback: Any = NOTHING,
    stale_if_error: float | None = None,
    counts: Any = None,
    store: Any = None,
    breaker: Any = None,
    listeners: tuple[Any, ...] = (),
    scope: Scope = "auto",
) -> Callable[[F], F]: ...
def circuit_breaker(
    fn: Any = None,
    /,
    *,
    name: str | None = None,
    fail_max: int = 5,
    reset_timeout: float = 30.0,
    success_threshold: int = 1,
    failure_rate: float | None = None,
    window: float = 60.0,
    minimum_calls: int = 10,
    slow_call: float | None = None,
    slow_rate: float = 1.0,
    half_open_calls: int = 1,
    max_reset_timeout: float = 300.0,
    fallback: Any = NOTHING,
    stale_if_error: float | None = None,
    counts: Any = None,
    store: Any = None,
    breaker: Any = None,
    listeners: tuple[Any, ...] = (),
    scope: Scope = "auto",
) -> Any:
    """Stop asking a dependency that keeps failing, and let one probe through when its time has come.

    name: of the dependency, in place of a request's `scheme://host:port` or the function's qualified name.
    fail_max: failures in a row that open it, from 1; not used with `failure_rate`.
    failure_rate: share of failures, above 0 to 1, that opens it, among at least `minimum_calls` (from 1) of the last
        `window` seconds. slow_call: seconds from which a call is slow; `slow_rate` (above 0 to 1) is the share of slow
        ones that opens it.
    reset_timeout: seconds that it stays open; doubled after each failed probe, up to `max_reset_timeout`.
    half_open_calls: probes at a time, from 1; success_threshold: successes that close it, from 1.
    fallback: a value, or a function of the handler's arguments, to answer with while it is open.
    stale_if_error: seconds for which the last good answer to the same arguments may stand in while it is open.
    counts: exception classes, or a predicate of exception or result, that alone count as failures.
    store: only memory for now, or a `pybreaker.CircuitBreakerStorage` of yours (one storage is one circuit, whatever
        the host). breaker: a `pybreaker.CircuitBreaker` of yours, whose storage, listeners and limits are used.
        listeners: of `pybreaker.CircuitBreakerListener`.
    scope: "auto", "call" or "request".

    Raises `ConfigurationError` at once for a wrong setting, and `CircuitOpen` in a call while it is open.
    """
    _check_numbers(locals())
    _check.text("name", name, optional=True)
    _check.memory_only("store", store, lambda s: hasattr(s, "increment_counter"))
    if breaker is not None and not hasattr(breaker, "half_open"):
        raise _check.wrong("breaker", breaker, "a pybreaker.CircuitBreaker or None")
    if not isinstance(listeners, (tuple, list)) or not all(hasattr(each, "state_change") for each in listeners):
        raise _check.wrong("listeners", listeners, "a tuple of pybreaker.CircuitBreakerListener")
    if counts is not None and (isinstance(counts, type) or not callable(counts)):
        counts = _check.errors("counts", counts, also="a predicate")
    check_scope(_check, scope)
    settings = BreakerSettings(
        fail_max=fail_max,
        reset_timeout=reset_timeout,
        success_threshold=success_threshold,
        failure_rate=failure_rate,
        window=window,
        minimum_calls=minimum_calls,
        slow_call=slow_call,
        slow_rate=slow_rate,
        half_open_calls=half_open_calls,
        max_reset_timeout=max_reset_timeout,
        storage=store if hasattr(store, "increment_counter") else None,
        cb=breaker,
        listeners=tuple(listeners),
    )
    rescue = None
    if fallback is not NOTHING or stale_if_error is not None:
        from resilience.decorators._rescue import Rescue

        rescue = Rescue(fallback, stale_if_error)
    return apply(BreakerPolicy(settings, name=name, scope=scope, counts=counts, rescue=rescue), fn)


def _check_numbers(given: dict[str, Any]) -> None:
    for setting in ("fail_max", "success_threshold", "minimum_calls", "half_open_calls"):
        _check.integer(setting, given[setting], least=1)
    for setting in ("reset_timeout", "window"):
        _check.number(setting, given[setting], above=True)
    for setting in ("slow_call", "stale_if_error"):
        _check.number(setting, given[setting], above=True, optional=True)
    _check.number("failure_rate", given["failure_rate"], most=1.0, above=True, optional=True)
    _check.number("slow_rate", given["slow_rate"], most=1.0, above=True)
    _check.number("max_reset_timeout", given["max_reset_timeout"], above=True)
    if given["max_reset_timeout"] < given["reset_timeout"]:
        allowed = f"at least reset_timeout={given['reset_timeout']!r}"
        raise _check.wrong("max_reset_timeout", given["max_reset_timeout"], allowed)


def _after_fork() -> None:
    # Another thread of the parent may have held it.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
