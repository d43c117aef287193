"""What importing and decorating costs a cold start."""

from __future__ import annotations

from benchmarks.figures import REFERENCE, Figure
from benchmarks.sampling import child_environment, cpu_ms, output_of

__all__ = ["run"]

GROUP = "imports"
#: None of these may come with `import resilience`.
HEAVY = ("requests", "tenacity", "asyncio", "urllib3", "pybreaker", "cachetools")

DECORATED = """
from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit, warm

@warm
@pooled(base_url="https://api.example.com/v1")
@circuit_breaker
@retry_ratelimit
@fresh_auth(env="API_KEY", hosts="api.example.com")
def handler(event, context):
    return requests.post("https://api.example.com/v1/chat/completions", json=event).json()
"""
CODES = {
    "ours": "import resilience",
    "requests": "import requests",
    "decorated": "import requests" + DECORATED,
    "pyresilience": "import pyresilience",
    "stamina": "import stamina",
    "by hand": "import tenacity, pybreaker",
}


def run(quick: bool) -> list[Figure]:
    """`import resilience`, and a handler that imports requests and has all five, beside `import requests` alone."""
    with child_environment() as environment:
        # Once each, for the bytecode.
        ms = {name: cpu_ms(code, environment) for name, code in CODES.items()}
        ms = dict.fromkeys(ms, float("inf"))
        for _ in range(7 if quick else 25):
            for name, code in CODES.items():
                ms[name] = min(ms[name], cpu_ms(code, environment))
        code = f"import sys, resilience; print(*(m for m in {HEAVY!r} if m in sys.modules))"
        loaded = output_of(code, environment).split()
    slower = ms["requests"] / REFERENCE["import requests"]
    note = f"CPU time in a fresh process; this machine is {slower:.1f}x slower than the reference"
    ours, requests, five = "import resilience", "import requests", "import requests, resilience; decorate"
    peers = {"pyresilience": "pyresilience", "stamina": "stamina", "by hand": "tenacity, pybreaker"}
    return [
        Figure(GROUP, ours, ms["ours"], "ms", requests, ms["requests"], "value", 3.0, slower, note),
        Figure(GROUP, "heavy modules with it", len(loaded), "", "", None, "value", 0.0, None, f"of {', '.join(HEAVY)}"),
        Figure(GROUP, five, ms["decorated"], "ms", requests, ms["requests"], "ratio", 1.15),
        *(Figure(GROUP, ours, ms["ours"], "ms", f"import {name}", ms[key]) for key, name in peers.items()),
    ]
