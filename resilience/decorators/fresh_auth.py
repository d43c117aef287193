"""`@fresh_auth`: a credential resolved for each attempt, sent to its own hosts alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, overload

from resilience import platforms
from resilience.core.call import Call
from resilience.core.errors import ConfigurationError
from resilience.core.outcome import OK, Meaning
from resilience.core.policy import Plan, Policy, WarmUp
from resilience.core.settings import Settings
from resilience.decorators._apply import F, apply

if TYPE_CHECKING:
    from resilience.core.pipeline import Pipeline

__all__ = ["AuthPolicy", "fresh_auth"]

_check = Settings("fresh_auth")


class AuthPolicy(Policy):
    """The settings of one `@fresh_auth`, and its source of credentials."""

    kind = "fresh_auth"
    _registered = False

    def __init__(self, source: Any, hosts: Any, options: dict[str, Any]) -> None:
        self.source = source
        self.hosts = hosts
        self.options = options

    def join(self, plan: Plan) -> None:
        from resilience.http.request import RequestPath

        plan.make_path = RequestPath
        plan.make_authorizer = self._authorizer
        if self.hosts is not None:
            plan.known_urls += [f"https://{host}" for host in self.hosts.exact_hosts]
        if self.source is not None:
            plan.inner_guards.append(_Refresh(self))

    def _authorizer(self, plan: Plan) -> Any:
        from resilience.http.auth import Authorizer
        from resilience.http.hosts import HostRule

        hosts = self.hosts
        if hosts is None and plan.base_url is not None:
            from urllib.parse import urlsplit

            hosts = HostRule.parse(urlsplit(plan.base_url).netloc)
        if hosts is None and self.source is not None:
            raise ConfigurationError(
                f"fresh_auth on {plan.pipeline.name}: hosts=None, so the credential may be sent nowhere: "
                'give hosts="api.example.com", or @pooled(base_url="https://api.example.com/v1")'
            )
        return Authorizer(self.source, hosts, **self.options)

    def warm_up(self, warmup: WarmUp, pipeline: Pipeline) -> None:
        """Have a credential ready."""
        if self.source is not None:
            self.source.get(warmup.deadline)
            warmup.report["credential"] = "ready"

    def forget(self, why: str) -> None:
        if self.source is not None:
            self.source.drop()

    def decorated(self, pipeline: Pipeline) -> None:
        if not self._registered:
            self._registered = platforms.when_snapshotted(lambda: self.forget("snapshot"))

    def describe(self) -> str:
        if self.source is None:
            return "no credential (give env= or provider=)"
        hosts = "the host of base_url" if self.hosts is None else str(self.hosts)
        return f"{self.options['header']} from {self.source} for {hosts}"


class _Refresh:
    """A 401 of another client, which took its credential from `auth_headers`: one more try with a new one.
    Immutable."""

    def __init__(self, policy: AuthPolicy) -> None:
        self._policy = policy

    def bind(self, proceed: Any) -> Any:
        """`proceed`, tried once more where the credential was refused and there is a newer one."""

        def refreshed(call: Call) -> None:
            proceed(call)
            if call.credential is not None and self._renew(call):
                call.result, call.error, call.outcome = None, None, OK
                proceed(call)

        return refreshed

    def bind_async(self, proceed: Any) -> Any:
        """The same for `async def`."""

        async def refreshed(call: Call) -> None:
            await proceed(call)
            if call.credential is None:
                return
            # Whoever awaits has imported it; a provider may take its time.
            import asyncio

            if await asyncio.to_thread(self._renew, call):
                call.result, call.error, call.outcome = None, None, OK
                await proceed(call)

        return refreshed

    def _renew(self, call: Call) -> bool:
        credential, call.credential = call.credential, None
        if call.outcome.meaning is not Meaning.UNAUTHORIZED or call.outcome.guarded:
            return False
        return self._policy.source.renew(credential, call.deadline) is not None


@overload
def fresh_auth(fn: F, /) -> F: ...
@overload
def fresh_auth(
    *,
    env: str | None = None,
    provider: Callable[[], Any] | None = None,
    hosts: str | Iterable[str] | None = None,
    scheme: str | None = "Bearer",
    header: str = "Authorization",
    ttl: float = 300.0,
    refresh_on: Iterable[int] = (401,),
    request_id_header: str | None = "X-Request-ID",
    idempotency_key: bool = False,
    insecure: bool = False,
) -> Callable[[F], F]: ...
def fresh_auth(
    fn: Any = None,
    /,
    *,
    env: str | None = None,
    provider: Callable[[], Any] | None = None,
    hosts: str | Iterable[str] | None = None,
    scheme: str | None = "Bearer",
    header: str = "Authorization",
    ttl: float = 300.0,
    refresh_on: Iterable[int] = (401,),
    request_id_header: str | None = "X-Request-ID",
    idempotency_key: bool = False,
    insecure: bool = False,
) -> Any:
    """Put a credential on each attempt of each request to its hosts, resolved at that moment.

    env: the environment variable that holds it, read each time.
    provider: a callable (`def` or `async def`) that returns a string or a `Credential`, or one of
        `resilience.secrets_manager`, `ssm_parameter`, `oauth2_client_credentials`, `file`; asked once for all who wait.
    hosts: the only hosts that it is sent to: "api.example.com" or "*.example.com", one or several; the host of
        `@pooled(base_url=...)` where none is named. Over https only, but for loopback.
    scheme, header: `Authorization: Bearer …`; scheme=None sends the bare value.
    ttl: seconds for which a provider's plain string is good.
    refresh_on: statuses (400 to 499) upon which the credential is resolved anew and the request sent once more.
    request_id_header: carries the platform's request id; None: not sent.
    idempotency_key: send an `Idempotency-Key`, the same for all attempts of one request, with each POST.
    insecure: allow plain http to any of the hosts.

    Raises `ConfigurationError` at once for a wrong setting; `CredentialUnavailable` in a call. The credential stands
    in no log, event, exception or repr of ours.
    """
    _check.text("env", env, optional=True)
    _check.callable("provider", provider)
    if env is not None and provider is not None:
        raise ConfigurationError(f"fresh_auth: env={env!r} and provider={provider!r}: one of them, not both")
    _check.header("header", header)
    if scheme is not None and (not isinstance(scheme, str) or any(ord(c) < 33 or ord(c) > 126 for c in scheme)):
        raise _check.wrong("scheme", scheme, "an authentication scheme such as 'Bearer', '' or None")
    _check.number("ttl", ttl, above=True)
    _check.header("request_id_header", request_id_header, optional=True)
    _check.flag("idempotency_key", idempotency_key)
    _check.flag("insecure", insecure)
    options = {
        "scheme": scheme,
        "header": header,
        "refresh_on": _statuses(refresh_on),
        "request_id_header": request_id_header,
        "idempotency_key": idempotency_key,
        "insecure": insecure,
    }
    return apply(AuthPolicy(_source(env, provider, ttl), _rule(hosts), options), fn)


def _statuses(refresh_on: Any) -> tuple[int, ...]:
    allowed = "statuses from 400 to 499"
    try:
        statuses = tuple(refresh_on)
    except TypeError as error:
        raise _check.wrong("refresh_on", refresh_on, allowed) from error
    if not all(isinstance(s, int) and 400 <= s <= 499 for s in statuses):
        raise _check.wrong("refresh_on", refresh_on, allowed)
    return statuses


def _rule(hosts: Any) -> Any:
    if hosts is None:
        return None
    from resilience.http.hosts import HostRule

    return HostRule.parse(hosts, "fresh_auth: hosts")


def _source(env: str | None, provider: Any, ttl: float) -> Any:
    if env is None and provider is None:
        return None
    from resilience.http.auth import CredentialSource

    return CredentialSource(env=env, provider=provider, ttl=ttl)
