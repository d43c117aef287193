"""One run of a decorated function, and what everything inside it can ask about it."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from resilience.core.clock import CLOCK
from resilience.core.errors import ResilienceError
from resilience.core.outcome import OK, Outcome

if TYPE_CHECKING:
    from resilience.core.pipeline import Pipeline

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["COLD", "CURRENT", "EXCLUSIVE", "PLAIN", "Call", "Guarded", "Invocation", "bind", "current", "find"]


class Invocation:
    """What the platform handed us. Immutable.

    platform: "plain" for a function that nobody but Python calls.
    deadline: by the monotonic clock, in seconds, with the platform's reserve taken off; None: no limit.
    exclusive: the platform runs one invocation at a time in a process, so a thread's request can only belong to it.
    """

    __slots__ = ("context", "deadline", "event", "exclusive", "platform", "request_id")

    def __init__(
        self,
        platform: str = "plain",
        request_id: str | None = None,
        deadline: float | None = None,
        event: Any = None,
        context: Any = None,
        exclusive: bool = False,
    ) -> None:
        self.platform = platform
        self.request_id = request_id
        self.deadline = deadline
        self.event = event
        self.context = context
        self.exclusive = exclusive


PLAIN = Invocation()


class Guarded:
    """A call or a request on its way through the guards; results and errors are values here until the edge.

    What changes: everything, by the one thread or task that runs it. Nothing guards it. Defaults stand on the class,
    because most runs never need to change them.
    """

    #: What breakers, budgets and gates are kept by.
    dependency: str = ""
    #: Monotonic seconds; None: no limit.
    deadline: float | None = None
    #: Whether it may be sent again although it may have been processed.
    idempotent: bool = False
    #: Whether its body can be sent again at all.
    replayable: bool = True
    #: Whether an error nobody knows speaks against the dependency.
    unknown_fails: bool = True
    #: Number of this attempt, from 1.
    attempt: int = 1
    result: Any = None
    error: BaseException | None = None
    outcome: Outcome = OK
    #: Told how a stream ended, where the result is one; None: it ended with the attempt.
    endings: list[Callable[[Outcome, BaseException | None], None]] | None = None

    def discard(self) -> None:
        """The result will not be used: give up what it holds."""


class Call(Guarded):
    """One run of a decorated function: `resilience.current()` gives it from anywhere inside."""

    parent: Call | None = None
    #: What this call's requests go through (`http.request.RequestPath`); None: nothing of ours.
    path: Any = None
    #: A request of this call was guarded by itself.
    guarded: bool = False
    #: How many requests went through the pool.
    requests: int = 0
    cold: bool = False
    ended: bool = False
    #: A credential was handed out by `auth_headers`, so a 401 of another client can be ours.
    credential: Any = None
    #: Where redirects led: target URL to the host that named it.
    redirects: dict[str, str] | None = None
    started: float = 0.0

    #: Each pipeline makes a subclass on which what its calls have in common stands, so that a call is made at once.
    pipeline: Pipeline
    invocation: Invocation = PLAIN
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any]

    @property
    def request_id(self) -> str | None:
        """The platform's id of this invocation, or that of the call around this one."""
        if self.invocation.request_id is None and self.parent is not None:
            return self.parent.request_id
        return self.invocation.request_id

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline, the reserve taken off, never negative; None where there is none."""
        return None if self.deadline is None else max(self.deadline - CLOCK.monotonic(), 0.0)

    def note_request(self) -> None:
        """Another request of this call, and of those around it, was guarded by itself."""
        call: Call | None = self
        while call is not None:
            call.guarded = True
            call.requests += 1
            call = call.parent

    def auth_headers(self, url: str) -> dict[str, str]:
        """The credential for `url` as headers, for a client that does not go through the pool.

        Empty where the credential is not for that host. Raises `CredentialUnavailable`.
        """
        path = self.path
        return {} if path is None else path.auth_headers(self, url)

    def __repr__(self) -> str:
        return f"<Call of {self.pipeline.name} on {self.invocation.platform}, request id {self.request_id}>"


CURRENT: contextvars.ContextVar[Call | None] = contextvars.ContextVar("resilience.call", default=None)

#: The call under way on a platform that runs one at a time. What changes: at each start and end of such a call, by the
#: one thread that runs it; a thread that the function started may read it at any time.
EXCLUSIVE: list[Call | None] = [None]

#: Holds True until the first call of this process takes it.
COLD = [True]


def find() -> Call | None:
    """The call under way here, or None."""
    call = CURRENT.get()
    if call is None:
        call = EXCLUSIVE[0]
    return call if call is not None and not call.ended else None


def current() -> Call:
    """The call under way. Raises `ResilienceError` outside one."""
    call = find()
    if call is None:
        raise ResilienceError("resilience.current(): no call of a decorated function is under way here")
    return call


def bind(fn: Callable[P, R]) -> Callable[P, R]:
    """`fn` as a function that belongs to the call under way here, whichever thread runs it.

    For the workers of a `ThreadPoolExecutor`, which a context variable does not reach:
    `pool.map(resilience.bind(fetch), urls)`.
    """
    call = find()

    def bound(*args: P.args, **kwargs: P.kwargs) -> R:
        # Not Context.run: one context can't be entered by two threads at once.
        token = CURRENT.set(call)
        try:
            return fn(*args, **kwargs)
        finally:
            CURRENT.reset(token)

    return bound
