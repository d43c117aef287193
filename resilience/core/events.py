"""What happened, told to whoever listens.

`LISTENERS` is empty until someone calls `listen`; code that has something to tell asks `if events.LISTENERS:` first, so
that an event that nobody wants is not even made, nor its class loaded. No event holds a credential, a header or a body.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilience.core._event_types import (
        AttemptFailed,
        CallFinished,
        CircuitChanged,
        CircuitRejected,
        ColdStart,
        ConnectionOpened,
        ConnectionRetired,
        CredentialRefreshed,
        Event,
        RateLimited,
        RetryGivenUp,
        RetryScheduled,
        StoreDegraded,
        WarmedUp,
    )

__all__ = [
    "AttemptFailed",
    "CallFinished",
    "CircuitChanged",
    "CircuitRejected",
    "ColdStart",
    "ConnectionOpened",
    "ConnectionRetired",
    "CredentialRefreshed",
    "Event",
    "RateLimited",
    "RetryGivenUp",
    "RetryScheduled",
    "StoreDegraded",
    "WarmedUp",
    "emit",
    "listen",
]

_log = logging.getLogger("resilience")

Listener = Callable[[Any], object]

#: What changes: replaced whole under `_lock`, so that a reader needs none.
LISTENERS: tuple[tuple[Listener, tuple[type[Event], ...]], ...] = ()
_lock = threading.Lock()


def _after_fork() -> None:
    # Another thread of the parent may have held it.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def listen(fn: Listener, *types: type[Event]) -> Callable[[], None]:
    """Call `fn(event)` for each event of `types` (none named: for all); returns a function that ends it.

    `fn` is called on the thread where the event happened and should be quick. An exception that it raises is logged and
    goes no further.
    """
    global LISTENERS
    from resilience.core import _event_types

    entry = (fn, types or (_event_types.Event,))
    with _lock:
        LISTENERS = (*LISTENERS, entry)

    def stop() -> None:
        global LISTENERS
        with _lock:
            LISTENERS = tuple(e for e in LISTENERS if e is not entry)

    return stop


def emit(event: Event) -> None:
    """Tell all who listen for this kind of event."""
    for fn, types in LISTENERS:
        if isinstance(event, types):
            try:
                fn(event)
            except Exception:
                _log.exception("a listener failed on %s", type(event).__name__)


def __getattr__(name: str) -> Any:
    # The classes, at their first use.
    from resilience.core import _event_types

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(_event_types, name)
    return value
