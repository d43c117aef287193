"""The one choke point: `requests.adapters.HTTPAdapter.send`, through which every request of `requests` goes.

Outside a call it does what it always did. It is patched at the first call that needs it, looked at again at each call,
and laid over whatever stands there then: a tracer's wrapper or a mock, put in before or after ours, is then below and
sees every attempt once.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any

from resilience.core.call import find
from resilience.http.sockets import ATTEMPT

__all__ = ["install", "is_mocked"]

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


def is_mocked() -> bool:
    """Whether something other than requests' own `send` lies at the bottom, so that no socket of ours need be used."""
    from requests.adapters import HTTPAdapter

    layer: Any = HTTPAdapter.send
    while (below := getattr(layer, "__wrapped__", None)) is not None:
        layer = below
    code = getattr(layer, "__code__", None)
    # By file: a mock with `autospec` has the name and the module of what it stands for.
    return code is None or code.co_filename != HTTPAdapter.build_response.__code__.co_filename


def _install() -> None:
    global _stock, _ours
    # A third of a second without .pyc files: not before a call needs it.
    from requests.adapters import HTTPAdapter

    with _lock:
        _stock = HTTPAdapter
        standing: Any = HTTPAdapter.__dict__["send"]
        # Whose own it is: a wrapper made with functools.wraps has the attributes of what it wraps.
        if getattr(standing, "_resilience_self", None) is not standing:
            HTTPAdapter.send = _choke_point(HTTPAdapter, _callable(HTTPAdapter, standing))  # type: ignore[method-assign]
        _ours = HTTPAdapter.send


def _callable(adapter_class: Any, standing: Any) -> Any:
    """What stands there, to be called with the adapter first."""
    if hasattr(type(standing), "__get__"):
        # By the class: wrapt tells its wrappers the instance only if they were looked up.
        return adapter_class.send
    # A Mock, which is called without.
    return lambda self, *args, **options: standing(*args, **options)


def _choke_point(adapter_class: Any, below: Any) -> Any:
    # Without its attributes: those of a Mock are of no use here.
    @functools.wraps(below, updated=())
    def send(self: Any, request: Any, *args: Any, **options: Any) -> Any:
        # Subclasses are the user's own adapters (or ours, on its way down): none of our business.
        if type(self) is not adapter_class or args or self.max_retries.total != 0 or ATTEMPT.get() is not None:
            return below(self, request, *args, **options)
        call = find()
        if call is None or call.path is None or not call.path.transparent:
            return below(self, request, *args, **options)
        return call.path.send(call, self, request, options)

    send._resilience_self = send  # type: ignore[attr-defined]
    return send


def _after_fork() -> None:
    # Another thread of the parent may have held it.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
