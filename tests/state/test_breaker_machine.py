"""The breaker against a model that a person can check by reading."""

from __future__ import annotations

import random
from typing import Any
from unittest import mock

import pybreaker
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from resilience.core import events
from resilience.core.clock import CLOCK
from resilience.core.errors import CircuitOpen
from resilience.state.breaker import Breaker, BreakerSettings, Permit

LEASE = 30.0


class Time:
    """Two clocks in whole seconds, so that nothing hangs on a rounding."""

    def __init__(self) -> None:
        self.mono, self.epoch = 0.0, 1_700_000_000.0
        self.monotonic, self.wall = (lambda: self.mono), (lambda: self.epoch)
        self.sleep = self.sleep_async = None


class BreakerAgainstModel(RuleBasedStateMachine):
    """State, time left, and permits: everything that a caller can see."""

    @initialize(
        fail_max=st.integers(1, 3), threshold=st.integers(1, 2), at_once=st.integers(1, 2), stored=st.booleans()
    )
    def begin(self, fail_max: int, threshold: int, at_once: int, stored: bool) -> None:
        self.time = Time()
        CLOCK.install(self.time)
        # Without jitter, what is expected is one number.
        self.calm = mock.patch.object(random, "uniform", return_value=1.0)
        self.calm.start()
        self.heard: list[Any] = []
        self.stop = events.listen(self.heard.append, events.CircuitChanged)
        self.fail_max, self.threshold, self.at_once = fail_max, threshold, at_once
        self.real = Breaker(
            "dep",
            BreakerSettings(
                fail_max=fail_max,
                reset_timeout=10,
                max_reset_timeout=35,
                success_threshold=threshold,
                half_open_calls=at_once,
                storage=pybreaker.CircuitMemoryStorage("closed") if stored else None,
            ),
        )
        self.state, self.failures, self.successes = "closed", 0, 0
        self.open_for = self.backoff = 10.0
        self.opened = (0.0, 0.0)
        self.generation = 0
        # Of each permit out: its generation, and when it was given.
        self.out: dict[Permit | int, tuple[Permit, int, tuple[float, float]]] = {}
        self.serial = 0

    def teardown(self) -> None:
        CLOCK.reset()
        if hasattr(self, "calm"):
            self.calm.stop()
            self.stop()

    # --- the model ---

    def age(self, of: tuple[float, float]) -> float:
        return max(self.time.mono - of[0], self.time.epoch - of[1], 0.0)

    def now(self) -> tuple[float, float]:
        return self.time.mono, self.time.epoch

    def go(self, state: str, open_for: float = 10.0) -> None:
        if state == "closed":
            self.failures, self.backoff = 0, 10.0
        self.state, self.successes, self.opened, self.open_for = state, 0, self.now(), open_for
        self.generation += 1

    def probing(self) -> int:
        return sum(
            generation == self.generation and self.age(at) < LEASE and permit.probe
            for permit, generation, at in self.out.values()
        )

    def counts(self, permit: Permit, generation: int, at: tuple[float, float]) -> bool:
        return generation == self.generation and (not permit.probe or self.age(at) < LEASE)

    # --- what may happen ---

    @rule()
    def admit(self) -> None:
        if self.state == "open" and self.age(self.opened) >= self.open_for:
            self.go("half-open")
        allowed = self.state == "closed" or (self.state == "half-open" and self.probing() < self.at_once)
        if not allowed:
            with pytest.raises(CircuitOpen) as caught:
                self.real.admit()
            wait = {"open": self.open_for - self.age(self.opened), "half-open": 1.0}.get(self.state)
            assert caught.value.retry_after == pytest.approx(wait)
            return
        permit = self.real.admit()
        assert permit.probe == (self.state == "half-open")
        self.serial += 1
        self.out[self.serial] = (permit, self.generation, self.now())

    def one_out(self, data: Any) -> tuple[Permit, int, tuple[float, float]]:
        return self.out.pop(data.draw(st.sampled_from(sorted(self.out))))

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def succeed(self, data: Any) -> None:
        one = self.one_out(data)
        self.real.success(one[0])
        if self.counts(*one):
            self.failures = 0
            if one[0].probe:
                self.successes += 1
                if self.successes >= self.threshold:
                    self.go("closed")

    @precondition(lambda self: self.out)
    @rule(data=st.data(), hint=st.sampled_from([None, None, 3.0, 20.0, 99.0]))
    def fail(self, data: Any, hint: float | None) -> None:
        one = self.one_out(data)
        self.real.failure(one[0], ValueError(), hint)
        if not self.counts(*one):
            return
        hinted = None if hint is None else min(hint, 35.0)
        if one[0].probe:
            self.backoff = min(self.backoff * 2, 35.0)
            self.go("open", hinted or self.backoff)
            return
        self.failures += 1
        if self.failures >= self.fail_max:
            self.backoff = 10.0
            self.go("open", hinted or 10.0)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        self.real.release(self.one_out(data)[0])

    @rule(seconds=st.sampled_from([1, 5, 10, 31]), clocks=st.sampled_from(["both", "both", "mono", "epoch"]))
    def time_passes(self, seconds: int, clocks: str) -> None:
        self.time.mono += seconds * (clocks != "epoch")
        self.time.epoch += seconds * (clocks != "mono")

    @rule(to=st.sampled_from(["open", "close", "half_open", "isolate"]))
    def by_hand(self, to: str) -> None:
        getattr(self.real, to)()
        self.backoff = 10.0
        self.go({"close": "closed", "half_open": "half-open", "isolate": "isolated"}.get(to, to))

    # --- what must hold ---

    @invariant()
    def it_is_where_the_model_is(self) -> None:
        if not hasattr(self, "real"):
            return
        assert self.real.state == self.state
        seen = self.real.counts
        assert seen.successes == self.successes
        if self.state == "closed":
            assert seen.failures == self.failures
        left = self.real.peek()
        if self.state == "open":
            assert left == pytest.approx(max(self.open_for - self.age(self.opened), 0.0))
        elif self.state == "half-open":
            assert left == (0.0 if self.probing() < self.at_once else 1.0)
        else:
            assert left is None

    @invariant()
    def pybreaker_and_the_events_tell_the_same(self) -> None:
        if not hasattr(self, "real"):
            return
        assert (self.heard[-1].new if self.heard else "closed") == self.state
        if self.real._machine is not None:
            shown = "open" if self.state == "isolated" else self.state
            assert self.real._machine.cb.current_state == shown


TestBreakerAgainstModel = BreakerAgainstModel.TestCase
TestBreakerAgainstModel.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
