"""How `@warm` acts: pings answered, warming up in the init phase, after quiet, by heartbeat and after a restore."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resilience import platforms
from resilience.core import events
from resilience.core.call import CURRENT, Call
from resilience.core.clock import CLOCK
from resilience.core.errors import ConfigurationError
from resilience.core.outcome import Outcome, of_error, of_result
from resilience.core.policy import Policy, WarmUp
from resilience.decorators._pings import Pings

if TYPE_CHECKING:
    from resilience.core.pipeline import Pipeline

__all__ = ["WarmPolicy"]

_log = logging.getLogger("resilience")

#: Tells this process from others in a ping's answer. What changes: drawn anew where one becomes several, by a fork or
#: by a snapshot that was restored.
_instance = [os.urandom(6).hex()]
#: Seconds that the first call waits for a warming up that the init phase began: more would cost more than it saves.
_FIRST_WAIT = 1.0


class WarmPolicy(Policy):
    """The settings of one `@warm`.

    What changes: `_pipeline`, the newest one (each decorator above makes another), `_wanted`, the reason of a warming
    up that is yet to be started, and `_thread`, the one that warms, all under `_lock`; `_init`, which the first call
    takes; and when the last call came, of which any thread may write a nearly equal value.
    """

    kind = "warm"
    acts = "first"

    def __init__(
        self,
        pings: Pings,
        *,
        probe: str | Callable[[], Any] | None,
        interval: float,
        timeout: float,
        connections: int,
        concurrency: bool,
        heartbeat: float | None,
    ) -> None:
        self.pings = pings
        self.probe = probe
        self.interval = interval
        self.timeout = timeout
        self.connections = connections
        self.concurrency = concurrency
        self.heartbeat = heartbeat
        self._pipeline: Pipeline | None = None
        self._wanted: str | None = None
        self._thread: threading.Thread | None = None
        self._init: threading.Thread | None = None
        self._lock = threading.Lock()
        self._monotonic = CLOCK.monotonic()
        self._wall = CLOCK.wall()
        _policies.add(self)

    # ---- the start of each call

    def arrives(self, call: Call) -> bool:
        """Whether this call is a ping. A real one, after quiet, starts a warming up beside it."""
        if self._init is not None:
            self._await_init(call)
        ping = self.pings.may_be(call) and self.pings.match(call) is not None
        monotonic, wall = CLOCK.monotonic(), CLOCK.wall()
        # Old if either clock says so.
        if monotonic - self._monotonic > self.interval or wall - self._wall > self.interval:
            self._after_quiet(call, ping)
        self._monotonic = monotonic
        self._wall = wall
        return ping

    def _after_quiet(self, call: Call, ping: bool) -> None:
        if not ping and not call.cold:
            self._start("quiet", call.pipeline)

    def _await_init(self, call: Call) -> None:
        begun, self._init = self._init, None
        if begun is not None:
            left = call.remaining
            begun.join(_FIRST_WAIT if left is None else min(_FIRST_WAIT, left / 2))

    def respond(self, call: Call) -> Any:
        """Warm up, and say what was done."""
        ping = self.pings.match(call) or {}
        seconds = self.timeout if call.remaining is None else min(self.timeout, call.remaining)
        started = CLOCK.monotonic()
        # At most half of the time is for the other instances.
        instances = self._fan_out(call, ping, started + seconds / 2)
        warmup = self._bounded("ping", call.pipeline, call, started + seconds - CLOCK.monotonic())
        answer: dict[str, Any] = {
            "warmed": True,
            "cold": call.cold,
            "ms": round((CLOCK.monotonic() - started) * 1000, 1),
            "connections": warmup.opened,
            "instance": _instance[0],
            **warmup.report,
            "errors": list(warmup.errors),
            **instances,
        }
        if "requestContext" in ping or "httpMethod" in ping:
            import json

            headers = {"content-type": "application/json", "cache-control": "no-store"}
            return {"statusCode": 200, "headers": headers, "body": json.dumps(answer)}
        return answer

    async def respond_async(self, call: Call) -> Any:
        """The same without holding up the event loop."""
        import asyncio

        return await asyncio.to_thread(self.respond, call)

    def _fan_out(self, call: Call, ping: dict[str, Any], deadline: float) -> dict[str, Any]:
        if not self.concurrency or "concurrency" not in ping:
            return {}
        from resilience.decorators import _fanout

        return _fanout.warm_others(call, ping["concurrency"], deadline)

    # ---- warming up

    def _bounded(self, reason: str, pipeline: Pipeline, call: Call | None, seconds: float) -> WarmUp:
        """Warm up in a thread, so that nothing that hangs can hold up the answer."""
        warmup = WarmUp(reason, self.connections, CLOCK.monotonic() + seconds)
        done = _thread(lambda: self._warm(warmup, pipeline, call))
        done.join(max(warmup.deadline - CLOCK.monotonic(), 0.0))
        if done.is_alive():
            warmup.errors.append(f"not done within {seconds:.3g} s")
        return warmup

    def _warm(self, warmup: WarmUp, pipeline: Pipeline, call: Call | None = None) -> None:
        started = CLOCK.monotonic()
        try:
            inner = pipeline.stand_alone()
        except ConfigurationError as error:
            # In the init phase, decorators that it needs may be yet to come; if not, the first call raises this.
            warmup.failed("settings", error)
            return
        inner.deadline, inner.parent = warmup.deadline, call
        token = CURRENT.set(inner)
        try:
            if self.probe is not None:
                warmup.probe = self._probing(warmup, pipeline)
            pipeline.warm_up(warmup)
            inner.path = pipeline.path
            if warmup.reason == "ping":
                _load_what_failures_need()
        finally:
            CURRENT.reset(token)
            inner.ended = True
        if events.LISTENERS:
            ms = (CLOCK.monotonic() - started) * 1000
            events.emit(events.WarmedUp(warmup.reason, ms, warmup.opened, tuple(warmup.errors)))
        if warmup.errors:
            # A ping's answer is read by nobody, least of all by EventBridge.
            level = logging.WARNING if warmup.reason == "ping" else logging.INFO
            _log.log(level, "warming up (%s): %s", warmup.reason, ", ".join(warmup.errors))

    def warm_up(self, warmup: WarmUp, pipeline: Pipeline) -> None:
        """Its own part is the probe; connections and credential are there by then."""
        if warmup.probe is not None:
            warmup.probe()

    def _probing(self, warmup: WarmUp, pipeline: Pipeline) -> Callable[[], Outcome]:
        done: list[Outcome] = []

        def probe() -> Outcome:
            if not done:
                done.append(self._probe(warmup, pipeline))
            return done[0]

        return probe

    def _probe(self, warmup: WarmUp, pipeline: Pipeline) -> Outcome:
        call = CURRENT.get()
        if call is not None:
            # Only now have the policies agreed on where requests go.
            call.path = pipeline.path
            if call.path is not None:
                call.path.ready()
        try:
            answer = self._ask(pipeline) if isinstance(self.probe, str) else _finished(self.probe())  # type: ignore[misc]
        except Exception as error:
            warmup.report["probe"] = type(error).__name__
            warmup.failed("probe", error)
            return of_error(error)
        outcome = of_result(answer)
        status = getattr(answer, "status_code", None)
        warmup.report["probe"] = outcome.meaning.value if status is None else status
        return outcome

    def _ask(self, pipeline: Pipeline) -> Any:
        if pipeline.path is not None:
            return pipeline.path.session.get(self.probe)
        # No pool: a request like any other.
        import requests

        return requests.get(str(self.probe), timeout=self.timeout)

    # ---- in the background

    def for_another(self) -> WarmPolicy:
        """What warms, and since when there was a call, is each function's own."""
        if self._pipeline is None:
            return self
        return WarmPolicy(
            self.pings,
            probe=self.probe,
            interval=self.interval,
            timeout=self.timeout,
            connections=self.connections,
            concurrency=self.concurrency,
            heartbeat=self.heartbeat,
        )

    def decorated(self, pipeline: Pipeline) -> None:
        """In the init phase, begin at once."""
        first = self._pipeline is None
        self._pipeline = pipeline
        if first:
            platforms.when_restored(self._restored)
            if self.heartbeat is not None:
                _heart().start(self)
        if platforms.initialising():
            self._init = self._start("init", pipeline)

    def _start(self, reason: str, pipeline: Pipeline) -> threading.Thread | None:
        with self._lock:
            self._pipeline, self._wanted = pipeline, reason
            if self._thread is None or not self._thread.is_alive():
                self._thread = _thread(self._work)
            return self._thread

    def _work(self) -> None:
        while True:
            with self._lock:
                reason, pipeline, self._wanted = self._wanted, self._pipeline, None
                if reason is None or pipeline is None:
                    self._thread = None
                    return
            self._warm(WarmUp(reason, self.connections, CLOCK.monotonic() + self.timeout), pipeline)

    def _restored(self) -> None:
        """After a snapshot: on the platform's time, so wait for it."""
        _instance[0] = os.urandom(6).hex()
        pipeline = self._pipeline
        if pipeline is not None:
            self._monotonic, self._wall = CLOCK.monotonic(), CLOCK.wall()
            self._bounded("restore", pipeline, None, self.timeout)

    def beat(self) -> None:
        """Warm up, as the heartbeat does."""
        pipeline = self._pipeline
        if pipeline is not None:
            self._warm(WarmUp("heartbeat", self.connections, CLOCK.monotonic() + self.timeout), pipeline)

    def renew(self) -> None:
        """In a forked child: its parent's threads are not here, whatever they held."""
        self._lock = threading.Lock()
        self._thread = self._init = self._wanted = None
        if self.heartbeat is not None:
            _heart().start(self)

    def describe(self) -> str:
        said = [f"again after {self.interval:g} s of quiet", "pings " + ", ".join(self.pings.names)]
        if self.probe is not None:
            said.append(
                f"probe {self.probe if isinstance(self.probe, str) else getattr(self.probe, '__name__', 'function')}"
            )
        if self.heartbeat is not None:
            said.append(f"heartbeat every {self.heartbeat:g} s")
        return ", ".join(said)


def _finished(answer: Any) -> Any:
    """A probe's answer; an `async def` is run here, in the thread that warms."""
    if not hasattr(answer, "__await__"):
        return answer
    # Whoever wrote one has imported it.
    import asyncio

    async def finish() -> Any:
        return await answer

    return asyncio.run(finish())


def _heart() -> Any:
    # For those who want one alone.
    from resilience.decorators import _heartbeat

    return _heartbeat


def _load_what_failures_need() -> None:
    """On a ping's time: what the first failure would have to import (tenacity, pybreaker)."""
    from resilience.core import _failure  # noqa: F401
    from resilience.decorators import _strategies  # noqa: F401
    from resilience.state import _pybreaker  # noqa: F401


def _thread(fn: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=fn, name="resilience-warm", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        # No threads here (Pyodide), or the interpreter is ending.
        fn()
        done = threading.Thread()
        done.join = lambda timeout=None: None  # type: ignore[method-assign]
        return done
    return thread


#: All that are alive; a forked child renews them.
_policies: weakref.WeakSet[WarmPolicy] = weakref.WeakSet()


def _after_fork() -> None:
    _instance[0] = os.urandom(6).hex()
    for policy in list(_policies):
        policy.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
