"""Where redirects lead, so that a credential does not go along to another host.

A redirect is followed by the user's session, far above; what is seen here is one more request of the same call. So each
target that was named is remembered, and who named it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urldefrag, urljoin, urlsplit

from resilience.core.call import Call

__all__ = ["has_strayed", "note_redirect"]

#: Stands for the host of a request that was sent to another host than it began at: none is the same.
_ASTRAY = ""


def note_redirect(call: Call, url: str, response: Any) -> None:
    """Remember, if `response` redirects a request for `url`, who named the target."""
    if not (300 <= response.status_code < 400 and "location" in response.headers):
        return
    from requests.utils import requote_uri

    try:
        # As `Session.get_redirect_target` and `resolve_redirects` work it out.
        location = response.headers["location"].encode("latin1").decode("utf8")
        target = _key(urljoin(url, requote_uri(location)))
    except (ValueError, UnicodeError):
        # requests can't follow it either.
        return
    origin = _ASTRAY if has_strayed(call, url) else url
    # At once: threads of one call that each made a dictionary would lose what the other had noted.
    vars(call).setdefault("redirects", {})[target] = origin


def has_strayed(call: Call, url: str) -> bool:
    """Whether a request for `url` was redirected there from another host, as requests itself judges it."""
    origin = call.redirects.get(_key(url)) if call.redirects else None
    if origin is None:
        return False
    from requests.sessions import SessionRedirectMixin

    # It asks nothing of its session.
    judge: Any = SessionRedirectMixin.should_strip_auth
    return bool(judge(None, origin, url))


def _key(url: str) -> str:
    """`url` without its fragment, which a redirect may inherit, and as `urlsplit` writes it."""
    return urldefrag(urlsplit(url).geturl()).url
