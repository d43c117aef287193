"""The environment variables of a Lambda sandbox."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

__all__ = ["environment"]


def environment(
    *, handler: str, root: str, name: str, memory_mb: int, init_type: str, api: str, env: Mapping[str, str]
) -> dict[str, str]:
    """This process's variables, those that Lambda defines, then those of the function.

    Source: "Defined runtime environment variables", Lambda Developer Guide.
    """
    return {
        **os.environ,
        "AWS_LAMBDA_RUNTIME_API": api,
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": init_type,
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info[0]}.{sys.version_info[1]}",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "LAMBDA_TASK_ROOT": root,
        "_HANDLER": handler,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
        "PYTHONUNBUFFERED": "1",
        # The task root is read-only there, and stays as it was here.
        "PYTHONDONTWRITEBYTECODE": "1",
        **env,
    }
