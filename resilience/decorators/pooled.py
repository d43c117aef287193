"""`@pooled`: connections that outlive the call, and are never used dead."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, overload

from resilience import platforms
from resilience.core.clock import CLOCK
from resilience.core.policy import Plan, Policy, WarmUp
from resilience.core.settings import Settings
from resilience.decorators._apply import F, apply
from resilience.http.session import Pool, PoolSettings, pool_for

if TYPE_CHECKING:
    from resilience.core.pipeline import Pipeline

__all__ = ["PoolPolicy", "pooled"]

_check = Settings("pooled")


class PoolPolicy(Policy):
    """The settings of one `@pooled`, and its pool."""

    kind = "pooled"
    _registered = False

    def __init__(self, pool: Pool, base_url: str | None) -> None:
        self.pool = pool
        self.base_url = base_url

    def join(self, plan: Plan) -> None:
        from resilience.http.request import RequestPath

        plan.pool = self.pool
        plan.base_url = self.base_url
        plan.make_path = RequestPath

    def warm_up(self, warmup: WarmUp, pipeline: Pipeline) -> None:
        """Open connections to every host that is known, all at the same time."""
        hosts = [url for url in pipeline.path.hosts if url.startswith("https:") or warmup.reason == "ping"]
        self.pool.adapter  # noqa: B018  imports requests, here rather than in the first call
        if not hosts:
            return

        def open_to(url: str) -> None:
            try:
                warmup.opened += self.pool.warm(url, warmup.connections, warmup.deadline)
            except Exception as error:
                warmup.failed(url, error)

        _side_by_side(open_to, hosts, warmup.deadline)

    def forget(self, why: str) -> None:
        from resilience.http import prewarm

        self.pool.retire_all(why)
        prewarm.drop_all()

    def decorated(self, pipeline: Pipeline) -> None:
        if not self._registered:
            self._registered = platforms.when_snapshotted(lambda: self.forget("snapshot"))

    def describe(self) -> str:
        s = self.pool.settings
        said = [self.base_url] if self.base_url else []
        said += [f"{s.maxsize} connections a host", f"idle at most {s.max_idle:g} s"]
        said.append(f"timeout {s.timeout[0]:g} s to connect, {s.timeout[1]:g} s to read")
        if not self.pool.transparent:
            said.append("not transparent")
        return ", ".join(said)


def _side_by_side(fn: Callable[[str], None], items: list[str], deadline: float) -> None:
    """Run `fn` for all items at once, until the deadline; in line where no thread can be started."""
    import threading

    threads = []
    for item in items[1:]:
        thread = threading.Thread(target=fn, args=(item,), name="resilience-warm", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            fn(item)
        else:
            threads.append(thread)
    fn(items[0])
    for thread in threads:
        thread.join(max(deadline - CLOCK.monotonic(), 0.0))


@overload
def pooled(fn: F, /) -> F: ...
@overload
def pooled(
    *,
    base_url: str | None = None,
    connections: int = 10,
    maxsize: int = 20,
    max_idle: float = 55.0,
    timeout: float | tuple[float, float] = (3.05, 30.0),
    connect_retries: int = 0,
    transparent: bool = True,
    session: Any = None,
) -> Callable[[F], F]: ...
def pooled(
    fn: Any = None,
    /,
    *,
    base_url: str | None = None,
    connections: int = 10,
    maxsize: int = 20,
    max_idle: float = 55.0,
    timeout: float | tuple[float, float] = (3.05, 30.0),
    connect_retries: int = 0,
    transparent: bool = True,
    session: Any = None,
) -> Any:
    """Send the requests that the function makes with `requests` over connections kept for the life of the process.

    base_url: where most requests go; warmed, and what relative URLs of the pooled session are below.
    connections: hosts that connections are kept for, from 1. maxsize: connections a host, from 1; who finds none free
        waits.
    max_idle: seconds after which an idle connection is not used again (NAT gateways forget after 350 s, many load
        balancers after 60).
    timeout: seconds to connect and to wait for each read, or one number for both, for requests that say none.
    connect_retries: more tries at once, where no connection could be made and so nothing was sent.
    transparent: whether `requests.get` and sessions made in the function use the pool; if not, only the session handed
        to a function that names a `session` keyword does.
    session: a `requests.Session` of yours to hand to it in place of ours.

    Raises `ConfigurationError` at once for a wrong setting. Two functions with the same settings share one pool.
    """
    _check.url("base_url", base_url)
    _check.integer("connections", connections, least=1)
    _check.integer("maxsize", maxsize, least=1)
    _check.number("max_idle", max_idle, above=True)
    _check.integer("connect_retries", connect_retries, most=10)
    _check.flag("transparent", transparent)
    if session is not None and not (hasattr(session, "send") and hasattr(session, "get_adapter")):
        raise _check.wrong("session", session, "a requests.Session or None")
    settings = PoolSettings(connections, maxsize, max_idle, _timeouts(timeout), connect_retries)
    plain = transparent and session is None
    pool = pool_for(settings) if plain else Pool(settings, transparent=transparent, session=session)
    return apply(PoolPolicy(pool, base_url), fn)


def _timeouts(timeout: Any) -> tuple[float, float]:
    both = timeout if isinstance(timeout, (tuple, list)) else (timeout, timeout)
    allowed = "seconds above 0, or a pair of them (to connect, to read)"
    if len(both) != 2:
        raise _check.wrong("timeout", timeout, allowed)
    try:
        for seconds in both:
            _check.number("timeout", seconds, above=True)
    except ValueError as error:
        raise _check.wrong("timeout", timeout, allowed) from error
    return (float(both[0]), float(both[1]))
