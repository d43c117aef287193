"""A stand-in for the context object that AWS Lambda hands to a handler."""

from __future__ import annotations

import uuid
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

    function_name: str = "function"
    function_version: str = "$LATEST"
    invoked_function_arn: str
    memory_limit_in_mb: str = "512"
    log_group_name: str
    log_stream_name: str = "2026/01/01/[$LATEST]0123456789abcdef"
    tenant_id: str | None = None
    identity: Any = None
    client_context: Any = None

    def __init__(self, *, remaining: float = 30.0, **attributes: Any) -> None:
        Settings("LambdaContext").number("remaining", remaining, most=900.0)
        self._deadline = CLOCK.wall() + remaining
        self.aws_request_id = str(uuid.uuid4())
        name = attributes.get("function_name", self.function_name)
        self.invoked_function_arn = f"arn:aws:lambda:us-east-1:123456789012:function:{name}"
        self.log_group_name = f"/aws/lambda/{name}"
        for name, value in attributes.items():
            if name.startswith("_") or not hasattr(self, name):
                raise TypeError(f"LambdaContext: {name}={value!r} is not an attribute of the context")
            setattr(self, name, value)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the function is ended, never negative."""
        # Rounded: the difference of two such large floats is short of the whole millisecond as often as not.
        return max(round((self._deadline - CLOCK.wall()) * 1000), 0)
