"""From the start of a process to its first answer, at a distance.

What overlaps is the network and the imports, so a ratio depends on how fast the machine imports. Where this machine is
slower than the reference one, the same is therefore measured a second time with a network that is as much slower: there
the ratio is what it would be on the reference machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from time import perf_counter

from benchmarks.figures import REFERENCE, Figure
from benchmarks.sampling import child_environment, cpu_ms
from benchmarks.server import Server, serving

__all__ = ["run"]

GROUP = "cold-start"

#: On loopback a connect takes no time. The relay makes up for that by delaying what is sent first, as if it had been
#: sent one round trip after the connect; a client that reads its CA bundle only when it is connected would read it in
#: that time, for nothing. So here the connect itself takes a round trip, as it does in the world.
CODE = """
import socket, time
connect_at_once = socket.socket.connect

def connect(self, address):
    connect_at_once(self, address)
    time.sleep({rtt_ms} / 1000)

socket.socket.connect = connect
from benchmarks.handlers.{script} import handler
start = time.perf_counter()
answer = handler({{"ask": "hello"}}, None)
first = time.perf_counter() - start
assert answer["statusCode"] == 200, answer
print(first, flush=True)
"""
SCRIPTS = ("naive", "decorated")
#: Round trip in ms, and what the whole may take of the naive one's time.
WHOLE = {30.0: 0.7, 100.0: 0.85}
#: What the first request after the imports may take, at 30 ms.
FIRST = 0.4


def run(quick: bool) -> list[Figure]:
    """The first request after init, and all of a cold start, with `prewarm` on the first line."""
    slower = _slower()
    distances = [*WHOLE, *(rtt * slower for rtt in WHOLE)] if slower > 1.1 else list(WHOLE)
    with serving(*distances) as server, child_environment(REQUESTS_CA_BUNDLE=server.ca_file) as environment:
        rounds = 5 if quick else 25
        best = {rtt: _measure(server, rtt, environment, rounds) for rtt in distances}
    figures = []
    for rtt, limit in WHOLE.items():
        for scale in dict.fromkeys((1.0, slower if slower > 1.1 else 1.0)):
            figures += _figures(rtt, scale, limit, best[rtt * scale])
    return figures


def _figures(rtt: float, scale: float, limit: float, best: Mapping[str, tuple[float, float]]) -> list[Figure]:
    (first, whole), (their_first, their_whole) = best["decorated"], best["naive"]
    at, note = f"at {rtt:g} ms", ""
    if scale != 1.0:
        at = f"at {rtt:g} ms x {scale:.1f}"
        note = f"this machine is {scale:.1f}x slower than the reference, and here the network is, too"
    figures = [
        Figure(GROUP, f"start to first answer {at}", whole, "ms", "naive", their_whole, "ratio", limit, note=note)
    ]
    wanted = FIRST if rtt == 30.0 else None
    figures.append(Figure(GROUP, f"first request after init {at}", first, "ms", "naive", their_first, "ratio", wanted))
    return figures


def _slower() -> float:
    """How many times slower than the reference machine this one imports requests."""
    with child_environment() as environment:
        cpu_ms("import requests", environment)
        return max(min(cpu_ms("import requests", environment) for _ in range(9)) / REFERENCE["import requests"], 1.0)


def _measure(server: Server, rtt: float, environment: Mapping[str, str], rounds: int) -> dict[str, tuple[float, float]]:
    """By script: milliseconds of the first request, and from the start of the process to its answer."""
    own = {**environment, "API_URL": server.relays[str(rtt)], "API_KEY": server.key}
    for script in SCRIPTS:
        _start(script, rtt, own)
    samples: dict[str, list[tuple[float, float]]] = {script: [] for script in SCRIPTS}
    for _ in range(rounds):
        for script in SCRIPTS:
            samples[script].append(_start(script, rtt, own))
    return {name: (min(first for first, _ in seen), min(whole for _, whole in seen)) for name, seen in samples.items()}


def _start(script: str, rtt_ms: float, environment: Mapping[str, str]) -> tuple[float, float]:
    start = perf_counter()
    command = [sys.executable, "-c", CODE.format(script=script, rtt_ms=rtt_ms)]
    with subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = process.stdout.readline()
        whole = perf_counter() - start
    return json.loads(told) * 1000, whole * 1000
