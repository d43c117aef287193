"""What answers in the place of a dependency that is down: `fallback=` and `stale_if_error=`."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

from resilience.core.call import Call
from resilience.core.clock import CLOCK, Instant
from resilience.core.errors import CircuitOpen, ConfigurationError
from resilience.core.kinds import Kind, kind_of
from resilience.core.outcome import OK, of_error
from resilience.core.policy import AsyncProceed, Proceed
from resilience.decorators._breaking import NOTHING
from resilience.state._fork import renew_in_child

if TYPE_CHECKING:
    from resilience.core.pipeline import Pipeline
    from resilience.core.settings import Settings

__all__ = ["Rescue"]

_MOST_ANSWERS = 256


class Rescue:
    """A value or a function to answer with, and the last good answers.

    What changes: the answers kept, under `_lock`.
    """

    def __init__(self, fallback: Any, stale: float | None) -> None:
        self._fallback = fallback
        self._stale = stale
        self._answers: Any = None
        self._lock = threading.Lock()
        renew_in_child(self)

    def check(self, check: Settings, pipeline: Pipeline) -> None:
        """Raise `ConfigurationError` if the function is one that can't await its fallback."""
        awaits = pipeline.kind in (Kind.COROUTINE, Kind.ASYNC_GENERATOR)
        if callable(self._fallback) and kind_of(self._fallback) is Kind.COROUTINE and not awaits:
            raise ConfigurationError(
                f"{check.decorator}: fallback={self._fallback!r} is async, and {pipeline.name} can't await it"
            )

    def bind(self, proceed: Proceed) -> Proceed:
        """`proceed`; where it ends in `CircuitOpen`, an answer in its place."""

        def rescued(call: Call) -> None:
            proceed(call)
            if call.outcome is OK:
                self._keep(call)
            elif isinstance(call.error, CircuitOpen) and not self._answer_stale(call) and self._fallback is not NOTHING:
                try:
                    _answer(call, self._stand_in(call))
                except Exception as error:
                    _fail(call, error)

        return rescued

    def bind_async(self, proceed: AsyncProceed) -> AsyncProceed:
        """The same for `async def`; the fallback may be one, too."""

        async def rescued(call: Call) -> None:
            await proceed(call)
            if call.outcome is OK:
                self._keep(call)
            elif isinstance(call.error, CircuitOpen) and not self._answer_stale(call) and self._fallback is not NOTHING:
                try:
                    answer = self._stand_in(call)
                    _answer(call, await answer if hasattr(answer, "__await__") else answer)
                except Exception as error:
                    _fail(call, error)

        return rescued

    def _stand_in(self, call: Call) -> Any:
        fallback = self._fallback
        return fallback(*call.args, **call.kwargs) if callable(fallback) else copy.deepcopy(fallback)

    # ---- the last good answers

    def _keep(self, call: Call) -> None:
        if self._stale is None or call.endings is not None:
            return
        key = _key(call)
        if key is None:
            return
        try:
            # The caller may change its own.
            answer = copy.deepcopy(call.result)
        except Exception:
            return
        with self._lock:
            if self._answers is None:
                # 6 ms of import, only for those who keep answers.
                from cachetools import TTLCache

                self._answers = TTLCache(_MOST_ANSWERS, self._stale, timer=CLOCK.monotonic)
            self._answers[key] = (CLOCK.now(), answer)

    def _answer_stale(self, call: Call) -> bool:
        key = _key(call) if self._answers is not None else None
        if key is None or self._stale is None:
            return False
        with self._lock:
            kept: tuple[Instant, Any] | None = self._answers.get(key)
        if kept is None or CLOCK.since(kept[0]) >= self._stale:
            return False
        _answer(call, copy.deepcopy(kept[1]))
        return True

    def _renew(self) -> None:
        if self._lock.locked():
            # A thread of the parent was half-way through a change.
            self._answers = None
        self._lock = threading.Lock()


def _answer(call: Call, value: Any) -> None:
    call.result, call.error, call.outcome = value, None, OK


def _fail(call: Call, error: Exception) -> None:
    call.result, call.error, call.outcome = None, error, of_error(error)


def _is_handed(call: Call, value: Any) -> bool:
    """Whether the platform or the pool handed it over, not the caller."""
    # Only a function that names a session has one of ours; for the others none is to be made.
    named = call.pipeline.session_position is not None
    return value is not None and (value is call.invocation.context or (named and value is call.path.session))


def _key(call: Call) -> str | None:
    """The arguments as text, the platform's context left out; None where they can't be told apart for sure."""
    import json

    # An argument that only happens to be called `context` or `session` tells one caller from another.
    args = [a for a in call.args if not _is_handed(call, a)]
    kwargs = {k: v for k, v in call.kwargs.items() if not _is_handed(call, v)}
    try:
        return json.dumps([args, kwargs], sort_keys=True)
    except (TypeError, ValueError):
        return None
