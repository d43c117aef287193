"""A process that forks while another thread of it holds a lock of ours."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HELD = {
    "a pipeline is built": ("resilience.core.pipeline", "_compiling"),
    "a listener is added": ("resilience.core.events", "_lock"),
    "the choke point is laid": ("resilience.http.transparent", "_lock"),
    "an adapter is made": ("resilience.http.session", "_lock"),
    "a rate gate is made": ("resilience.decorators._retrying", "_lock"),
    "a breaker is made": ("resilience.decorators.circuit_breaker", "_lock"),
}

CODE = """
import importlib, os, signal, sys, threading
import requests
import resilience
from resilience import circuit_breaker, pooled, retry_ratelimit

# One of `limits`, and answers that are kept, have locks of their own.
def made():
    @circuit_breaker(fallback="instead", stale_if_error=10)
    @retry_ratelimit(limit="1000/second", attempts=1)
    @pooled
    def handler(n):
        try:
            requests.get("http://127.0.0.1:1/")
        except requests.ConnectionError:
            return n
    return handler

ready = made()
assert ready(1) == 1
module = importlib.import_module(sys.argv[1])
locks = [getattr(module, sys.argv[2]), ready.resilience.policy("circuit_breaker").rescue._lock]
held, done = threading.Event(), threading.Event()

def hold():
    for lock in locks:
        lock.acquire()
    held.set()
    done.wait()
    for lock in locks:
        lock.release()

holder = threading.Thread(target=hold)
holder.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(20)
    resilience.listen(print, resilience.core.events.StoreDegraded)
    assert made()(2) == 2 and ready(3) == 3
    os._exit(0)
done.set()
holder.join()
assert ready(4) == 4
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("what", HELD)
def test_a_child_forked_while_another_thread_holds_a_lock_goes_on(what: str) -> None:
    # In a process of its own, where what other tests leave running makes the fork no warning.
    command = [sys.executable, "-W", "ignore", "-c", CODE, *HELD[what]]
    subprocess.run(command, check=True, timeout=60)
