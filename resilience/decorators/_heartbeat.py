"""The heartbeat of `@warm`: a daemon thread for each policy that wants one."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resilience.decorators._warming import WarmPolicy

__all__ = ["start"]


def start(policy: WarmPolicy) -> None:
    """Let `policy.beat()` be called every `policy.heartbeat` seconds, for as long as there is a policy.

    Nothing where no thread can be started (Pyodide): in line, it would never end.
    """
    thread = threading.Thread(
        target=_beat, args=(weakref.ref(policy), threading.Event()), name="resilience-heartbeat", daemon=True
    )
    with contextlib.suppress(RuntimeError):
        thread.start()


def _beat(alive: weakref.ref[WarmPolicy], never: threading.Event) -> None:
    while (pause := _pause(alive)) is not None:
        never.wait(pause)
        policy = alive()
        if policy is not None:
            policy.beat()
        # A function that nobody has any more is not kept by its heart.
        del policy


def _pause(alive: weakref.ref[WarmPolicy]) -> float | None:
    policy = alive()
    return None if policy is None else policy.heartbeat
