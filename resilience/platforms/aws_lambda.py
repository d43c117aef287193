"""AWS Lambda: event, context, deadline, pings, init phase and snapshots.

Sources: the Lambda Developer Guide, "Using the Lambda context object" and "Understanding the Lambda execution
environment lifecycle"; the runtime client's own source for what reaches a handler.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from resilience.core.call import Invocation
from resilience.core.clock import CLOCK

__all__ = [
    "context_of",
    "initialising",
    "recognise",
    "reserve",
    "under_runtime",
    "when_restored",
    "when_snapshotted",
]

#: Of the time that is left, this part is kept for answering, at most this many seconds.
_RESERVE_SHARE, _RESERVE_MOST = 0.1, 0.5


def reserve(remaining: float) -> float:
    """Seconds of `remaining` that are kept back, so that the function can still answer before it is killed."""
    return min(remaining * _RESERVE_SHARE, _RESERVE_MOST)


def context_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The Lambda context among a handler's arguments: `context=`, or the last positional one; else None."""
    last = kwargs["context"] if "context" in kwargs else args[-1] if args else None
    try:
        return last if hasattr(last, "get_remaining_time_in_millis") else None
    except Exception:
        # A proxy such as Flask's `request` raises where there is nothing behind it; it is the function's to meet.
        return None


def recognise(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Invocation | None:
    """The invocation that these arguments belong to, if Lambda made it."""
    context = context_of(args, kwargs)
    if context is None:
        return None
    before = args if "context" in kwargs else args[:-1]
    event = before[-1] if before and "event" not in kwargs else kwargs.get("event")
    left = context.get_remaining_time_in_millis()
    request_id = getattr(context, "aws_request_id", None)
    deadline = None
    # Users' own tests pass a Mock, whose every attribute is another.
    if isinstance(left, (int, float)):
        remaining = max(left / 1000, 0.0)
        deadline = CLOCK.monotonic() + remaining - reserve(remaining)
    if not isinstance(request_id, str):
        request_id = None
    return Invocation("aws_lambda", request_id, deadline, event, context, exclusive=under_runtime())


def under_runtime() -> bool:
    """Whether Lambda's runtime client runs this process."""
    return "AWS_LAMBDA_RUNTIME_API" in os.environ


def initialising() -> bool:
    """Whether network work may be begun now, ahead of the first invocation.

    Not before a SnapStart snapshot: what is opened then would be restored dead, in every copy.
    """
    return under_runtime() and os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start"


def when_snapshotted(fn: Callable[[], object]) -> bool:
    """Run `fn` before a SnapStart snapshot is taken; False where there are none."""
    return _register("register_before_snapshot", fn)


def when_restored(fn: Callable[[], object]) -> bool:
    """Run `fn` after a snapshot was restored; False where there are none."""
    return _register("register_after_restore", fn)


def _register(hook: str, fn: Callable[[], object]) -> bool:
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") != "snap-start":
        return False
    try:
        # Part of the managed runtime; nowhere else.
        import snapshot_restore_py
    except ImportError:
        return False
    getattr(snapshot_restore_py, hook)(fn)
    return True
