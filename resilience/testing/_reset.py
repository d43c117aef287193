"""What a test leaves behind in the process, and how to be rid of it."""

from __future__ import annotations

__all__ = ["reset"]


def reset() -> None:
    """Forget the breakers, rate gates, budgets and quotas of this process, so that one test does not reach another.

    Functions decorated before start anew, too. Connections stay open.
    """
    from resilience.decorators import _retrying, circuit_breaker

    circuit_breaker.forget_all()
    _retrying.forget_all()
