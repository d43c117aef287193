"""How `@circuit_breaker` acts on a call or a request. No lock is held while what it guards runs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from resilience.core.call import Call, Guarded
from resilience.core.clock import CLOCK
from resilience.core.errors import CircuitOpen, ResilienceError
from resilience.core.outcome import OK, Meaning, Outcome, of_error
from resilience.core.policy import AsyncProceed, Proceed

if TYPE_CHECKING:
    from resilience.decorators.circuit_breaker import BreakerPolicy
    from resilience.state.breaker import Breaker

__all__ = ["NOTHING", "BreakerGuard"]

_log = logging.getLogger("resilience")


class _Nothing:
    """A setting that was not given, where None may be meant."""

    def __repr__(self) -> str:
        return "nothing"


NOTHING: Any = _Nothing()


class BreakerGuard:
    """The guard of one policy, under one name. Immutable."""

    def __init__(self, policy: BreakerPolicy, name: str | None, *, guards: bool = True, rescue: Any = None) -> None:
        self._policy = policy
        self._name = name
        self._guards = guards
        self._rescue = rescue

    def bind(self, proceed: Proceed) -> Proceed:
        """`proceed`, asked only while the breaker lets it through."""
        if self._guards:
            proceed = self._guarded(proceed)
        return proceed if self._rescue is None else self._rescue.bind(proceed)

    def bind_async(self, proceed: AsyncProceed) -> AsyncProceed:
        """The same for `async def`."""
        if self._guards:
            proceed = self._guarded_async(proceed)
        return proceed if self._rescue is None else self._rescue.bind_async(proceed)

    def _guarded(self, proceed: Proceed) -> Proceed:
        name, known, make, settle = self._name, self._policy.known, self._policy.breaker, self._settle
        plain = self._policy.counts is None

        def guarded(unit: Guarded) -> None:
            breaker = known.get(name or unit.dependency) or make(name or unit.dependency)
            permit = breaker.ask()
            if isinstance(permit, CircuitOpen):
                unit.error, unit.outcome = permit, _REJECTED
                return
            started = CLOCK.monotonic() if breaker.needs_elapsed else 0.0
            try:
                proceed(unit)
            except BaseException:
                breaker.release(permit)
                raise
            if unit.outcome is OK and plain and unit.endings is None and not started:
                breaker.success(permit)
            else:
                settle(unit, breaker, permit, started)

        return guarded

    def _guarded_async(self, proceed: AsyncProceed) -> AsyncProceed:
        name, known, make, settle = self._name, self._policy.known, self._policy.breaker, self._settle
        plain = self._policy.counts is None

        async def guarded(unit: Guarded) -> None:
            breaker = known.get(name or unit.dependency) or make(name or unit.dependency)
            permit = breaker.ask()
            if isinstance(permit, CircuitOpen):
                unit.error, unit.outcome = permit, _REJECTED
                return
            started = CLOCK.monotonic() if breaker.needs_elapsed else 0.0
            try:
                await proceed(unit)
            except BaseException:
                breaker.release(permit)
                raise
            if unit.outcome is OK and plain and unit.endings is None and not started:
                breaker.success(permit)
            else:
                settle(unit, breaker, permit, started)

        return guarded

    # ---- what the end of an attempt says of the dependency

    def _settle(self, unit: Guarded, breaker: Breaker, permit: Any, started: float) -> None:
        if unit.endings is None:
            elapsed = CLOCK.monotonic() - started if started else 0.0
            self._record(unit, breaker, permit, unit.outcome, unit.error, elapsed)
            return

        # A stream: the permit is kept until it has ended.
        def ended(outcome: Outcome, error: BaseException | None) -> None:
            elapsed = CLOCK.monotonic() - started if started else 0.0
            self._record(unit, breaker, permit, outcome, error, elapsed)

        unit.endings.append(ended)

    def _record(
        self,
        unit: Guarded,
        breaker: Breaker,
        permit: Any,
        outcome: Outcome,
        error: BaseException | None,
        elapsed: float,
    ) -> None:
        verdict = self._verdict(unit, outcome, error)
        if verdict is None and outcome.status == 503 and breaker.state == "half-open":
            # Asking for a pause is no failure, but a probe that is sent away has not found it well.
            verdict = False
        if verdict is None:
            breaker.release(permit)
        elif verdict:
            breaker.success(permit, elapsed)
        else:
            hint = outcome.retry_after if outcome.status == 503 else None
            breaker.failure(permit, error, hint, elapsed)

    def _verdict(self, unit: Guarded, outcome: Outcome, error: BaseException | None) -> bool | None:
        """True: a success; False: a failure; None: says nothing."""
        if outcome.meaning is Meaning.CANCELLED or self._is_settled(outcome, error):
            return None
        # What became of requests that were judged one by one is no news to a predicate.
        judged = isinstance(unit, Call) and unit.guarded and self._policy.scope != "call"
        if self._policy.counts is not None and not judged:
            try:
                return self._by_counts(unit, outcome, error)
            except Exception:
                _log.exception("circuit_breaker: counts=%r failed; the outcome table decides", self._policy.counts)
        if outcome.meaning is Meaning.OK:
            return True
        if outcome.failure or (outcome.meaning is Meaning.UNKNOWN and unit.unknown_fails):
            return False
        return None

    def _is_settled(self, outcome: Outcome, error: BaseException | None) -> bool:
        """Whether this end was counted where it happened."""
        return outcome.guarded and (self._policy.scope != "call" or isinstance(error, ResilienceError))

    def _by_counts(self, unit: Guarded, outcome: Outcome, error: BaseException | None) -> bool | None:
        counts = self._policy.counts
        if isinstance(counts, tuple):
            fails = isinstance(error, counts)
        else:
            assert counts is not None
            fails = bool(counts(unit.result if error is None else error))
        return False if fails else (True if outcome.meaning is Meaning.OK else None)


#: All rejections mean the same, so it is worked out once.
_REJECTED = of_error(CircuitOpen(""))
