"""`@retry_ratelimit`: retries that respect rate limits, the deadline and a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from resilience.core.policy import Level, Policy, Scope
from resilience.core.settings import Settings
from resilience.decorators._apply import F, apply, check_scope
from resilience.decorators._retrying import RetryGuard

if TYPE_CHECKING:
    from resilience.core.pipeline import Pipeline

__all__ = ["RetryPolicy", "retry_ratelimit"]

_check = Settings("retry_ratelimit")


class RetryPolicy(Policy):
    """The settings of one `@retry_ratelimit`."""

    kind = "retry_ratelimit"
    acts = "guard"

    def __init__(self, settings: dict[str, Any]) -> None:
        self.name = settings["name"]
        self.scope: Scope = settings["scope"]
        self.deadline = settings["deadline"]
        self.attempts: int = settings["attempts"]
        self.base: float = settings["base"]
        self.max_wait: float = settings["max_wait"]
        self.max_retry_after: float = settings["max_retry_after"]
        self.on: tuple[type[BaseException], ...] = settings["on"]
        self.idempotent: bool | None = settings["idempotent"]
        self.budget: float | None = settings["budget"]
        self.limit: str | None = settings["limit"]
        self.smooth: bool = settings["smooth"]
        self.wait: Callable[[Any], float] | None = settings["wait"]
        self.stop: Callable[[Any], bool] | None = settings["stop"]
        self.retry: Callable[[Any], bool] | None = settings["retry"]

    def guard(self, level: Level, pipeline: Pipeline) -> RetryGuard | None:
        if level == "call" and self.scope == "request":
            return None
        return RetryGuard(self)

    def describe(self) -> str:
        said = [f"at most {self.attempts} attempts", f"backoff {self.base:g}..{self.max_wait:g} s"]
        said.append(f"hints up to {self.max_retry_after:g} s")
        said.append("no budget" if self.budget is None else f"budget {self.budget:.0%}")
        if self.deadline is not None:
            said.append(f"deadline {self.deadline:g} s")
        if self.limit is not None:
            said.append(f"limit {self.limit}")
        if self.on:
            said.append("on " + ", ".join(e.__name__ for e in self.on))
        return (f"{self.name}: " if self.name else "") + ", ".join(said)


@overload
def retry_ratelimit(fn: F, /) -> F: ...
@overload
def retry_ratelimit(
    *,
    attempts: int = 4,
    base: float = 0.5,
    max_wait: float = 20.0,
    max_retry_after: float = 60.0,
    deadline: float | None = None,
    on: type[Exception] | tuple[type[Exception], ...] = (),
    idempotent: bool | None = None,
    budget: float | None = 0.2,
    limit: str | None = None,
    smooth: bool = True,
    store: Any = None,
    wait: Callable[[Any], float] | None = None,
    stop: Callable[[Any], bool] | None = None,
    retry: Callable[[Any], bool] | None = None,
    name: str | None = None,
    scope: Scope = "auto",
) -> Callable[[F], F]: ...
def retry_ratelimit(
    fn: Any = None,
    /,
    *,
    attempts: int = 4,
    base: float = 0.5,
    max_wait: float = 20.0,
    max_retry_after: float = 60.0,
    deadline: float | None = None,
    on: Any = (),
    idempotent: bool | None = None,
    budget: float | None = 0.2,
    limit: str | None = None,
    smooth: bool = True,
    store: Any = None,
    wait: Callable[[Any], float] | None = None,
    stop: Callable[[Any], bool] | None = None,
    retry: Callable[[Any], bool] | None = None,
    name: str | None = None,
    scope: Scope = "auto",
) -> Any:
    """Try again what is worth trying again: never before the dependency's own hint, never past the deadline.

    attempts: how often in all, from 1 (no retry).
    base, max_wait: seconds; the n-th wait is drawn from 0 to min(max_wait, base · 2^(n-1)) ("full jitter", AWS
        Architecture Blog, Exponential Backoff And Jitter).
    max_retry_after: seconds; a longer hint is not waited for (RFC 9110 §10.2.3 sets no bound).
    deadline: seconds that a call may take in all, waits and attempts included; the platform's own deadline holds, too.
    on: exception classes that are retried though nothing is known of them.
    idempotent: whether something that may have been processed may be sent again; None: by its method (RFC 9110 §9.2.2)
        or an `Idempotency-Key`.
    budget: retries as a share of the calls of the last minute, from 0 to 1 (and at least 20 a minute); None: no budget.
    limit: a quota of one's own, such as "60/minute" (needs the extra `limits`).
    smooth: release those who wait for a rate limit one by one rather than all at once.
    store: where rate limits are shared; only memory for now.
    wait, stop, retry: tenacity strategies in place of ours.
    name: tells two on one function apart, and names the dependency. scope: "auto", "call" or "request".

    Raises `ConfigurationError` at once for a wrong setting. In a call: the last real exception, with a note saying
    why it was the last; `RateLimited` where a rate limit does not fit the deadline.
    """
    _check.integer("attempts", attempts, least=1)
    _check.number("base", base)
    _check.number("max_wait", max_wait)
    _check.number("max_retry_after", max_retry_after)
    _check.number("deadline", deadline, above=True, optional=True)
    _check.flag("idempotent", idempotent, optional=True)
    _check.number("budget", budget, most=1.0, optional=True)
    _check.flag("smooth", smooth)
    _check.memory_only("store", store)
    for setting, strategy in (("wait", wait), ("stop", stop), ("retry", retry)):
        _check.callable(setting, strategy)
    _check.text("name", name, optional=True)
    check_scope(_check, scope)
    if limit is not None:
        from resilience.decorators._quota import check_limit

        check_limit(_check, limit)
    settings = {k: v for k, v in locals().items() if k not in ("fn", "store", "setting", "strategy", "check_limit")}
    settings["on"] = _check.errors("on", on)
    return apply(RetryPolicy(settings), fn)
