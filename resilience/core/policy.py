"""What one decorator adds: immutable settings, and how they take part in a pipeline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from resilience.core.errors import ConfigurationError, CredentialUnavailable, DeadlineExceeded
from resilience.core.outcome import Outcome

if TYPE_CHECKING:
    from typing import Protocol

    from resilience.core.pipeline import Pipeline

    class Guard(Protocol):
        """What stands around an attempt; built once a pipeline, used by every thread."""

        def bind(self, proceed: Proceed) -> Proceed:
            """`proceed` with this guard around it."""

        def bind_async(self, proceed: AsyncProceed) -> AsyncProceed:
            """The same for `async def`."""


__all__ = ["AsyncProceed", "Level", "Plan", "Policy", "Proceed", "Scope", "WarmUp"]

#: Runs one attempt: sets `result`, `error` and `outcome` of what it is given.
Proceed = Callable[[Any], None]
AsyncProceed = Callable[[Any], Awaitable[None]]
Level = Literal["call", "request"]
Scope = Literal["auto", "call", "request"]


class WarmUp:
    """One warming up: what is asked for, and what was done.

    What changes: the report, by the one thread that warms.
    """

    def __init__(self, reason: str, connections: int, deadline: float) -> None:
        self.reason = reason
        #: TLS connections wanted to each host.
        self.connections = connections
        #: Monotonic seconds.
        self.deadline = deadline
        self.opened = 0
        #: Runs the user's probe, once; None: there is none.
        self.probe: Callable[[], Outcome] | None = None
        self.report: dict[str, Any] = {}
        self.errors: list[str] = []

    def failed(self, what: str, error: BaseException) -> None:
        """Note a failure: in our own words, or by its kind alone, since another's message may hold anything."""
        # By the very class: one that stands for another's error, too, has that one's words.
        ours = type(error) in (ConfigurationError, CredentialUnavailable, DeadlineExceeded)
        said = f"{type(error).__name__}: {error}" if ours else type(error).__name__
        self.errors.append(f"{what}: {said}")


class Plan:
    """What the policies of one pipeline agree on before it is built."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        #: Makes the path of requests (`http.request.RequestPath`), where a policy wants requests to be seen.
        self.make_path: Callable[[Plan], Any] | None = None
        #: `http.session.Pool`, where requests are pooled.
        self.pool: Any = None
        #: Makes the `http.auth.Authorizer`, once the base URL is known, where requests carry a credential.
        self.make_authorizer: Callable[[Plan], Any] | None = None
        self.authorizer: Any = None
        #: Where requests will go, as far as settings tell.
        self.known_urls: list[str] = []
        #: What the credential's hosts are where they were not named: the pool's base URL.
        self.base_url: str | None = None
        self.request_guards: list[Guard] = []
        self.call_guards: list[Guard] = []
        #: Stand nearer to the function than all guards of the call.
        self.inner_guards: list[Guard] = []


class Policy:
    """One decorator's settings. Subclasses are immutable once made."""

    #: The decorator's name.
    kind: ClassVar[str]
    #: `guard`: order is meaningful; `first`: acts before all; `attempt`: acts on each attempt, wherever it stands.
    acts: ClassVar[Literal["first", "guard", "attempt"]] = "attempt"
    #: What the user called it; two of one kind need different names.
    name: str | None = None
    scope: Scope = "auto"
    #: Seconds that a call may take by this policy; None: it does not say.
    deadline: float | None = None

    def join(self, plan: Plan) -> None:
        """Add to the plan what needs no order."""

    def guard(self, level: Level, pipeline: Pipeline) -> Guard | None:
        """The guard of calls or requests; only asked of those that act as one."""
        return None

    def warm_up(self, warmup: WarmUp, pipeline: Pipeline) -> None:
        """Do now what the first call would have to wait for. May raise; the others go on."""

    def forget(self, why: str) -> None:
        """Let go of what must not be copied or kept: sockets, credentials."""

    def for_another(self) -> Policy:
        """This policy for one more function: itself, but where it keeps something of the function it stands on."""
        return self

    def decorated(self, pipeline: Pipeline) -> None:
        """A pipeline with this policy was made; one with more policies may follow."""

    def describe(self) -> str:
        """The settings that matter, on one line, with no secret."""
        return ""
