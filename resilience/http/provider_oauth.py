"""Access tokens by OAuth 2.0 client credentials (RFC 6749 §4.4)."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import quote_plus, urlencode, urlsplit

from resilience.core.clock import CLOCK
from resilience.core.errors import ConfigurationError, CredentialUnavailable
from resilience.core.settings import Settings
from resilience.http.credential import Credential, Provider, Sealed, problem_with
from resilience.http.hosts import is_secure

__all__ = ["oauth2_client_credentials"]

#: RFC 6749 §5.2. Of an error's body nothing else is shown: servers repeat there what they were sent.
_ERRORS = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
    }
)


def oauth2_client_credentials(
    token_url: str,
    *,
    client_id: str,
    client_secret: str | Callable[[], str | Credential],
    scope: str | None = None,
    audience: str | None = None,
    auth: Literal["basic", "post"] = "basic",
    timeout: float = 5.0,
    leeway: float = 10.0,
) -> Provider:
    """An access token from an authorization server, asked for with the client's own credentials.

    token_url: https, or http to loopback.
    client_secret: the secret; or "env:NAME", an environment variable; or a callable that returns it, such as
        `secrets_manager(...)`. The last two are asked for each token.
    scope, audience: sent if given; `audience` is what Auth0 and others want beyond the RFC.
    auth: "basic" sends id and secret in the Authorization header, "post" in the body (RFC 6749 §2.3.1).
    timeout: seconds, above 0 and at most 60, to connect and again for each read.
    leeway: seconds, 0 to 3600, by which the token is taken to end earlier than the server says (half its life at most).
    Raises `ConfigurationError` at once for wrong settings, `CredentialUnavailable` when asked.
    """
    secret = _secret(client_secret)
    # Not in this frame when a setting is found to be wrong.
    del client_secret
    settings = Settings("oauth2_client_credentials")
    _check_url(settings, token_url)
    settings.text("client_id", client_id)
    settings.text("scope", scope, optional=True)
    settings.text("audience", audience, optional=True)
    settings.choice("auth", auth, ("basic", "post"))
    settings.number("timeout", timeout, above=True, most=60.0)
    settings.number("leeway", leeway, most=3600.0)
    form = {"grant_type": "client_credentials"}
    if scope is not None:
        form["scope"] = scope
    if audience is not None:
        form["audience"] = audience
    if secret is None:
        raise ConfigurationError(
            "oauth2_client_credentials: client_secret=*** is not a string that is not empty, 'env:NAME' or a callable"
        )
    return _ClientCredentials(token_url, _ClientAuth(client_id, secret, auth == "post"), form, timeout, leeway)


def _check_url(settings: Settings, token_url: Any) -> None:
    allowed = "an https URL (http to loopback only), without a user"
    # What stands before an @ may be a password.
    shown = f"...@{token_url.rpartition('@')[2]}" if isinstance(token_url, str) and "@" in token_url else token_url
    if not isinstance(token_url, str) or "@" in token_url or "#" in token_url or not is_secure(token_url):
        del token_url
        raise settings.wrong("token_url", shown, allowed)


def _secret(given: Any) -> Callable[[], Any] | None:
    """What gives the client's secret when it is called; None if `given` is nothing that could."""
    if isinstance(given, str):
        if given.startswith("env:"):
            return _env(given[4:]) if given[4:] else None
        return _Constant(given) if given else None
    return given if callable(given) else None


def _env(variable: str) -> Callable[[], str]:
    def read() -> str:
        if not os.environ.get(variable):
            raise CredentialUnavailable(f"the environment variable {variable} is not set, or empty")
        return os.environ[variable]

    return read


class _Constant:
    """A callable that gives the same secret each time, and does not show it."""

    def __init__(self, value: str) -> None:
        self._value = Sealed(value)

    def __call__(self) -> str:
        return self._value.value


class _ClientAuth:
    """Proves who the client is, as an `auth=` of requests: with one, .netrc is not looked at. Immutable."""

    def __init__(self, client_id: str, secret: Callable[[], Any], post: bool) -> None:
        self._client_id = client_id
        self._secret = secret
        self._post = post

    def prepared(self) -> Callable[[Any], Any]:
        """What puts id and secret into a request; the secret is asked for here. Raises `CredentialUnavailable`."""
        sealed = self._resolved()
        return lambda request: self._put(request, sealed)

    def _resolved(self) -> Sealed[str]:
        try:
            answer = Sealed(self._secret())
        except CredentialUnavailable:
            raise
        except Exception as error:
            raise CredentialUnavailable(f"client_secret: {type(error).__name__}") from error
        if isinstance(answer.value, Credential):
            answer = Sealed(answer.value.value)
        if not isinstance(answer.value, str) or not answer.value:
            raise CredentialUnavailable("client_secret: is empty, or not a str")
        return answer

    def _put(self, request: Any, sealed: Sealed[str]) -> Any:
        if self._post:
            request.body += "&" + urlencode({"client_id": self._client_id, "client_secret": sealed.value})
            return request
        # Each is form-encoded first (RFC 6749 §2.3.1), so that a colon in the id is none.
        request.headers["Authorization"] = "Basic " + base64.b64encode(
            f"{quote_plus(self._client_id)}:{quote_plus(sealed.value)}".encode()
        ).decode("ascii")
        return request


class _ClientCredentials(Provider):
    """Immutable."""

    def __init__(self, url: str, auth: _ClientAuth, form: dict[str, str], timeout: float, leeway: float) -> None:
        self.name = f"oauth2:{urlsplit(url).netloc}"
        self._url = url
        self._auth = auth
        self._form = form
        self._timeout = timeout
        self._leeway = leeway

    def __call__(self) -> Credential:
        asked_at = CLOCK.wall()
        try:
            auth = self._auth.prepared()
        except CredentialUnavailable as error:
            raise CredentialUnavailable(f"{self.name}: {error}") from error
        status, fields, failure = self._exchange(auth)
        if failure is not None:
            raise CredentialUnavailable(f"{self.name}: {failure}")
        if not 200 <= status < 300:
            raise CredentialUnavailable(f"{self.name}: {_refusal(status, fields)}")
        problem = problem_with(fields.value.get("access_token"))
        if problem is not None:
            raise CredentialUnavailable(f"{self.name}: the access_token {problem}")
        life = _seconds(fields.value.get("expires_in"))
        ends = None if life is None else asked_at + life - min(self._leeway, life / 2)
        return Credential(fields.value["access_token"], ends)

    def _exchange(self, auth: Callable[[Any], Any]) -> tuple[int, Sealed[dict[str, Any]], str | None]:
        """Status and body of the answer, or what failed.

        Not as an exception: the frames of urllib3 in its traceback would hold the headers that were sent.
        """
        # At first use; whoever needs a token for requests has it loaded.
        import requests

        try:
            with requests.Session() as session:
                answer = session.post(
                    self._url,
                    data=self._form,
                    auth=auth,
                    headers={"Accept": "application/json"},
                    timeout=self._timeout,
                    allow_redirects=False,
                )
        except Exception as error:
            return 0, Sealed({}), type(error).__name__
        return answer.status_code, _fields(answer), None


def _fields(answer: Any) -> Sealed[dict[str, Any]]:
    try:
        parsed = Sealed(answer.json())
    except ValueError:
        return Sealed({})
    return Sealed(parsed.value if isinstance(parsed.value, dict) else {})


def _refusal(status: int, fields: Sealed[dict[str, Any]]) -> str:
    code = fields.value.get("error")
    return f"HTTP {status} {code}" if isinstance(code, str) and code in _ERRORS else f"HTTP {status}"


def _seconds(expires_in: Any) -> float | None:
    """`expires_in` as a number: some servers send a string. None where it is none that makes sense."""
    if isinstance(expires_in, bool) or not isinstance(expires_in, (int, float, str)):
        return None
    try:
        seconds = float(expires_in)
    except (ValueError, OverflowError):
        return None
    return seconds if 0 < seconds < 1e9 else None
