"""Resilience for serverless Python: decorators that keep a function fast and up while its dependencies are not.

Every name is loaded at its first use, so that `import resilience` costs next to nothing of a cold start.
"""

from __future__ import annotations

# By this name type checkers know it; `typing` itself would be 8 ms.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from resilience.core.call import Call, bind, current
    from resilience.core.errors import (
        CircuitOpen,
        ConfigurationError,
        CredentialUnavailable,
        DeadlineExceeded,
        RateLimited,
        ResilienceError,
        StoreUnavailable,
    )
    from resilience.core.events import listen
    from resilience.decorators.circuit_breaker import circuit_breaker
    from resilience.decorators.fresh_auth import fresh_auth
    from resilience.decorators.pooled import pooled
    from resilience.decorators.resilient import resilient
    from resilience.decorators.retry_ratelimit import retry_ratelimit
    from resilience.decorators.warm import warm
    from resilience.http.credential import Credential
    from resilience.http.prewarm import prewarm
    from resilience.http.provider_aws import secrets_manager, ssm_parameter
    from resilience.http.provider_file import file
    from resilience.http.provider_oauth import oauth2_client_credentials

__all__ = [
    "Call",
    "CircuitOpen",
    "ConfigurationError",
    "Credential",
    "CredentialUnavailable",
    "DeadlineExceeded",
    "RateLimited",
    "ResilienceError",
    "StoreUnavailable",
    "bind",
    "circuit_breaker",
    "current",
    "file",
    "fresh_auth",
    "listen",
    "oauth2_client_credentials",
    "pooled",
    "prewarm",
    "resilient",
    "retry_ratelimit",
    "secrets_manager",
    "ssm_parameter",
    "warm",
]

__version__ = "0.1.0"

_HOMES = {
    "Call": "core.call",
    "CircuitOpen": "core.errors",
    "ConfigurationError": "core.errors",
    "Credential": "http.credential",
    "CredentialUnavailable": "core.errors",
    "DeadlineExceeded": "core.errors",
    "RateLimited": "core.errors",
    "ResilienceError": "core.errors",
    "StoreUnavailable": "core.errors",
    "bind": "core.call",
    "circuit_breaker": "decorators.circuit_breaker",
    "current": "core.call",
    "file": "http.provider_file",
    "fresh_auth": "decorators.fresh_auth",
    "listen": "core.events",
    "oauth2_client_credentials": "http.provider_oauth",
    "pooled": "decorators.pooled",
    "prewarm": "http.prewarm",
    "resilient": "decorators.resilient",
    "retry_ratelimit": "decorators.retry_ratelimit",
    "secrets_manager": "http.provider_aws",
    "ssm_parameter": "http.provider_aws",
    "warm": "decorators.warm",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'resilience' has no attribute {name!r}")
    # `__import__` rather than importlib: it is there already.
    module = __import__(f"resilience.{home}", fromlist=[name])
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
