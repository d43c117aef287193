"""What the decorators share: taking a function bare or settings first, and their place in the pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from resilience import platforms
from resilience.core.errors import ConfigurationError
from resilience.core.policy import Policy
from resilience.core.settings import Settings
from resilience.core.wrappers import decorate

__all__ = ["F", "apply", "check_scope"]

F = TypeVar("F", bound=Callable[..., Any])


def apply(policy: Policy, fn: Any) -> Any:
    """`fn` decorated, or, where there is none yet, the decorator."""
    if fn is None:

        def decorator(decorated: Any) -> Any:
            # One decorator, made once, may be put on several functions.
            return decorate(decorated, policy.for_another(), platforms)

        # So that `resilient` can tell one from a function to decorate.
        decorator._is_resilience = True  # type: ignore[attr-defined]
        return decorator
    if not callable(fn) and not isinstance(fn, (classmethod, staticmethod)):
        raise ConfigurationError(f"@{policy.kind} takes its settings by keyword only, not {fn!r}")
    return decorate(fn, policy, platforms)


def check_scope(check: Settings, scope: Any) -> None:
    """What a guard stands around."""
    check.choice("scope", scope, ("auto", "call", "request"))
