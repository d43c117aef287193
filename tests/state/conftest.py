from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilience.core.clock import CLOCK


class HandClock:
    """Two clocks that go only when told to."""

    def __init__(self) -> None:
        self.mono = 1000.0
        self.epoch = 1_700_000_000.0

    def monotonic(self) -> float:
        return self.mono

    def wall(self) -> float:
        return self.epoch

    def sleep(self, seconds: float) -> None:
        self.tick(seconds)

    async def sleep_async(self, seconds: float) -> None:
        self.tick(seconds)

    def tick(self, seconds: float) -> None:
        self.mono += seconds
        self.epoch += seconds


@pytest.fixture
def clock() -> Iterator[HandClock]:
    hand = HandClock()
    CLOCK.install(hand)
    yield hand
    CLOCK.reset()
