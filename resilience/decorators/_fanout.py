"""A ping that warms several instances: the function invokes itself, and each one holds its instance for a moment.

The protocol is that of lambda-warmer: `{"warmer": true, "concurrency": N}`.
"""

from __future__ import annotations

import json
from typing import Any

from resilience.core.call import Call
from resilience.core.clock import CLOCK

__all__ = ["warm_others"]

#: Seconds for which each warmed instance is kept busy, so that the next ping goes to another one.
_HOLD = 0.075
_MOST = 100


def warm_others(call: Call, concurrency: Any) -> dict[str, Any]:
    """Invoke this function `concurrency` - 1 times more; what was done, for the answer."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 2:
        CLOCK.sleep(_HOLD)
        return {}
    name = getattr(call.invocation.context, "invoked_function_arn", None)
    if not name:
        return {"invoked": 0, "invoke_error": "no Lambda context"}
    try:
        # Part of the managed runtime; only for those who asked for concurrency=True.
        import boto3

        client = boto3.client("lambda")
        payload = json.dumps({"warmer": True, "concurrency": 1}).encode()
        wanted = min(concurrency, _MOST) - 1
        for _ in range(wanted):
            client.invoke(FunctionName=name, InvocationType="Event", Payload=payload)
    except Exception as error:
        return {"invoked": 0, "invoke_error": type(error).__name__}
    return {"invoked": wanted}
