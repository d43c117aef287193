"""A session whose requests go through a pipeline; imports requests, so it is itself imported at first use."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.sessions import merge_setting
from requests.utils import get_netrc_auth

from resilience.core.call import CURRENT, Call, find

if TYPE_CHECKING:
    from resilience.http.request import RequestPath

__all__ = ["PathAdapter", "PathSession"]

#: The order in which `HTTPAdapter.send` takes its options.
_OPTIONS = ("stream", "timeout", "verify", "cert", "proxies")


@contextmanager
def _own_call(path: RequestPath) -> Iterator[Call]:
    """A call for what no call of the function encloses."""
    call = path.pipeline.stand_alone()
    token = CURRENT.set(call)
    try:
        yield call
    finally:
        CURRENT.reset(token)
        call.ended = True


class PathAdapter(HTTPAdapter):
    """Sends what a session of ours sends along the path of its pipeline."""

    def __init__(self, path: RequestPath) -> None:
        super().__init__()
        self._path = path

    def send(self, request: Any, *args: Any, **options: Any) -> Any:
        """As `HTTPAdapter.send`; outside a call, the request is a call of its own."""
        if args:
            options.update(zip(_OPTIONS, args, strict=False))
        call = find()
        if call is not None:
            return self._path.send(call, self, request, options)
        with _own_call(self._path) as call:
            return self._path.send(call, self, request, options)


class PathSession(requests.Session):
    """A `requests.Session` that keeps no cookies, that `.netrc` does not override, and that knows the base URL.

    A URL without a scheme is taken to be below the base URL.
    """

    def __init__(self, path: RequestPath) -> None:
        super().__init__()
        self._path = path
        # One caller's cookies must not reach another.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        self.auth = _netrc_unless_given
        for scheme in ("https://", "http://"):
            self.mount(scheme, PathAdapter(path))

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """As `Session.prepare_request`, with the URL below the base URL where it has no scheme."""
        base, url = self._path.base_url, request.url
        if base is not None and isinstance(url, str) and not urlsplit(url).scheme:
            request = copy.copy(request)
            request.url = f"{base.rstrip('/')}/{url.lstrip('/')}"
        return super().prepare_request(request)

    def send(self, request: Any, **options: Any) -> requests.Response:
        """As `Session.send`; outside a call, the request and where it is redirected to are one call."""
        if find() is not None:
            return super().send(request, **options)
        with _own_call(self._path):
            return super().send(request, **options)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """As `Session.merge_environment_settings`, which spends a fifth of a request on looking for proxies."""
        if not self.trust_env or _may_name_proxies():
            return super().merge_environment_settings(url, proxies, stream, verify, cert)
        if verify is True or verify is None:
            verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or verify
        given = {"proxies": proxies, "stream": stream, "verify": verify, "cert": cert}
        return {name: merge_setting(value, getattr(self, name)) for name, value in given.items()}  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Nothing to close: the connections are the pool's, which others use."""


def _may_name_proxies() -> bool:
    """Whether `urllib.request.getproxies` could find any: by the names alone, which is all but free."""
    # There the system's own settings count, too.
    if sys.platform in ("win32", "darwin"):
        return True
    return any(name[-6:].lower() == "_proxy" for name in os.environ)


def _netrc_unless_given(request: Any) -> Any:
    # `trust_env` lets netrc overwrite an Authorization header; being an `auth=` ourselves, we are asked instead.
    if "Authorization" not in request.headers:
        # Without any, what stands in the URL is taken.
        request.prepare_auth(get_netrc_auth(request.url))
    return request
