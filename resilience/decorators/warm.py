"""`@warm`: everything that the first call would have to wait for is got ready before it comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

from resilience.core.settings import Settings
from resilience.decorators._apply import F, apply
from resilience.decorators._pings import PINGS, Pings
from resilience.decorators._warming import WarmPolicy

__all__ = ["warm"]

_check = Settings("warm")


@overload
def warm(fn: F, /) -> F: ...
@overload
def warm(
    *,
    probe: str | Callable[[], Any] | None = None,
    interval: float = 300.0,
    timeout: float = 5.0,
    connections: int = 1,
    pings: Iterable[str | Callable[[Any], Any]] = PINGS,
    path: str | None = None,
    secret_env: str = "CRON_SECRET",  # noqa: S107 - the name of a variable, not its value
    concurrency: bool = False,
    heartbeat: float | None = None,
) -> Callable[[F], F]: ...
def warm(
    fn: Any = None,
    /,
    *,
    probe: str | Callable[[], Any] | None = None,
    interval: float = 300.0,
    timeout: float = 5.0,
    connections: int = 1,
    pings: Any = PINGS,
    path: str | None = None,
    secret_env: str = "CRON_SECRET",  # noqa: S107 - the name of a variable, not its value
    concurrency: bool = False,
    heartbeat: float | None = None,
) -> Any:
    """Answer pings without running the function, and warm up: connections, credential, breakers, then the probe.

    probe: a URL to GET, or a function to call (a one-token completion, say), at the end of each warming up.
    interval: seconds without a call after which the next one starts a warming up beside it.
    timeout: seconds that a warming up may take, above 0 to 60; what fails is told in the answer and never raised.
    connections: TLS connections wanted to each host that is known, from 1.
    pings: what counts as one: any of "warmup" (`{"warmup": true}`), "warmer" (`{"warmer": true, "concurrency": N}`),
        "serverless-plugin-warmup", "scheduled" (an EventBridge schedule, off by default because real cron jobs look the
        same), and predicates of the event.
    path: a GET of this path with `Authorization: Bearer` and the value of the variable `secret_env` is a ping, too.
    concurrency: let a "warmer" ping warm N instances, by invoking this function N - 1 times more (needs boto3).
    heartbeat: seconds between warmings-up in the background, for processes that live on; None: none.

    On AWS Lambda, warming up begins in the init phase, and again after a SnapStart restore. Raises `ConfigurationError`
    at once for a wrong setting.
    """
    if isinstance(probe, str):
        _check.url("probe", probe)
    elif probe is not None and not callable(probe):
        raise _check.wrong("probe", probe, "a URL, a callable or None")
    _check.number("interval", interval, above=True)
    _check.number("timeout", timeout, above=True, most=60.0)
    _check.integer("connections", connections, least=1, most=100)
    if path is not None and not (isinstance(path, str) and path.startswith("/")):
        raise _check.wrong("path", path, "a path such as '/api/warm' or None")
    _check.text("secret_env", secret_env)
    _check.flag("concurrency", concurrency)
    _check.number("heartbeat", heartbeat, above=True, optional=True)
    kinds = Pings(_pings(pings), path=path, secret_env=secret_env)
    policy = WarmPolicy(
        kinds,
        probe=probe,
        interval=interval,
        timeout=timeout,
        connections=connections,
        concurrency=concurrency,
        heartbeat=heartbeat,
    )
    return apply(policy, fn)


def _pings(pings: Any) -> tuple[Any, ...]:
    allowed = "any of " + ", ".join(map(repr, (*PINGS, "scheduled"))) + " and predicates"
    listed = (pings,) if isinstance(pings, str) or callable(pings) else pings
    try:
        listed = tuple(listed)
    except TypeError as error:
        raise _check.wrong("pings", pings, allowed) from error
    if not all(callable(p) or p in (*PINGS, "scheduled") for p in listed):
        raise _check.wrong("pings", pings, allowed)
    return listed
