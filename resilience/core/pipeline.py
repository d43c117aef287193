"""Stacked decorators become one pipeline: one wrapper, one call, its guards in the order written."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from resilience.core import events
from resilience.core.call import COLD, CURRENT, EXCLUSIVE, PLAIN, Call
from resilience.core.clock import CLOCK
from resilience.core.errors import ConfigurationError
from resilience.core.kinds import Kind, kind_of, name_of, parameter_position
from resilience.core.policy import Plan, Policy

__all__ = ["Pipeline"]

_compiling = threading.RLock()


class Pipeline:
    """The policies on one function, in the order in which they act; `print(handler.resilience)` shows them.

    What changes: the guards are built once, at the first call, under `_compiling`, when all the decorators are known.
    """

    compiled: tuple[Any, Any, Any] | None = None
    path: Any = None
    plan: Plan | None = None
    #: Weakly, the function that stands for this pipeline; set once, when it is made.
    wrapper: Any = None

    def __init__(self, fn: Callable[..., Any], policies: tuple[Policy, ...], platform: ModuleType) -> None:
        self.fn = fn
        self.kind = kind_of(fn)
        self.name = name_of(fn)
        self.policies = policies
        self.platform = platform
        self._check_repeats()
        self.first: Any = next((p for p in policies if p.acts == "first"), None)
        #: Each call has something to be got ready for it.
        self.busy = False
        deadlines = [p.deadline for p in policies if p.deadline is not None]
        #: Seconds that a call may take by its own settings.
        self.limit = min(deadlines) if deadlines else None
        self.session_position: int | None = None
        if any(p.kind == "pooled" for p in policies):
            self.session_position = parameter_position(fn, "session")
            self.busy = self.session_position is not None

    def _check_repeats(self) -> None:
        seen: set[tuple[str, str | None]] = set()
        for policy in self.policies:
            same = (policy.kind, policy.name)
            if same in seen:
                hint = "give each a name= of its own" if policy.acts == "guard" else "once is enough"
                raise ConfigurationError(
                    f"@{policy.kind} stands twice on {self.name}"
                    + (f" under the name {policy.name!r}" if policy.name else "")
                    + f": {hint}"
                )
            if policy.acts != "guard" and any(kind == policy.kind for kind, _ in seen):
                raise ConfigurationError(f"@{policy.kind} stands twice on {self.name}: once is enough")
            seen.add(same)

    # ---- building

    def compile(self) -> tuple[Any, Any, Any]:
        """Build the guards, once: the chain that runs a call, what makes one, and what is called before each."""
        with _compiling:
            if self.compiled is None:
                # It imports this module.
                from resilience.core import wrappers

                plan = self.planned()
                awaits = self.kind in (Kind.COROUTINE, Kind.ASYNC_GENERATOR)
                chain: Any = wrappers.attempt_async(self) if awaits else wrappers.attempt(self)
                for guard in reversed((*plan.call_guards, *plan.inner_guards)):
                    chain = guard.bind_async(chain) if awaits else guard.bind(chain)
                self.compiled = (chain, self._call_class(), None if self.path is None else self.path.ready)
            return self.compiled

    def _call_class(self) -> type[Call]:
        """`Call`, with what all calls of this pipeline have in common on the class."""
        common: dict[str, Any] = {"pipeline": self, "dependency": self.name, "path": self.path}
        if self.path is not None and self.path.pool is not None:
            common["unknown_fails"] = False
        return type("Call", (Call,), {**common, "__module__": Call.__module__, "__qualname__": Call.__qualname__})

    def planned(self) -> Plan:
        """What the policies agree on. Raises `ConfigurationError` where they can't."""
        with _compiling:
            if self.plan is not None:
                return self.plan
            plan = Plan(self)
            for policy in self.policies:
                policy.join(plan)
            if plan.base_url is not None:
                # It knows the port, too.
                plan.known_urls.insert(0, plan.base_url)
            if plan.make_authorizer is not None:
                plan.authorizer = plan.make_authorizer(plan)
            for policy in self.policies:
                if policy.acts != "guard":
                    continue
                if policy.scope == "request" and plan.pool is None:
                    raise ConfigurationError(
                        f"@{policy.kind}(scope='request') on {self.name} guards the requests of a pool: add @pooled"
                    )
                if plan.pool is not None and policy.scope != "call":
                    plan.request_guards += filter(None, [policy.guard("request", self)])
                plan.call_guards += filter(None, [policy.guard("call", self)])
            if plan.make_path is not None:
                self.path = plan.make_path(plan)
            self.plan = plan
            return plan

    # ---- the start and the end of a call

    def begin(self, call: Call) -> None:
        """What only some calls need at their start."""
        if self.session_position is not None:
            self._hand_session(call, self.session_position)
        if COLD:
            self._note_cold(call)
        if events.LISTENERS:
            call.started = CLOCK.monotonic()

    def open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """A call from its arguments: what the wrappers of functions do in line."""
        _, make, ready = self.compile()
        call: Call = make()
        call.args, call.kwargs = args, kwargs
        self.invoked(call)
        self.place(call, CURRENT.get())
        if ready is not None:
            ready()
        self.begin(call)
        return call

    def invoked(self, call: Call) -> None:
        """Ask the platform whether it made this call."""
        invocation = self.platform.recognise(call.args, call.kwargs)
        if invocation is PLAIN:
            return
        call.invocation = invocation
        call.deadline = invocation.deadline
        if invocation.exclusive and CURRENT.get() is None:
            EXCLUSIVE[0] = call

    def place(self, call: Call, parent: Call | None) -> None:
        """Under its own limit and that of the call around it, whose requests it shares."""
        limits = [call.deadline]
        if self.limit is not None:
            limits.append(CLOCK.monotonic() + self.limit)
        if parent is not None and not parent.ended:
            call.parent = parent
            limits.append(parent.deadline)
            if self.path is None:
                call.path = parent.path
            if parent.redirects is None:
                parent.redirects = {}
            call.redirects = parent.redirects
        call.deadline = min((limit for limit in limits if limit is not None), default=None)

    def stand_alone(self) -> Call:
        """A call for requests that no call of the function encloses."""
        _, make, _ = self.compile()
        call: Call = make()
        call.kwargs = {}
        if self.limit is not None:
            call.deadline = CLOCK.monotonic() + self.limit
        return call

    def _hand_session(self, call: Call, position: int) -> None:
        if "session" not in call.kwargs and not 0 <= position < len(call.args):
            call.kwargs = {**call.kwargs, "session": self.path.session}

    def _note_cold(self, call: Call) -> None:
        try:
            # Atomic: one of several threads gets it.
            call.cold = COLD.pop()
        except IndexError:
            return
        if events.LISTENERS:
            events.emit(events.ColdStart(call.invocation.platform, call.request_id))

    def end(self, call: Call) -> None:
        """The call is over, whichever way."""
        if EXCLUSIVE[0] is call:
            EXCLUSIVE[0] = None
        if events.LISTENERS:
            self._tell_end(call)

    def _tell_end(self, call: Call) -> None:
        ms = (CLOCK.monotonic() - call.started) * 1000 if call.started else 0.0
        finished = events.CallFinished(
            self.name,
            call.invocation.platform,
            call.request_id,
            call.cold,
            call.outcome.meaning.value,
            ms,
            call.attempt,
            call.requests,
        )
        events.emit(finished)

    # ---- what a person asks of it

    def policy(self, kind: str, name: str | None = None) -> Any:
        """The policy of a decorator by its kind, and by name where there are two. Raises `LookupError`."""
        for policy in self.policies:
            if policy.kind == kind and name in (None, policy.name):
                return policy
        raise LookupError(f"{self.name} has no @{kind}" + (f" named {name!r}" if name else ""))

    @property
    def breaker(self) -> Any:
        """The breakers of this function's dependencies: `.state`, `.open()`, `.close()`, `.half_open()`, `.isolate()`,
        and `breaker["https://api.example.com:443"]` for one of them."""
        first = self.policy("circuit_breaker")
        return first.handle(self, *(p for p in self.policies if p.kind == first.kind and p is not first))

    @property
    def pool(self) -> Any:
        """The pool of `@pooled`."""
        return self.policy("pooled").pool

    @property
    def session(self) -> Any:
        """A `requests.Session` whose requests go through this pipeline, also outside a call of the function."""
        self.compile()
        if self.path is None:
            raise LookupError(f"{self.name} has no @pooled")
        return self.path.session

    def warm_up(self, warmup: Any) -> None:
        """Let each policy do now what the first call would have to wait for."""
        try:
            self.planned()
        except ConfigurationError as error:
            warmup.failed("settings", error)
            return
        # A connection and a credential wait for nothing of each other, and the rest needs both.
        attempts = [p for p in self.policies if p.acts == "attempt"]
        threads = [_beside(self._warm_one, policy, warmup) for policy in attempts[:-1]]
        for policy in attempts[-1:]:
            self._warm_one(policy, warmup)
        for thread in filter(None, threads):
            thread.join(max(warmup.deadline - CLOCK.monotonic(), 0.0))
        for acts in ("first", "guard"):
            for policy in self.policies:
                if policy.acts == acts:
                    self._warm_one(policy, warmup)

    def _warm_one(self, policy: Any, warmup: Any) -> None:
        try:
            policy.warm_up(warmup, self)
        except Exception as error:
            warmup.failed(policy.kind, error)

    def __iter__(self) -> Iterator[Policy]:
        """The policies in the order in which they act."""
        place = {"first": 0, "guard": 1, "attempt": 2}
        return iter(sorted(self.policies, key=lambda p: place[p.acts]))

    def __repr__(self) -> str:
        lines = [f"{self.name} ({self.kind.value})"]
        for policy in self:
            described = policy.describe()
            lines.append(f"  {policy.kind}" + (f": {described}" if described else ""))
        return "\n".join(lines)


def _beside(fn: Callable[..., None], *args: Any) -> threading.Thread | None:
    """A thread that runs `fn`; None where none can be started, and it was run here."""
    thread = threading.Thread(target=fn, args=args, name="resilience-warm", daemon=True)
    try:
        thread.start()
    except RuntimeError:
        fn(*args)
        return None
    return thread


def _after_fork() -> None:
    # Another thread of the parent may have held it.
    global _compiling
    _compiling = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
