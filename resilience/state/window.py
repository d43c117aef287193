"""Counts over the last seconds, in a ring of buckets."""

from __future__ import annotations

from resilience.core.clock import CLOCK, Instant

__all__ = ["Window"]


class Window:
    """Several counts side by side, each over a sliding time.

    seconds: how far back it looks, > 0. kinds: how many counts there are. buckets: how finely time is cut, >= 2; what
    happened is forgotten when it is between `seconds - seconds / buckets` and `seconds` old.

    What changes: the buckets, their sums, and when the newest bucket began. Nothing here guards them: the lock of
    whoever owns the window does.
    """

    __slots__ = ("_began", "_newest", "_ring", "_sums", "width")

    def __init__(self, seconds: float, kinds: int, buckets: int = 20) -> None:
        #: Seconds that one bucket spans.
        self.width = seconds / buckets
        self._ring = [[0] * kinds for _ in range(buckets)]
        self._sums = [0] * kinds
        self._newest = 0
        self._began = CLOCK.now()

    def add(self, *counts: int) -> None:
        """Add one number for each kind, now."""
        self.advance()
        self.put(*counts)

    def put(self, *counts: int) -> None:
        """Add to the newest bucket as it stands: what happened before the clock was last looked at."""
        bucket = self._ring[self._newest]
        for kind, count in enumerate(counts):
            bucket[kind] += count
            self._sums[kind] += count

    def totals(self) -> tuple[int, ...]:
        """The sum of each kind over the time that the window looks back."""
        self.advance()
        return tuple(self._sums)

    @property
    def ends(self) -> float:
        """When the newest bucket ends, by the monotonic clock."""
        return self._began.monotonic + self.width

    def clear(self) -> None:
        """Forget everything."""
        for bucket in self._ring:
            bucket[:] = [0] * len(bucket)
        self._sums = [0] * len(self._sums)

    def advance(self) -> None:
        """Forget what has become too old, by either clock."""
        age = CLOCK.since(self._began)
        if age < self.width:
            return
        steps = int(age // self.width)
        for _ in range(min(steps, len(self._ring))):
            self._newest = (self._newest + 1) % len(self._ring)
            bucket = self._ring[self._newest]
            for kind, count in enumerate(bucket):
                self._sums[kind] -= count
                bucket[kind] = 0
        # Begun at the same distance from now by both clocks: were one of them left ahead, no bucket would end until the
        # other had caught up.
        now, rest = CLOCK.now(), max(age - steps * self.width, 0.0)
        self._began = Instant(now.monotonic - rest, now.wall - rest)
