"""How samples are taken: in turn, many, and of each the least."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

__all__ = ["batch", "child_environment", "cpu_ms", "interleaved", "output_of"]

#: Takes one sample: seconds.
Sample = Callable[[], float]


def interleaved(samples: Mapping[str, Sample], rounds: int, *, collects: bool = True) -> dict[str, float]:
    """The least of `rounds` samples of each, taken in turn; seconds.

    collects: with the garbage collector off while sampling, as `timeit` has it, and run before.
    """
    best = dict.fromkeys(samples, float("inf"))
    if collects:
        gc.collect()
        gc.disable()
    try:
        for _ in range(rounds):
            for name, sample in samples.items():
                best[name] = min(best[name], sample())
    finally:
        gc.enable()
    return best


def batch(fn: Callable[[], object], times: int) -> Sample:
    """A sample of `fn`, called so often; seconds a call."""
    calls = [None] * times

    def sample() -> float:
        start = perf_counter()
        for _ in calls:
            fn()
        return (perf_counter() - start) / times

    return sample


@contextmanager
def child_environment(**more: str) -> Iterator[dict[str, str]]:
    """The environment of a measured process: bytecode of its own, so that all are compiled alike, and no proxy.

    A read-only folder or PYTHONDONTWRITEBYTECODE would have one package compiled at each start, and another not.
    """
    unwanted = ("PYTHONDONTWRITEBYTECODE", "AWS_LAMBDA_RUNTIME_API", "AWS_LAMBDA_INITIALIZATION_TYPE")
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        kept = {k: v for k, v in os.environ.items() if k not in unwanted and not k.lower().endswith("_proxy")}
        yield {**kept, "PYTHONPYCACHEPREFIX": folder, **more}


def cpu_ms(code: str, environment: Mapping[str, str]) -> float:
    """Milliseconds of CPU time that a fresh Python process takes to run `code`, its own start and end not counted.

    An import waits for nothing but cached files, so on an idle machine this is the time it takes; on a busy one, wall
    time would say how busy.
    """
    timed = f"from time import process_time\nbegun = process_time()\n{code}\nprint(process_time() - begun)"
    return float(output_of(timed, environment)) * 1000


def output_of(code: str, environment: Mapping[str, str]) -> str:
    """What a fresh Python process that runs `code` prints."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=dict(environment), stdout=subprocess.PIPE, text=True, check=True).stdout
