"""What an event and a context mean on each platform; one module a platform, asked in turn."""

from __future__ import annotations

from typing import Any

from resilience.core.call import PLAIN, Invocation
from resilience.platforms import aws_lambda
from resilience.platforms.aws_lambda import when_restored, when_snapshotted

__all__ = ["drives", "initialising", "only_calls_functions", "recognise", "when_restored", "when_snapshotted"]


def recognise(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Invocation:
    """What the platform handed us with these arguments; `PLAIN` if no platform did."""
    return aws_lambda.recognise(args, kwargs) or PLAIN


def only_calls_functions() -> bool:
    """Whether the runtime of this process can't await."""
    return aws_lambda.under_runtime()


def drives(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether these are the arguments of a handler that such a runtime calls."""
    return aws_lambda.context_of(args, kwargs) is not None


def initialising() -> bool:
    """Whether this is the platform's init phase, in which something may be got ready on the platform's time."""
    return aws_lambda.initialising()
