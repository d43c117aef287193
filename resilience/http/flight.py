"""One refresh under way, which any number of threads and tasks wait for."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from resilience.core.clock import CLOCK
from resilience.core.errors import CredentialUnavailable, DeadlineExceeded

if TYPE_CHECKING:
    import asyncio

    from resilience.http.credential import Credential

__all__ = ["PATIENCE", "Flight", "run_awaitable"]

#: Seconds after which nobody waits for a refresh any more, and the next to come begins another: it may have been frozen
#: with the process, its socket long dead.
PATIENCE = 30.0


class Flight:
    """A refresh and its result.

    What changes: `credential` or `error`, set once by whoever runs it, before `_done`; `joined`, how many joined it,
    and `renewing`, whether one of them had a credential refused, guarded by the source's lock; `_callbacks`, guarded
    by `_lock`.
    """

    def __init__(self, source: str, why: str) -> None:
        self.source = source
        self.why = why
        self.credential: Credential | None = None
        self.error: BaseException | None = None
        self.joined = 0
        self.renewing = False
        self._begun = CLOCK.now()
        self._pid = os.getpid()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    def is_alive(self) -> bool:
        """Whether there is something to wait for: it was not begun before a fork, nor too long ago."""
        return self._pid == os.getpid() and CLOCK.since(self._begun) < PATIENCE

    def land(self) -> None:
        """The result is there."""
        with self._lock:
            self._done.set()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def wait(self, deadline: float | None) -> Credential:
        """The result; waits until `deadline` (monotonic seconds), and PATIENCE at most."""
        left = _time_left(deadline)
        if not self._done.wait(left):
            raise self._too_late(left)
        return self._result()

    async def wait_async(self, deadline: float | None) -> Credential:
        """As `wait`, without a thread."""
        # Whoever awaits has it loaded.
        import asyncio

        loop = asyncio.get_running_loop()
        landed: asyncio.Future[None] = loop.create_future()

        def arrive() -> None:
            if not landed.done():
                landed.set_result(None)

        def tell() -> None:
            # A loop that was closed has nobody waiting any more.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(arrive)

        left = _time_left(deadline)
        with self._lock:
            if self._done.is_set():
                return self._result()
            self._callbacks.append(tell)
        try:
            await asyncio.wait_for(landed, left)
        except TimeoutError:
            raise self._too_late(left) from None
        return self._result()

    def _result(self) -> Credential:
        if self.credential is not None:
            return self.credential
        assert self.error is not None
        # One for each who waits: a shared exception would gather the tracebacks of all.
        raise CredentialUnavailable(self._failure(self.error)) from self.error

    def _failure(self, error: BaseException) -> str:
        # Of other errors only the name: who knows what their text holds.
        text = (
            str(error) if isinstance(error, CredentialUnavailable) else f"the provider failed: {type(error).__name__}"
        )
        return text if text.startswith(self.source) else f"{self.source}: {text}"

    def _too_late(self, waited: float) -> Exception:
        if waited < PATIENCE:
            return DeadlineExceeded(f"{self.source}: no credential before the deadline")
        return CredentialUnavailable(f"{self.source}: no answer in {PATIENCE:g} s")


def _time_left(deadline: float | None) -> float:
    return PATIENCE if deadline is None else min(max(deadline - CLOCK.monotonic(), 0.0), PATIENCE)


#: The loop on which async providers run, and the process it belongs to. What changes: made at first use and after a
#: fork; `_loop_lock` guards it.
_loop: tuple[int, asyncio.AbstractEventLoop] | None = None
#: Loops of the parent of a fork: closing them would close what the parent still uses.
_abandoned: list[asyncio.AbstractEventLoop] = []
_loop_lock = threading.Lock()


def run_awaitable(awaitable: Awaitable[Any], timeout: float) -> Any:
    """The result of `awaitable`, run on a loop of our own: never that of a caller, who may be blocking it."""
    # 47 ms, for async providers only.
    import asyncio

    async def finish() -> Any:
        return await asyncio.wait_for(awaitable, timeout)

    loop = _background_loop()
    return asyncio.run_coroutine_threadsafe(finish(), loop).result()


def _background_loop() -> asyncio.AbstractEventLoop:
    """One loop for the life of the process: clients that a provider keeps are bound to the loop they were made on."""
    global _loop
    import asyncio

    with _loop_lock:
        if _loop is None or _loop[0] != os.getpid():
            if _loop is not None:
                _abandoned.append(_loop[1])
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="resilience-credential-loop", daemon=True).start()
            _loop = (os.getpid(), loop)
        return _loop[1]


def _after_fork() -> None:
    global _loop_lock
    _loop_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
