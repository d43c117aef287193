"""One event loop for the life of the process, for runtimes that only call functions.

Clients that an `async def` handler keeps between calls (an `httpx.AsyncClient`, an aiohttp session) are bound to the
loop they were made on: a new loop for each call, as `asyncio.run` makes, would leave them dead.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from typing import Any

__all__ = ["run"]

#: What changes: made at the first run, again after a fork or where the user closed it; `_lock` guards it.
_loop: asyncio.AbstractEventLoop | None = None
_pid = 0
#: Loops of the parent of a fork: collecting one closes it, and takes out of the epoll set that both share what the
#: parent waits for.
_abandoned: list[asyncio.AbstractEventLoop] = []
_lock = threading.Lock()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run it to its end on the process's loop; on a loop of this thread's own where that one is busy."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        # Somebody here can await: it is theirs to run.
        return coroutine
    if not _lock.acquire(blocking=False):
        return asyncio.run(coroutine)
    try:
        return _running_loop().run_until_complete(coroutine)
    finally:
        _lock.release()


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop, _pid
    if _loop is None or _loop.is_closed() or _pid != os.getpid():
        if _loop is not None and _pid != os.getpid():
            _abandoned.append(_loop)
        _loop = asyncio.new_event_loop()
        _pid = os.getpid()
    asyncio.set_event_loop(_loop)
    return _loop


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
