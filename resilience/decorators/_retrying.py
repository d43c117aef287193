"""How `@retry_ratelimit` acts on a call or a request: the loop, and the decision after each failed attempt."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from resilience.core import events
from resilience.core.call import Call, Guarded
from resilience.core.clock import CLOCK
from resilience.core.errors import CircuitOpen, RateLimited, ResilienceError
from resilience.core.outcome import OK, Meaning, Outcome, Retry, label, of_error
from resilience.core.policy import AsyncProceed, Proceed
from resilience.state.budget import RetryBudget
from resilience.state.gate import RateGate

if TYPE_CHECKING:
    from resilience.decorators._quota import Quota
    from resilience.decorators._strategies import Strategies
    from resilience.decorators.retry_ratelimit import RetryPolicy

__all__ = ["GivenUp", "RetryGuard"]

_log = logging.getLogger("resilience")
_lock = threading.Lock()
#: One of each a dependency, for the whole process. What changes: entries are added, under `_lock`.
_gates: dict[tuple[str, bool], RateGate] = {}
_budgets: dict[tuple[str, float], RetryBudget] = {}
_quotas: dict[tuple[str, str], Any] = {}
#: All guards that live, which keep what they have found.
_guards: weakref.WeakSet[RetryGuard] = weakref.WeakSet()
_MOST = 1000
#: Seconds. A hint of days, or an absurd one, would close the gate for the life of the process; this often a new call
#: may ask whether it still holds. A retry never comes before its hint, however long.
_CLOSED_AT_MOST = 3600.0


class GivenUp(NamedTuple):
    """Why no further attempt was made; stands on a response as `response.resilience`."""

    why: str
    attempts: int
    waited: float
    retry_after: float | None


class _Shared:
    """What the callers of one dependency share. Immutable."""

    __slots__ = ("budget", "gate", "quota")

    def __init__(self, gate: RateGate, budget: RetryBudget | None, quota: Quota | None) -> None:
        self.gate = gate
        self.budget = budget
        self.quota = quota


_NOTHING = (None, None, OK)


class _Story:
    """One unit's retries. What changes: by the one thread or task that runs it."""

    __slots__ = ("last", "started", "waited")

    def __init__(self, started: float) -> None:
        #: When the first attempt began, which only a strategy of the user's asks.
        self.started = started
        self.waited = 0.0
        #: The last real end (result, error, outcome), while another attempt follows.
        self.last: tuple[Any, BaseException | None, Outcome] = _NOTHING


class RetryGuard:
    """The guard of one policy. What changes: `known`, a cache by dependency, and the strategies, made once."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self.known: dict[str, _Shared] = {}
        self._strategies: Strategies | None = None
        _guards.add(self)

    def _share(self, dependency: str) -> _Shared:
        policy = self._policy
        with _lock:
            for registry in (_gates, _budgets, _quotas, self.known):
                if len(registry) > _MOST:
                    registry.clear()
            gate = _gates.setdefault((dependency, policy.smooth), RateGate(smooth=policy.smooth))
            budget = quota = None
            if policy.budget is not None:
                budget = _budgets.setdefault((dependency, policy.budget), RetryBudget(ratio=policy.budget))
            if policy.limit is not None:
                from resilience.decorators._quota import Quota

                key = (dependency, policy.limit)
                quota = _quotas.get(key) or _quotas.setdefault(key, Quota(policy.limit, dependency))
            shared = self.known[dependency] = _Shared(gate, budget, quota)
        return shared

    # ---- the loops

    def bind(self, proceed: Proceed) -> Proceed:
        """`proceed`, tried again where that is worth it."""
        policy, known = self._policy, self.known
        name, custom = policy.name, policy.retry is not None
        timed = custom or policy.stop is not None or policy.wait is not None

        def retried(unit: Guarded) -> None:
            shared = known.get(name or unit.dependency) or self._share(name or unit.dependency)
            if (shared.gate.closed_until is not None or shared.quota is not None) and not self._wait_turn(unit, shared):
                return
            if shared.budget is not None:
                shared.budget.note_call()
            started = CLOCK.monotonic() if timed else 0.0
            proceed(unit)
            if unit.outcome is OK and not custom:
                return
            if self._is_settled(unit):
                return
            story = _Story(started)
            while (wait := self._after(unit, shared, story)) is not None:
                unit.discard()
                if not self._pause(unit, shared, story, wait):
                    return
                _again(unit)
                proceed(unit)

        return retried

    def bind_async(self, proceed: AsyncProceed) -> AsyncProceed:
        """The same for `async def`."""
        policy, known = self._policy, self.known
        name, custom = policy.name, policy.retry is not None
        timed = custom or policy.stop is not None or policy.wait is not None

        async def retried(unit: Guarded) -> None:
            shared = known.get(name or unit.dependency) or self._share(name or unit.dependency)
            if (shared.gate.closed_until is not None or shared.quota is not None) and not await self._wait_turn_async(
                unit, shared
            ):
                return
            if shared.budget is not None:
                shared.budget.note_call()
            started = CLOCK.monotonic() if timed else 0.0
            await proceed(unit)
            if unit.outcome is OK and not custom:
                return
            if self._is_settled(unit):
                return
            story = _Story(started)
            while (wait := self._after(unit, shared, story)) is not None:
                unit.discard()
                if not await self._pause_async(unit, shared, story, wait):
                    return
                _again(unit)
                await proceed(unit)

        return retried

    def _pause(self, unit: Guarded, shared: _Shared, story: _Story, wait: float) -> bool:
        """Wait for the next attempt; False: there is none, and the unit holds what the caller gets."""
        try:
            CLOCK.sleep(wait)
            if _is_late(unit, 0.0):
                return self._turned_away(unit, story, "deadline")
            return self._wait_turn(unit, shared) or self._turned_away(unit, story, "hint")
        except BaseException:
            _forget(unit, story)
            raise

    async def _pause_async(self, unit: Guarded, shared: _Shared, story: _Story, wait: float) -> bool:
        try:
            await CLOCK.sleep_async(wait)
            if _is_late(unit, 0.0):
                return self._turned_away(unit, story, "deadline")
            return await self._wait_turn_async(unit, shared) or self._turned_away(unit, story, "hint")
        except BaseException:
            _forget(unit, story)
            raise

    def _wait_turn(self, unit: Guarded, shared: _Shared) -> bool:
        """Wait until this dependency may be asked; False: that does not fit, and the unit says so."""
        while (delay := self._turn(unit, shared)) > 0:
            CLOCK.sleep(delay)
        return delay == 0

    async def _wait_turn_async(self, unit: Guarded, shared: _Shared) -> bool:
        while (delay := self._turn(unit, shared)) > 0:
            await CLOCK.sleep_async(delay)
        return delay == 0

    def _turn(self, unit: Guarded, shared: _Shared) -> float:
        """Seconds to wait for the gate and the quota; 0: go; -1: it does not fit."""
        delay, whose = shared.gate.delay(), "its rate limit"
        if delay <= 0 and shared.quota is not None:
            delay, whose = shared.quota.take(), f"limit={self._policy.limit!r}"
        if delay <= 0:
            return 0.0
        late = _is_late(unit, delay)
        if not late and delay <= self._policy.max_retry_after:
            if shared.gate.closed_until is None:
                return delay
            # The hint fits; whether one's own place behind it does, too, is only known when it has been taken.
            delay = max(delay, shared.gate.reserve())
            late = _is_late(unit, delay)
            if not late:
                return delay
        why = f"{whose} ends after the deadline" if late else f"{whose} exceeds max_retry_after"
        unit.result = None
        unit.error = RateLimited(self._policy.name or unit.dependency, delay, why)
        unit.outcome = of_error(unit.error)
        return -1.0

    def _turned_away(self, unit: Guarded, story: _Story, why: str) -> bool:
        """The sleep was long, or another's hint came meanwhile: the last real end is what the caller gets."""
        _restore(unit, story)
        self._give_up(unit, story, why)
        return False

    # ---- the decision

    def _is_settled(self, unit: Guarded) -> bool:
        """Whether this end is that of a request that was guarded by itself, or of a call made of such."""
        if self._policy.scope != "call":
            return unit.outcome.guarded or (unit.outcome is OK and isinstance(unit, Call) and unit.guarded)
        return unit.outcome.guarded and isinstance(unit.error, ResilienceError)

    def _after(self, unit: Guarded, shared: _Shared, story: _Story) -> float | None:
        """Seconds to wait before another attempt; None: this was the last, and the unit holds what the caller gets."""
        outcome = unit.outcome
        if self._is_settled(unit) or outcome.meaning is Meaning.CANCELLED:
            if unit.attempt > 1 and isinstance(unit.error, CircuitOpen):
                # The breaker opened on our own last attempt: what that one met is the news.
                _restore(unit, story)
                self._give_up(unit, story, "circuit")
            return None
        dependency = self._policy.name or unit.dependency
        if outcome is not OK and events.LISTENERS:
            failed = events.AttemptFailed(
                dependency, unit.attempt, outcome.meaning.value, outcome.status, label(unit.error)
            )
            events.emit(failed)
        if outcome.meaning is Meaning.RATE_LIMITED:
            if outcome.retry_after is not None:
                shared.gate.close(min(outcome.retry_after, _CLOSED_AT_MOST))
            if events.LISTENERS:
                events.emit(events.RateLimited(dependency, outcome.retry_after))
        story.last = (unit.result, unit.error, outcome)
        wait = self._decide(unit, shared, story)
        if isinstance(wait, str):
            # The error's traceback leads to the frame that holds the story: each would keep the other alive.
            story.last = _NOTHING
            if wait:
                self._give_up(unit, story, wait)
            return None
        story.waited += wait
        if events.LISTENERS:
            scheduled = events.RetryScheduled(
                dependency, unit.attempt, wait, outcome.retry_after, outcome.meaning.value
            )
            events.emit(scheduled)
        _log.debug("%s: %s, attempt %d in %.2f s", dependency, outcome.meaning.value, unit.attempt + 1, wait)
        return wait

    def _decide(self, unit: Guarded, shared: _Shared, story: _Story) -> float | str:
        """Seconds to wait, or why not; an empty reason where a retry was never in question."""
        policy, outcome = self._policy, unit.outcome
        # Before tenacity is loaded: most of what fails is not to be tried again.
        if policy.retry is None and (refused := self._refused(unit)) is not None:
            # What the deadline has ended would not be tried again either way, and that is the news.
            return "deadline" if refused and _is_late(unit, 0.0) else refused
        strategies = self._strategies or self._load()
        state = strategies.state(unit, story.waited, CLOCK.monotonic() - story.started)
        if policy.retry is not None and not strategies.wanted(state):
            return ""
        if not unit.replayable:
            return "body"
        hint = outcome.retry_after
        wait = strategies.wait(state)
        if hint is not None:
            wait = max(wait, hint)
            state.upcoming_sleep = wait
        if strategies.stop(state):
            return "attempts"
        if hint is not None and hint > policy.max_retry_after:
            return "hint"
        if _is_late(unit, wait):
            return "deadline"
        if shared.budget is not None and not shared.budget.try_spend():
            return "budget"
        if hint is not None and outcome.meaning is Meaning.RATE_LIMITED:
            # Behind those who wait already.
            wait = max(wait, shared.gate.reserve())
            if _is_late(unit, wait):
                return "deadline"
        return wait

    def _refused(self, unit: Guarded) -> str | None:
        """Why an outcome of this meaning is not to be retried; None: it may be."""
        outcome, policy = unit.outcome, self._policy
        if outcome.retry is Retry.ALWAYS:
            return None
        if (
            policy.on
            and isinstance(unit.error, policy.on)
            and (
                # Of a request it is known whether it can be sent twice, and `on=` is for what is not known.
                outcome.retry is Retry.NEVER or isinstance(unit, Call)
            )
        ):
            return None
        if outcome.retry is Retry.NEVER:
            return ""
        safe = unit.idempotent if policy.idempotent is None else policy.idempotent
        return None if safe else "idempotency"

    def _load(self) -> Strategies:
        # tenacity costs 34 ms to import: not before something has failed.
        from resilience.decorators._strategies import Strategies

        p = self._policy
        self._strategies = Strategies(p.attempts, p.base, p.max_wait, p.wait, p.stop, p.retry)
        return self._strategies

    def _give_up(self, unit: Guarded, story: _Story, why: str) -> None:
        dependency = self._policy.name or unit.dependency
        outcome = unit.outcome
        met = f"{outcome.meaning.value} {outcome.status or label(unit.error) or ''}".strip()
        tried = f"after attempt {unit.attempt} ({met}), {story.waited:.1f} s waited"
        said = f"gave up on {dependency} {tried}: {_WHY[why]}"
        if events.LISTENERS:
            given_up = events.RetryGivenUp(dependency, unit.attempt, story.waited, why, outcome.meaning.value)
            events.emit(given_up)
        # Seen by default, on Lambda too, whose client prints no notes. One attempt by choice is no news.
        _log.log(logging.DEBUG if self._policy.attempts == 1 else logging.WARNING, "%s", said)
        error = unit.error
        if error is None:
            try:
                unit.result.resilience = GivenUp(why, unit.attempt, story.waited, outcome.retry_after)
            except Exception:
                _log.debug("a %s can't say why it was the last", type(unit.result).__name__)
            return
        if outcome.meaning is Meaning.RATE_LIMITED and why in ("hint", "deadline") and isinstance(error, Exception):
            unit.error = error = _as_rate_limited(error, dependency, outcome.retry_after, _WHY[why])
        try:
            error.add_note(f"resilience: {said}")
        except Exception:
            # A frozen dataclass, or one that has put something else in the place of its notes.
            _log.debug("a %s takes no note", type(error).__name__)


_WHY = {
    "attempts": "that was the last attempt",
    "deadline": "another would not have ended by the deadline of the call",
    "hint": "it asks for a longer pause than max_retry_after",
    "budget": "the retry budget is spent",
    "idempotency": "it may have been processed and is not idempotent",
    "body": "its body can't be sent again",
    "circuit": "the circuit has opened",
}


def _is_late(unit: Guarded, wait: float) -> bool:
    """Whether the deadline comes before a wait that began now would end."""
    return unit.deadline is not None and CLOCK.monotonic() + wait >= unit.deadline


def _again(unit: Guarded) -> None:
    unit.attempt += 1
    unit.result, unit.error, unit.outcome = None, None, OK


def _restore(unit: Guarded, story: _Story) -> None:
    unit.result, unit.error, unit.outcome = story.last
    story.last = _NOTHING


def _forget(unit: Guarded, story: _Story) -> None:
    """A wait was cancelled: an error holds the frames that hold it, and all of them would outlive the call."""
    unit.error = None
    story.last = _NOTHING


def _as_rate_limited(error: Exception, dependency: str, retry_after: float | None, why: str) -> Exception:
    """The real error, as a `RateLimited` too; as it is, where its class does not allow that."""
    from resilience.core.errors import also

    try:
        kind = also(RateLimited, type(error))
        made: Exception = kind.__new__(kind, *error.args)
        made.__dict__.update(error.__dict__)
        made.args = error.args
        made.__dict__.update(dependency=dependency, retry_after=retry_after, why=why)
    except Exception:
        return error
    made.__cause__ = error
    return made.with_traceback(error.__traceback__)


def forget_all() -> None:
    """Forget what callers share; for tests."""
    with _lock:
        for guard in _guards:
            guard.known.clear()
        _gates.clear()
        _budgets.clear()
        _quotas.clear()


def _after_fork() -> None:
    # Another thread of the parent may have held it.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
