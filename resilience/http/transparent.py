"""The one choke point: `requests.adapters.HTTPAdapter.send`, through which every request of `requests` goes.

Outside a call it does what it always did. It is patched at the first call that needs it, looked at again at each call,
and laid over whatever stands there then: a tracer's wrapper or a mock below ours still sees every attempt. A patch of
somebody else's that was laid over ours is left where it is.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

from resilience.core.call import find
from resilience.http.sockets import ATTEMPT

__all__ = ["install"]

_lock = threading.Lock()


class _Nothing:
    """Stands for `HTTPAdapter` until requests is loaded."""

    send: Any = None


#: `requests.adapters.HTTPAdapter`, and our choke point on it. What changes: set by `_install`, under `_lock`.
_stock: Any = _Nothing
_ours: Any = _Nothing


def install() -> None:
    """Make sure that requests made in a call are seen. Imports requests at the first time."""
    if _stock.send is not _ours:
        _install()


def _install() -> None:
    global _stock, _ours
    # A third of a second without .pyc files: not before a call needs it.
    from requests.adapters import HTTPAdapter

    with _lock:
        _stock = HTTPAdapter
        _lay_over(HTTPAdapter)
        _ours = HTTPAdapter.send


def _lay_over(adapter_class: Any) -> None:
    below = adapter_class.send
    layer, seen = below, 0
    while layer is not None and seen < 20:
        if hasattr(layer, "_resilience_original"):
            # Somebody's own patch stands over ours.
            return
        layer, seen = getattr(layer, "__wrapped__", None), seen + 1
    adapter_class.send = _choke_point(adapter_class, below)


def _choke_point(adapter_class: Any, below: Any) -> Any:
    @functools.wraps(below)
    def send(self: Any, request: Any, *args: Any, **options: Any) -> Any:
        # Subclasses are the user's own adapters (or ours, on its way down): none of our business.
        if type(self) is not adapter_class or args or self.max_retries.total or ATTEMPT.get() is not None:
            return below(self, request, *args, **options)
        call = find()
        if call is None or call.path is None or not call.path.transparent:
            return below(self, request, *args, **options)
        return call.path.send(call, self, request, options)

    send._resilience_original = below  # type: ignore[attr-defined]
    return send
