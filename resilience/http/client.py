"""A session whose requests go through a pipeline; imports requests, so it is itself imported at first use."""

from __future__ import annotations

from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_netrc_auth

from resilience.core.call import CURRENT, find

if TYPE_CHECKING:
    from resilience.http.request import RequestPath

__all__ = ["PathAdapter", "PathSession"]


class PathAdapter(HTTPAdapter):
    """Sends what a session of ours sends along the path of its pipeline."""

    def __init__(self, path: RequestPath) -> None:
        super().__init__()
        self._path = path

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """As `HTTPAdapter.send`; outside a call, the request is a call of its own."""
        call = find()
        if call is not None:
            return self._path.send(call, self, request, options)
        call = self._path.pipeline.stand_alone()
        token = CURRENT.set(call)
        try:
            return self._path.send(call, self, request, options)
        finally:
            CURRENT.reset(token)
            call.ended = True


class PathSession(requests.Session):
    """A `requests.Session` that keeps no cookies, that `.netrc` does not override, and that knows the base URL.

    A URL without a scheme is taken to be below the base URL.
    """

    def __init__(self, path: RequestPath) -> None:
        super().__init__()
        self._base_url = path.base_url
        # One caller's cookies must not reach another.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.auth = _netrc_unless_given
        for scheme in ("https://", "http://"):
            self.mount(scheme, PathAdapter(path))

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """As `Session.request`, with `url` below the base URL where it has no scheme."""
        if self._base_url is not None and isinstance(url, str) and not urlsplit(url).scheme:
            url = f"{self._base_url.rstrip('/')}/{url.lstrip('/')}"
        return super().request(method, url, *args, **kwargs)

    def close(self) -> None:
        """Nothing to close: the connections are the pool's, which others use."""


def _netrc_unless_given(request: Any) -> Any:
    # `trust_env` lets netrc overwrite an Authorization header; being an `auth=` ourselves, we are asked instead.
    if "Authorization" not in request.headers:
        found = get_netrc_auth(request.url)
        if found:
            request.prepare_auth(found)
    return request
