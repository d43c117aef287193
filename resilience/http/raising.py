"""Errors as a handler written for `requests` knows them.

Nothing here imports requests before one of its exceptions is to be raised: by then the caller has loaded it.
"""

from __future__ import annotations

from typing import Any

from resilience.core.errors import CircuitOpen, CredentialUnavailable, DeadlineExceeded, RateLimited, also

__all__ = ["as_requests_would", "hand_back"]


def as_requests_would(error: BaseException, prepared: Any) -> BaseException:
    """An error of ours as one that the handler's own `except` clauses catch, too; any other as it is."""
    if not isinstance(error, (CircuitOpen, RateLimited, DeadlineExceeded, CredentialUnavailable)):
        return error
    import requests

    theirs: type[Exception] = requests.RequestException
    if isinstance(error, CircuitOpen):
        theirs = requests.ConnectionError
    elif isinstance(error, DeadlineExceeded):
        theirs = requests.Timeout
    return _retyped(error, theirs, request=prepared, response=None)


def hand_back(error: BaseException | None, request: Any, prepared: Any) -> None:
    """Let `error`, and what caused it, name the caller's request rather than the copy that has the credential."""
    seen = 0
    while error is not None and seen < 20:
        if getattr(error, "request", None) is request:
            error.request = prepared  # type: ignore[attr-defined]
        error, seen = error.__cause__ or error.__context__, seen + 1


def _retyped(error: Any, *others: type[BaseException], **attributes: Any) -> BaseException:
    """`error`, made over so that an `except` of any of `others` catches it too."""
    wanted = also(type(error), *others)
    if wanted is type(error):
        return error  # type: ignore[no-any-return]
    # Without arguments: an OSError would take two of them for its errno.
    made: Any = BaseException.__new__(wanted) if not issubclass(wanted, OSError) else OSError.__new__(wanted)
    made.args = error.args
    made.__dict__.update(error.__dict__)
    made.__dict__.update(attributes)
    made.__cause__, made.__suppress_context__ = error.__cause__, True
    return made.with_traceback(error.__traceback__)  # type: ignore[no-any-return]
