"""What answers in the place of a dependency that is down: `fallback=` and `stale_if_error=`."""

from __future__ import annotations

import copy
import threading
from typing import Any

from resilience.core.call import Call
from resilience.core.clock import CLOCK, Instant
from resilience.core.errors import CircuitOpen
from resilience.core.outcome import OK, of_error
from resilience.core.policy import AsyncProceed, Proceed
from resilience.decorators._breaking import NOTHING

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


def _answer(call: Call, value: Any) -> None:
    call.result, call.error, call.outcome = value, None, OK


def _fail(call: Call, error: Exception) -> None:
    call.result, call.error, call.outcome = None, error, of_error(error)


def _key(call: Call) -> str | None:
    """The arguments as text, the platform's context left out; None where they can't be told apart for sure."""
    import json

    args = [a for a in call.args if a is not call.invocation.context or a is None]
    kwargs = {k: v for k, v in call.kwargs.items() if k not in ("context", "session")}
    try:
        return json.dumps([args, kwargs], sort_keys=True)
    except (TypeError, ValueError):
        return None
