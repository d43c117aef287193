"""A stand-in for the context object that AWS Lambda hands to a handler."""

from __future__ import annotations

import os
from typing import Any

from resilience.core.clock import CLOCK
from resilience.core.settings import Settings

__all__ = ["LambdaContext"]


class LambdaContext:
    """As the Lambda Developer Guide describes it ("Using the Lambda context object").

    remaining: seconds until the deadline, from 0 to 900, counted down by the wall clock of `resilience` (so that
        `FakeClock` moves it).
    attributes: any of the others, in place of the usual: `aws_request_id`, `function_name`, `client_context` …
    """

    function_name = "function"
    function_version = "$LATEST"
    memory_limit_in_mb = "512"
    log_group_name = "/aws/lambda/function"
    log_stream_name = "2026/01/01/[$LATEST]0123456789abcdef"
    tenant_id: str | None = None
    identity: Any = None
    client_context: Any = None

    def __init__(self, *, remaining: float = 30.0, **attributes: Any) -> None:
        Settings("LambdaContext").number("remaining", remaining, most=900.0)
        self._deadline = CLOCK.wall() + remaining
        self.aws_request_id = os.urandom(16).hex()
        for name, value in attributes.items():
            if not hasattr(self, name):
                raise TypeError(f"LambdaContext: {name}={value!r} is not an attribute of the context")
            setattr(self, name, value)

    @property
    def invoked_function_arn(self) -> str:
        """The ARN by which the function was invoked."""
        return f"arn:aws:lambda:us-east-1:123456789012:function:{self.function_name}"

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is ended, never negative."""
        return max(int((self._deadline - CLOCK.wall()) * 1000), 0)
