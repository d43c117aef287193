"""tenacity's strategies, asked one question at a time; imported when a first attempt has failed."""

from __future__ import annotations

from typing import Any

import tenacity

from resilience.core.call import Guarded

__all__ = ["Strategies"]


class Strategies:
    """The wait, stop and retry strategies of one policy. Immutable."""

    def __init__(self, attempts: int, base: float, max_wait: float, wait: Any, stop: Any, retry: Any) -> None:
        self._wait = wait or tenacity.wait_random_exponential(multiplier=base, max=max_wait)
        self._stop = stop or tenacity.stop_after_attempt(attempts)
        self._retry = retry
        # Only named by the states, never run.
        self._retrying = tenacity.Retrying()

    def state(self, unit: Guarded, waited: float, since: float) -> tenacity.RetryCallState:
        """What tenacity's strategies look at; made anew for each question, so that no thread shares it."""
        state = tenacity.RetryCallState(retry_object=self._retrying, fn=None, args=(), kwargs={})
        state.attempt_number = unit.attempt
        state.idle_for = waited
        # Its clock starts when it is made; that of `stop_after_delay` started with the first attempt.
        state.start_time -= since
        value = unit.result if unit.error is None else unit.error
        state.outcome = tenacity.Future.construct(unit.attempt, value, unit.error is not None)
        state.outcome_timestamp = state.start_time + since
        return state

    def wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds to wait before the next attempt, hints apart."""
        state.upcoming_sleep = max(float(self._wait(state)), 0.0)
        return state.upcoming_sleep

    def stop(self, state: tenacity.RetryCallState) -> bool:
        """Whether this attempt was the last."""
        return bool(self._stop(state))

    def wanted(self, state: tenacity.RetryCallState) -> bool:
        """Whether the user's own `retry=` wants another."""
        return bool(self._retry(state))
