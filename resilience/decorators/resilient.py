"""`resilient`: the five, with their defaults, in the recommended order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

from resilience.core.errors import ConfigurationError
from resilience.decorators._apply import F
from resilience.decorators.circuit_breaker import circuit_breaker
from resilience.decorators.fresh_auth import fresh_auth
from resilience.decorators.pooled import pooled
from resilience.decorators.retry_ratelimit import retry_ratelimit
from resilience.decorators.warm import warm

__all__ = ["Resilient", "resilient"]

#: The recommended order, outermost first: the breaker counts attempts.
_ORDER: dict[str, Callable[..., Any]] = {
    "warm": warm,
    "retry_ratelimit": retry_ratelimit,
    "circuit_breaker": circuit_breaker,
    "fresh_auth": fresh_auth,
    "pooled": pooled,
}
#: Which of the five takes a setting that only one of them has.
_SHORT = {
    "base_url": "pooled",
    "env": "fresh_auth",
    "provider": "fresh_auth",
    "hosts": "fresh_auth",
    "idempotency_key": "fresh_auth",
    "attempts": "retry_ratelimit",
    "deadline": "retry_ratelimit",
    "idempotent": "retry_ratelimit",
    "limit": "retry_ratelimit",
    "fail_max": "circuit_breaker",
    "reset_timeout": "circuit_breaker",
    "fallback": "circuit_breaker",
    "probe": "warm",
    "interval": "warm",
    "max_idle": "pooled",
}


class Resilient:
    """A stack of decorators: decorates a function, or makes a session for a script."""

    def __init__(self, decorators: Iterable[Callable[[Any], Any]]) -> None:
        self._decorators = tuple(decorators)

    def __call__(self, fn: F) -> F:
        """`fn`, decorated; the first decorator given stands outermost."""
        for decorator in reversed(self._decorators):
            fn = decorator(fn)
        return fn

    def session(self) -> Any:
        """A `requests.Session` whose requests are guarded one by one, for scripts; a context manager.

        Raises `ConfigurationError` where `@pooled` is not among the decorators.
        """

        def session() -> None:
            """What the pipeline is built around; never called."""

        pipeline = self(session).resilience  # type: ignore[attr-defined]
        if pipeline.planned().pool is None:
            raise ConfigurationError("resilient(...).session() needs pooled among its decorators")
        return pipeline.session


@overload
def resilient(fn: F, /) -> F: ...
@overload
def resilient(*decorators: Callable[[Any], Any], **settings: Any) -> Resilient: ...
def resilient(*decorators: Any, **settings: Any) -> Any:
    """The five decorators as one: `@resilient(base_url="https://api.example.com/v1", env="API_KEY")` is enough.

    decorators: in place of the five, outermost first: `resilient(pooled(...), retry_ratelimit)`.
    settings: `base_url, env, provider, hosts, idempotency_key, attempts, deadline, idempotent, limit, fail_max,
        reset_timeout, fallback, probe, interval, max_idle`, each for the decorator that has it; or all of one
        decorator's, `pooled={"timeout": 10}`; `warm=False` leaves one out.

    Raises `ConfigurationError` at once for a wrong setting.
    """
    if len(decorators) == 1 and not settings and callable(decorators[0]) and not _is_decorator(decorators[0]):
        return resilient()(decorators[0])
    if decorators:
        if settings:
            raise ConfigurationError(
                f"resilient: settings {sorted(settings)} go to the decorators given, not beside them"
            )
        for each in decorators:
            if not callable(each):
                raise ConfigurationError(f"resilient: {each!r} is not a decorator")
        return Resilient(decorators)
    own: dict[str, dict[str, Any] | None] = {name: {} for name in _ORDER}
    # Whole decorators first, so that it does not matter in which order they are written.
    for setting in sorted(settings, key=lambda s: s not in _ORDER):
        _place(own, setting, settings[setting])
    return Resilient(_made(name, given) for name, given in own.items() if given is not None)


def _made(name: str, given: dict[str, Any]) -> Callable[[Any], Any]:
    decorator = _ORDER[name]
    known = decorator.__kwdefaults__ or {}
    unknown = sorted(given.keys() - known.keys())
    if unknown:
        raise ConfigurationError(f"resilient: {name}={given!r} has {unknown}, but its settings are {', '.join(known)}")
    made: Callable[[Any], Any] = decorator(**given)
    return made


def _place(own: dict[str, dict[str, Any] | None], setting: str, value: Any) -> None:
    if setting in _ORDER:
        if value is False:
            own[setting] = None
        elif isinstance(value, dict):
            own[setting] = dict(value)
        elif value is not True:
            raise ConfigurationError(f"resilient: {setting}={value!r} is not True, False or a dict of its settings")
        return
    decorator = _SHORT.get(setting)
    if decorator is None:
        known = ", ".join((*_SHORT, *_ORDER))
        raise ConfigurationError(f"resilient: {setting}={value!r} is no setting of it; those are {known}")
    given = own[decorator]
    if given is None:
        raise ConfigurationError(f"resilient: {setting}={value!r} is for {decorator}, which was left out")
    given[setting] = value


def _is_decorator(candidate: Any) -> bool:
    return candidate in _ORDER.values() or isinstance(candidate, Resilient) or hasattr(candidate, "_is_resilience")
