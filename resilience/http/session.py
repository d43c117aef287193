"""The pool: one adapter with its connections for the life of the process, safe to share by threads and after a fork."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from resilience.core.clock import CLOCK
from resilience.core.outcome import Meaning, of_error
from resilience.http import transparent

if TYPE_CHECKING:
    from resilience.http.adapter import PooledAdapter
    from resilience.http.sockets import Attempt

__all__ = ["Pool", "PoolSettings", "pool_for", "was_sent"]

_log = logging.getLogger("resilience")


class PoolSettings(NamedTuple):
    """What makes two pools different; functions with the same settings share one."""

    connections: int = 10
    maxsize: int = 20
    max_idle: float = 55.0
    timeout: tuple[float, float] = (3.05, 30.0)
    connect_retries: int = 0


class Pool:
    """The connections of one set of settings.

    What changes: the adapter, made once at its first use, under `_lock`; what it holds is its own affair.
    """

    def __init__(self, settings: PoolSettings, *, transparent: bool = True, session: Any = None) -> None:
        self.settings = settings
        self.transparent = transparent
        #: A session of the user's, handed to functions that name one.
        self.given_session = session
        self._adapter: PooledAdapter | None = None

    @property
    def adapter(self) -> PooledAdapter:
        """The adapter; imports requests at the first use."""
        if self._adapter is None:
            from resilience.http.adapter import PooledAdapter

            with _lock:
                if self._adapter is None:
                    s = self.settings
                    self._adapter = PooledAdapter(
                        pool_connections=s.connections,
                        pool_maxsize=s.maxsize,
                        max_idle=s.max_idle,
                        timeout=s.timeout,
                    )
        return self._adapter

    def send(self, request: Any, attempt: Attempt, options: dict[str, Any]) -> Any:
        """One attempt over a pooled connection; where none could be made, up to `connect_retries` more tries at
        once."""
        adapter = self._adapter or self.adapter
        for left in range(self.settings.connect_retries, 0, -1):
            try:
                return adapter.send_attempt(request, attempt=attempt, **options)
            except Exception as error:
                late = attempt.deadline is not None and CLOCK.monotonic() >= attempt.deadline
                sent = was_sent(attempt)
                if sent or late or of_error(error, sent=sent).meaning is not Meaning.UNREACHABLE:
                    raise
                _log.debug("no connection, %d tries left: %s", left, type(error).__name__)
        return adapter.send_attempt(request, attempt=attempt, **options)

    def warm(self, url: str, count: int, deadline: float) -> int:
        """Open connections to the host of `url` until `count` stand idle; returns how many were opened.

        deadline: monotonic seconds. Raises what connecting raises.
        """
        return self.adapter.warm(url, count, deadline)

    def retire_all(self, why: str, host: str | None = None) -> None:
        """Close every idle connection, to `host` or to all; those in use are closed when they come back."""
        if self._adapter is not None:
            self._adapter.retire_all(why, host)


def was_sent(attempt: Attempt) -> bool | None:
    """Whether the request of a failed attempt may have reached its peer; None: no connection of ours can tell, since a
    mock, or somebody's own sockets, stood in its place."""
    if attempt.sent:
        return True
    # Loaded by now, if anything was sent.
    from resilience.http.connections import is_replaced

    return None if is_replaced() or transparent.is_mocked() else False


#: By settings. What changes: one entry a set of settings, under `_lock`.
_pools: dict[PoolSettings, Pool] = {}
#: Held for a dictionary access, or to make an adapter.
_lock = threading.Lock()


def pool_for(settings: PoolSettings) -> Pool:
    """The process's pool with these settings."""
    with _lock:
        return _pools.setdefault(settings, Pool(settings))


def _after_fork() -> None:
    # Another thread of the parent may have held it.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
