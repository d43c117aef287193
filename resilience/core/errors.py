"""What can go wrong, by name.

An error of ours that takes the place of one that the caller's code already knows is raised as a subclass of both, so
that an `except` clause written before us goes on working: see `also`.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CircuitOpen",
    "ConfigurationError",
    "CredentialUnavailable",
    "DeadlineExceeded",
    "RateLimited",
    "ResilienceError",
    "StoreUnavailable",
    "also",
]


class ResilienceError(Exception):
    """The base of every error raised by this package."""


class ConfigurationError(ResilienceError, ValueError):
    """A setting that cannot work; the message names it, the value given, and the range."""


class CircuitOpen(ResilienceError):
    """The dependency is known to be down, so it was not asked.

    Raised as a subclass of `pybreaker.CircuitBreakerError` too and, by a request, of `requests.ConnectionError`.

    dependency: what is down (`scheme://host:port`, or a function's name).
    retry_after: seconds until the breaker lets a probe through; None while it is isolated by hand.
    """

    # A rejection must cost nothing: the two stay in `args`, and words are made only when somebody reads them.

    @property
    def dependency(self) -> str:
        """What is down."""
        return str(self.args[0])

    @property
    def retry_after(self) -> float | None:
        """Seconds until a probe is let through."""
        return self.args[1] if len(self.args) > 1 else None

    def __str__(self) -> str:
        wait = self.retry_after
        again = "isolated by hand" if wait is None else f"asked again in {max(wait, 0.0):.1f} s"
        return f"circuit open: {self.dependency} is failing and was not asked ({again})"

    def __reduce__(self) -> tuple[Any, ...]:
        return CircuitOpen, self.args


class RateLimited(ResilienceError):
    """The dependency asks for more patience than there is.

    dependency: who asked.
    retry_after: seconds that it asked us to wait, counted from the time of this error; None if it did not say.
    """

    def __init__(self, dependency: str, retry_after: float | None = None, why: str = "") -> None:
        self.dependency = dependency
        self.retry_after = retry_after
        self.why = why
        asked = "" if retry_after is None else f", asks for {retry_after:.1f} s"
        super().__init__(f"rate limited: {dependency}{asked}{'; ' + why if why else ''}")

    def __reduce__(self) -> tuple[Any, ...]:
        return RateLimited, (self.dependency, self.retry_after, self.why)


class DeadlineExceeded(ResilienceError, TimeoutError):
    """The time for this call was over before an attempt could be started or ended."""


class CredentialUnavailable(ResilienceError):
    """No credential could be had; `__cause__` is the provider's own error."""


class StoreUnavailable(ResilienceError):
    """The store of shared state does not answer, or not with what we wrote."""


_made: dict[tuple[type, ...], type] = {}


def also(error: type[Any], *others: type[BaseException]) -> type[Any]:
    """`error` as a class that an `except` of any of `others` catches too; its name stays that of `error`."""
    if all(issubclass(error, other) for other in others):
        return error
    # One that was made here is taken apart again: pickle must find each part by its name.
    parts = error.__bases__ if error in _made.values() else (error,)
    wanted = (*parts, *(o for o in others if not issubclass(error, o)))
    made = _made.get(wanted)
    if made is None:
        its = {"__module__": error.__module__, "__doc__": error.__doc__, "__reduce__": _reduced}
        # Two threads may both make one; either serves, and the last stays.
        made = _made[wanted] = type(error.__name__, wanted, its)
    return made


def _reduced(self: BaseException) -> tuple[Any, ...]:
    """For pickle, which can't find a class that was made here: what it was made of."""
    return _made_again, (type(self).__bases__, self.args, vars(self))


def _made_again(kinds: tuple[type[Any], ...], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    kind = also(*kinds)
    error: BaseException = (OSError if issubclass(kind, OSError) else BaseException).__new__(kind)
    error.args = args
    vars(error).update(state)
    return error
