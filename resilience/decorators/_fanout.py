"""A ping that warms several instances: the function invokes itself, and each one holds its instance for a moment.

The protocol is that of lambda-warmer: `{"warmer": true, "concurrency": N}`.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

from resilience.core.call import Call
from resilience.core.clock import CLOCK

__all__ = ["warm_others"]

#: Seconds for which each warmed instance is kept busy, so that the next ping goes to another one.
_HOLD = 0.075
_MOST = 100


def warm_others(call: Call, concurrency: Any, deadline: float) -> dict[str, Any]:
    """Invoke this function `concurrency` - 1 times more, until `deadline` (monotonic); what was done, for the answer.

    Never raises.
    """
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 2:
        CLOCK.sleep(_HOLD)
        return {}
    name = getattr(call.invocation.context, "invoked_function_arn", None)
    if not name:
        return {"invoked": 0, "invoke_error": "no Lambda context"}
    invoked = 0
    try:
        payload = json.dumps({"warmer": True, "concurrency": 1}).encode()
        with contextlib.closing(_client(deadline)) as client:
            for _ in range(min(concurrency, _MOST) - 1):
                if CLOCK.monotonic() >= deadline:
                    return {"invoked": invoked, "invoke_error": "no time left"}
                client.invoke(FunctionName=name, InvocationType="Event", Payload=payload)
                invoked += 1
    except Exception as error:
        return {"invoked": invoked, "invoke_error": type(error).__name__}
    return {"invoked": invoked}


def _client(deadline: float) -> Any:
    # Part of the managed runtime; only for those who asked for concurrency=True.
    import boto3
    from botocore.config import Config

    # By default it would wait 60 s to connect, five times: from a VPC without an endpoint nothing answers at all.
    seconds = min(max(deadline - CLOCK.monotonic(), 0.1) / 2, 2.0)
    config = Config(connect_timeout=seconds, read_timeout=seconds, retries={"total_max_attempts": 1})
    return boto3.client("lambda", config=config)
