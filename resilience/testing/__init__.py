"""What users test with, and we: a real API with faults, a network with distance, the real Lambda runtime client.

Needs the extra `demo` (`pip install 'serverless-resilience[demo]'`). Every name is loaded at its first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resilience.testing._reset import reset
    from resilience.testing.clocks import FakeClock
    from resilience.testing.faults import MIXED, Fault
    from resilience.testing.faulty_api import FaultyAPI
    from resilience.testing.lambda_context import LambdaContext
    from resilience.testing.lambda_runtime import LambdaRuntime
    from resilience.testing.relay import Relay

__all__ = ["MIXED", "FakeClock", "Fault", "FaultyAPI", "LambdaContext", "LambdaRuntime", "Relay", "reset"]

_HOMES = {
    "MIXED": "faults",
    "FakeClock": "clocks",
    "Fault": "faults",
    "FaultyAPI": "faulty_api",
    "LambdaContext": "lambda_context",
    "LambdaRuntime": "lambda_runtime",
    "Relay": "relay",
    "reset": "_reset",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
