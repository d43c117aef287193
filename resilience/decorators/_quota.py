"""`limit="60/minute"`: a quota of one's own, kept by the library `limits` (an extra, imported at first use)."""

from __future__ import annotations

from typing import Any

from resilience.core.clock import CLOCK
from resilience.core.errors import ConfigurationError
from resilience.core.settings import Settings
from resilience.state._fork import renew_in_child

__all__ = ["Quota", "check_limit"]


def check_limit(check: Settings, limit: Any) -> None:
    """Raise `ConfigurationError` unless `limits` is there and understands `limit`."""
    try:
        import limits
    except ImportError as error:
        raise ConfigurationError(
            f"{check.decorator}: limit={limit!r} needs the library limits: pip install 'serverless-resilience[limits]'"
        ) from error
    try:
        # None at all would be waited for without an end.
        if not isinstance(limit, str) or [item.amount > 0 for item in limits.parse_many(limit)] != [True]:
            raise ValueError(limit)
    except ValueError as error:
        raise check.wrong("limit", limit, 'a quota such as "60/minute" or "10 per second"') from error


class Quota:
    """How often a dependency may be asked. What changes: the counts, inside `limits`, which locks for itself."""

    def __init__(self, limit: str, dependency: str) -> None:
        import limits
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter

        self._item = limits.parse(limit)
        self._dependency = dependency
        self._storage = MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._storage)
        renew_in_child(self)

    def take(self) -> float:
        """Seconds to wait before asking again; 0.0: one was taken."""
        if self._limiter.hit(self._item, self._dependency):
            return 0.0
        stats = self._limiter.get_window_stats(self._item, self._dependency)
        # `limits` reckons by the wall clock.
        return max(stats.reset_time - CLOCK.wall(), 0.001)

    def _renew(self) -> None:
        # A thread of the parent may have held one; each is made anew when it is asked for.
        getattr(self._storage, "locks", {}).clear()
