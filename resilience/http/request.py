"""The way of one request: guards in the order written, a credential resolved now, then the pool.

Nothing here imports requests: where one of its exceptions is to be raised, it has been loaded by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from resilience.core.call import Call, Guarded
from resilience.core.clock import CLOCK
from resilience.core.errors import CircuitOpen, CredentialUnavailable, DeadlineExceeded, RateLimited, also
from resilience.core.outcome import IDEMPOTENT_METHODS, Outcome, mark_guarded, of_error, of_result
from resilience.core.policy import Plan, Proceed
from resilience.http import transparent
from resilience.http.auth import new_idempotency_key
from resilience.http.sockets import Attempt

__all__ = ["Request", "RequestPath", "dependency_of"]

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
        known = f"{parts.scheme}://{host}:{parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)}"
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

    What changes: the hosts seen, of which any thread may add one; and the session, made at its first use.
    """

    def __init__(self, plan: Plan) -> None:
        self.pool = plan.pool
        self.authorizer = plan.authorizer
        self.transparent = plan.pool is None or plan.pool.transparent
        self.pipeline = plan.pipeline
        self.base_url = plan.base_url
        #: URLs of the hosts that requests went to, or will go to.
        self.hosts: dict[str, None] = {}
        for url in plan.known_urls:
            self._note(url)
        self._session: Any = None
        #: Called when a call begins, so that its requests come here; None: they only come by the session.
        self.ready = transparent.install if self.transparent else None
        proceed: Proceed = self._attempt
        for guard in reversed(plan.request_guards):
            proceed = guard.bind(proceed)
        self._chain = proceed

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
        unit = Request(call, adapter, prepared, options)
        if self.pool is not None:
            call.note_request()
        if unit.dependency not in self.hosts and len(self.hosts) < _MOST:
            self.hosts[unit.dependency] = None
        if self.authorizer is not None:
            self._identify(unit)
        self._chain(unit)
        error, unit.error = unit.error, None
        if error is not None:
            try:
                raise self._as_requests_would(error, unit)
            finally:
                del error
        response = unit.result
        if self.pool is not None:
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
            unit.prepared = _copy(unit.prepared)
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
            unit.outcome = of_error(error, sent=attempt.sent if self.pool is not None else None)
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
        return response

    def _may_know(self, unit: Request, url: str) -> bool:
        """Whether the credential may go to this URL: its hosts only, and none that another host sent us to."""
        authorizer = self.authorizer
        if authorizer.source is None or not authorizer.allows(url):
            return False
        redirects = unit.call.redirects
        return redirects is None or redirects.get(url, unit.dependency) == unit.dependency

    def _deliver_as(self, unit: Request, credential: Any, attempt: Attempt) -> Any:
        request = _copy(unit.prepared)
        self.authorizer.apply(request.headers, request.url, credential)
        try:
            response = self._deliver(unit, request, attempt)
        except Exception as error:
            if getattr(error, "request", None) is request:
                error.request = unit.prepared  # type: ignore[attr-defined]
            raise
        finally:
            # This frame may be rendered with its locals: the copy that knows the credential ends here.
            del request
        response.request = unit.prepared
        return response

    def _deliver(self, unit: Request, request: Any, attempt: Attempt) -> Any:
        if self.pool is None:
            response = _below(unit.adapter)(request, **unit.options)
        else:
            response = self.pool.send(request, attempt, unit.options)
        if 300 <= response.status_code < 400 and "location" in response.headers:
            _note_redirect(unit, response.headers["location"])
        return response

    def _as_requests_would(self, error: BaseException, unit: Request) -> BaseException:
        """An error of ours as one that the handler's own `except` clauses catch, too."""
        if not isinstance(error, (CircuitOpen, RateLimited, DeadlineExceeded, CredentialUnavailable)):
            if self.pool is not None:
                mark_guarded(error)
            return error
        import requests

        theirs: type[Exception] = requests.RequestException
        if isinstance(error, CircuitOpen):
            theirs = requests.ConnectionError
        elif isinstance(error, DeadlineExceeded):
            theirs = requests.Timeout
        return retyped(error, theirs, request=unit.prepared, response=None)

    # ---- what else a call may want

    def probe(self, call: Call, url: str) -> Outcome:
        """Ask `url` for its headers, past all guards: what came of it."""
        import requests

        prepared = self.session.prepare_request(requests.Request("HEAD", url))
        unit = Request(call, self.session.get_adapter(url), prepared, {})
        self._attempt(unit)
        outcome, unit.error = unit.outcome, None
        return outcome

    def auth_headers(self, call: Call, url: str) -> dict[str, str]:
        """The credential for `url` as headers; none if it is not for that host."""
        authorizer = self.authorizer
        if authorizer is None or authorizer.source is None or not authorizer.allows(url):
            return {}
        call.credential = credential = authorizer.source.get(call.deadline)
        headers: dict[str, str] = {}
        authorizer.apply(headers, url, credential)
        return headers


def retyped(error: Any, *others: type[BaseException], **attributes: Any) -> BaseException:
    """`error`, made over so that an `except` of any of `others` catches it too."""
    wanted = also(type(error), *others)
    if wanted is type(error):
        return error  # type: ignore[no-any-return]
    # Without arguments: an OSError would take two of them for its errno.
    made: Any = BaseException.__new__(wanted) if not issubclass(wanted, OSError) else OSError.__new__(wanted)
    made.args = error.args
    made.__dict__.update(error.__dict__)
    made.__dict__.update(attributes)
    made.__cause__, made.__suppress_context__ = error.__cause__, True
    return made.with_traceback(error.__traceback__)  # type: ignore[no-any-return]


def _copy(prepared: Any) -> Any:
    """A prepared request of this attempt's own. `PreparedRequest.copy` would copy the cookie jar, too, at ten times the
    cost; the header that came of it is in the headers already."""
    copy = type(prepared)()
    copy.__dict__.update(prepared.__dict__)
    copy.headers = prepared.headers.copy()
    return copy


def _rewind(prepared: Any) -> None:
    if isinstance(getattr(prepared, "_body_position", None), int):
        from requests.utils import rewind_body

        rewind_body(prepared)


def _below(adapter: Any) -> Callable[..., Any]:
    """What a stock adapter's `send` would be without our choke point."""
    from requests.adapters import HTTPAdapter

    send = HTTPAdapter.send
    return getattr(send, "_resilience_original", send).__get__(adapter)  # type: ignore[no-any-return]


def _note_redirect(unit: Request, location: str) -> None:
    """Remember who named the target, so that the next hop carries no credential to another host."""
    from requests.utils import requote_uri

    try:
        target = urldefrag(urljoin(unit.prepared.url, requote_uri(location.encode("latin1").decode("utf8")))).url
    except (ValueError, UnicodeError):
        return
    call = unit.call
    if call.redirects is None:
        call.redirects = {}
    call.redirects[target] = unit.dependency
