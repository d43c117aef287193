"""The way of one request: guards in the order written, a credential resolved now, then the pool.

Nothing here imports requests: where one of its exceptions is to be raised, it has been loaded by the caller.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from copy import copy
from typing import Any
from urllib.parse import urlsplit

from resilience.core.call import Call, Guarded
from resilience.core.clock import CLOCK
from resilience.core.errors import DeadlineExceeded
from resilience.core.outcome import IDEMPOTENT_METHODS, Outcome, mark_guarded, of_error, of_result
from resilience.core.policy import Plan, Proceed
from resilience.http import transparent
from resilience.http.auth import new_idempotency_key
from resilience.http.raising import as_requests_would, hand_back
from resilience.http.redirects import has_strayed, note_redirect
from resilience.http.session import was_sent
from resilience.http.sockets import ATTEMPT, Attempt

__all__ = ["Request", "RequestPath", "dependency_of"]

_log = logging.getLogger("resilience")

#: What `HTTPAdapter.send` takes for granted.
_DEFAULTS: dict[str, Any] = {"stream": False, "timeout": None, "verify": True, "cert": None, "proxies": None}
_DEFAULT_PORTS = {"https": 443, "http": 80}
#: By scheme and authority, as they stand in the URL. What changes: grows to `_MOST`, then starts anew; no lock:
#: either of two threads may write the same value.
_dependencies: dict[str, str] = {}
_MOST = 1000


def dependency_of(url: str) -> str:
    """`scheme://host:port` of a URL: what breakers, budgets and gates are kept by."""
    start = "/".join(url.split("/", 3)[:3])
    known = _dependencies.get(start)
    if known is None:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        host = f"[{host}]" if ":" in host else host
        try:
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)
        except ValueError:
            # Out of range, as a redirect may have it: the adapter says so, as requests would.
            port = 0
        known = f"{parts.scheme}://{host}:{port}"
        if len(_dependencies) >= _MOST:
            _dependencies.clear()
        _dependencies[start] = known
    return known


class Request(Guarded):
    """One request on its way; see `Guarded` for what changes."""

    unknown_fails = False
    #: A credential was refreshed for it once; not again.
    renewed = False

    def __init__(self, call: Call, adapter: Any, prepared: Any, options: dict[str, Any]) -> None:
        self.call = call
        self.adapter = adapter
        self.prepared = prepared
        self.options = {**_DEFAULTS, **options}
        self.dependency = dependency_of(prepared.url)
        if call.deadline is not None:
            self.deadline = call.deadline
        self.idempotent = prepared.method in IDEMPOTENT_METHODS or "Idempotency-Key" in prepared.headers
        body = prepared.body
        if body is not None and not isinstance(body, (bytes, str)):
            # requests notes where a file stood; a generator can't be read twice.
            self.replayable = isinstance(getattr(prepared, "_body_position", None), int)

    def discard(self) -> None:
        """The answer will not be used: give its connection up."""
        if self.result is not None:
            self.result.close()
            self.result = None


class RequestPath:
    """What the requests of one pipeline go through.

    What changes: the hosts seen, of which any thread may add one; the session, made at its first use; and `_whole`,
    replaced whole, of which any of several threads' will do.
    """

    def __init__(self, plan: Plan) -> None:
        self.pool = plan.pool
        self.authorizer = plan.authorizer
        self.guards = tuple(plan.request_guards)
        self.transparent = plan.pool is None or plan.pool.transparent
        self.pipeline = plan.pipeline
        self.base_url = plan.base_url
        #: URLs of the hosts that requests went to, or will go to.
        self.hosts: dict[str, None] = {}
        for url in plan.known_urls:
            self._note(url)
        self._session: Any = None
        #: Where a credential would go but for plain http, and the log says so. What changes: any thread may add one.
        self._told: set[str] = set()
        #: Called when a call begins, so that its requests come here; None: they only come by the session.
        self.ready = transparent.install if self.transparent else None
        #: The path of a call around this one's, and this path completed by it.
        self._whole: tuple[RequestPath, RequestPath] | None = None
        self._chain = self._bound()

    def _bound(self) -> Proceed:
        proceed: Proceed = self._attempt
        for guard in reversed(self.guards):
            proceed = guard.bind(proceed)
        return proceed

    def _within(self, outer: RequestPath) -> RequestPath:
        """This path, with what it lacks taken from the one of the call around: a foreign decorator stood between."""
        known = self._whole
        if known is not None and known[0] is outer:
            return known[1]
        whole = copy(self)
        if outer.transparent:
            whole.pool = self.pool if self.pool is not None else outer.pool
            whole.guards = self.guards or outer.guards
        if self.authorizer is None or self.authorizer.source is None:
            whole.authorizer = outer.authorizer or self.authorizer
        whole._chain = whole._bound()
        self._whole = (outer, whole)
        return whole

    def _note(self, url: str) -> None:
        """Another host that requests will go to; a bare host says nothing new where its port is known."""
        host = urlsplit(url).hostname
        if all(urlsplit(known).hostname != host for known in self.hosts):
            self.hosts[dependency_of(url)] = None

    @property
    def session(self) -> Any:
        """A session whose requests come here, in a call and outside one."""
        if self._session is None:
            # Imports requests.
            from resilience.http.client import PathSession

            given = None if self.pool is None else self.pool.given_session
            self._session = given if given is not None else PathSession(self)
        return self._session

    # ---- a request

    def send(self, call: Call, adapter: Any, prepared: Any, options: dict[str, Any]) -> Any:
        """The answer to a prepared request, or the exception that `requests` would raise."""
        if call.parent is not None and call.path is self:
            return _whole_path(call)._send(call, adapter, prepared, options)
        return self._send(call, adapter, prepared, options)

    def _send(self, call: Call, adapter: Any, prepared: Any, options: dict[str, Any]) -> Any:
        unit = Request(call, adapter, prepared, options)
        if self.guards:
            call.note_request()
        elif self.pool is not None:
            _count(call)
        if unit.dependency not in self.hosts and len(self.hosts) < _MOST:
            self.hosts[unit.dependency] = None
        if self.authorizer is not None:
            self._identify(unit)
        self._chain(unit)
        error, unit.error = unit.error, None
        if error is not None:
            if self.guards:
                mark_guarded(error)
            try:
                raise as_requests_would(error, unit.prepared)
            finally:
                del error
        response = unit.result
        if self.guards:
            mark_guarded(response)
        return response

    def _identify(self, unit: Request) -> None:
        """Headers that all attempts of the request share, on a copy: the caller's own stays as it was."""
        authorizer, headers = self.authorizer, unit.prepared.headers
        added: dict[str, str] = {}
        name, request_id = authorizer.request_id_header, unit.call.request_id
        if name and request_id and name not in headers and authorizer.is_ours(unit.prepared.url):
            added[name] = request_id
        if authorizer.idempotency_key and unit.prepared.method == "POST" and "Idempotency-Key" not in headers:
            added["Idempotency-Key"] = new_idempotency_key()
            unit.idempotent = True
        if added:
            unit.prepared = _copy(unit.prepared, type(headers))
            unit.prepared.headers.update(added)

    def _attempt(self, unit: Request) -> None:
        attempt = Attempt(unit.deadline)
        try:
            if unit.deadline is not None and CLOCK.monotonic() >= unit.deadline:
                raise DeadlineExceeded(f"{unit.dependency}: the deadline passed before the request could be sent")
            if unit.attempt > 1 and unit.prepared.body is not None:
                _rewind(unit.prepared)
            unit.result = self._exchange(unit, attempt)
        except BaseException as error:
            unit.result = None
            unit.error = error
            unit.outcome = of_error(error, sent=was_sent(attempt) if self.pool is not None else None)
            if attempt.deadline is not None and CLOCK.monotonic() >= attempt.deadline and isinstance(error, OSError):
                # What requests says of its own timeouts is not what happened.
                with suppress(Exception):
                    error.add_note("resilience: the deadline of the call ended this attempt")
            if getattr(error, "request", error) is None:
                # requests itself does not say it where a body ends early.
                error.request = unit.prepared  # type: ignore[attr-defined]
        else:
            unit.error = None
            unit.outcome = of_result(unit.result)

    def _exchange(self, unit: Request, attempt: Attempt) -> Any:
        """One attempt; where its credential has been refused, a second exchange with a new one."""
        authorizer, url = self.authorizer, unit.prepared.url
        if authorizer is None or not self._may_know(unit, url):
            return self._deliver(unit, unit.prepared, attempt)
        credential = authorizer.source.get(unit.deadline)
        response = self._deliver_as(unit, credential, attempt)
        if response.status_code in authorizer.refresh_on and not unit.renewed and unit.replayable:
            unit.renewed = True
            try:
                fresh = authorizer.source.renew(credential, unit.deadline)
            except BaseException:
                response.close()
                raise
            if fresh is not None:
                response.close()
                _rewind(unit.prepared)
                response = self._deliver_as(unit, fresh, attempt)
            if response.status_code in authorizer.refresh_on:
                again = "the same again" if fresh is None else "a fresh one, too"
                _log.warning("%s refused the credential (%d), %s", unit.dependency, response.status_code, again)
        return response

    def _may_know(self, unit: Request, url: str) -> bool:
        """Whether the credential may go to this URL: its hosts only, and none that another host sent us to."""
        authorizer = self.authorizer
        if authorizer.source is None:
            return False
        if not authorizer.allows(url):
            if url.startswith("http:") and unit.dependency not in self._told and authorizer.is_ours(url):
                # Once: from here on only a 401 would speak of it.
                self._told.add(unit.dependency)
                _log.warning("%s: no credential is sent over plain http (insecure=True would)", unit.dependency)
            return False
        return not has_strayed(unit.call, url)

    def _deliver_as(self, unit: Request, credential: Any, attempt: Attempt) -> Any:
        from resilience.http.headers import AttemptHeaders

        request = _copy(unit.prepared, AttemptHeaders)
        self.authorizer.apply(request.headers, request.url, credential)
        try:
            response = self._deliver(unit, request, attempt)
        except Exception as error:
            hand_back(error, request, unit.prepared)
            raise
        finally:
            # This frame may be rendered with its locals: the copy that knows the credential ends here.
            del request
        response.request = unit.prepared
        return response

    def _deliver(self, unit: Request, request: Any, attempt: Attempt) -> Any:
        if self.pool is None:
            response = _send_as_ever(unit, request, attempt)
        else:
            response = self.pool.send(request, attempt, unit.options)
        note_redirect(unit.call, request.url, response)
        return response

    # ---- what else a call may want

    def probe(self, call: Call, url: str) -> Outcome:
        """Ask `url` for its headers, past all guards and over a new connection: what came of it.

        What has stood idle through an outage may be dead, and would say nothing of the dependency.
        """
        import requests

        if self.pool is not None:
            self.pool.retire_all("outage", urlsplit(url).hostname)
        prepared = self.session.prepare_request(requests.Request("HEAD", url))
        # The CA bundle and the proxies of the environment, as for all others.
        options = self.session.merge_environment_settings(prepared.url, {}, None, None, None)
        unit = Request(call, self.session.get_adapter(url), prepared, options)
        self._attempt(unit)
        outcome, unit.error = unit.outcome, None
        return outcome

    def auth_headers(self, call: Call, url: str) -> dict[str, str]:
        """The credential for `url` as headers; none if it is not for that host."""
        authorizer = self.authorizer
        if authorizer is None or authorizer.source is None or not authorizer.allows(url):
            return {}
        call.credential = credential = authorizer.source.get(call.deadline)
        return authorizer.headers_for(url, credential)  # type: ignore[no-any-return]


def _copy(prepared: Any, kind: type[Any]) -> Any:
    """A prepared request of its own, its headers of that `kind`. `PreparedRequest.copy` would copy the cookie jar, too,
    at ten times the cost; the header that came of it is in the headers already."""
    made = type(prepared)()
    made.__dict__.update(prepared.__dict__)
    made.headers = kind(prepared.headers)
    return made


def _rewind(prepared: Any) -> None:
    if isinstance(getattr(prepared, "_body_position", None), int):
        from requests.utils import rewind_body

        rewind_body(prepared)


def _send_as_ever(unit: Request, request: Any, attempt: Attempt) -> Any:
    """What would be done without us; the choke point lets through what is an attempt already."""
    from requests.adapters import HTTPAdapter

    token = ATTEMPT.set(attempt)
    try:
        # Not by the adapter, which may be one of ours.
        return HTTPAdapter.send(unit.adapter, request, **unit.options)
    finally:
        ATTEMPT.reset(token)


def _count(call: Call | None) -> None:
    """Another request through the pool, of this call and of those around it, that no guard of requests has judged."""
    while call is not None:
        call.requests += 1
        call = call.parent


def _whole_path(call: Call) -> Any:
    """The path of a call, completed by those of the calls around it."""
    if call.parent is None:
        return call.path
    outer = _whole_path(call.parent)
    if call.path is call.parent.path:
        return outer
    return call.path if outer is None else call.path._within(outer)
