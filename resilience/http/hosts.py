"""Which hosts may be sent a credential.

A URL has no meaning of its own, only the one that the client gives it. What is asked here is therefore where *requests*
would connect to: a plain `scheme://host:port` has one reading, and anything else is read by urllib3's parser, which
requests uses to prepare a request, and by `urllib.parse`, which its adapter uses to connect. Where they disagree, the
answer is no.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from resilience.core.errors import ConfigurationError

__all__ = ["HostRule", "is_loopback", "is_secure"]

_ALLOWED = "allowed are host names such as 'api.example.com', 'api.example.com:8443', '[::1]' or '*.example.com'"

#: A URL whose host every parser reads alike.
_PLAIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(?P<port>[0-9]{0,5}))?(?=[/?#]|\Z)",
    re.IGNORECASE | re.ASCII,
)
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_DEFAULT_PORT = {"https": 443, "http": 80}
_MAX_VERDICTS = 256

#: Where a URL leads: scheme, host and port; the host in lower case and ASCII, without a trailing dot, IPv6 in brackets.
_Target = tuple[str, str, int]
#: One entry of a rule: host, port (None is any), and whether any number of labels stands in front of the host.
_Pattern = tuple[str, int | None, bool]


class HostRule:
    """The hosts that a credential may be sent to.

    What changes: `_verdicts`, a bounded memo of answers. No lock: an answer depends on nothing but its key, so that the
    worst a race can do is to work it out twice.
    """

    __slots__ = ("_patterns", "_verdicts", "exact_hosts")

    #: The hosts named in full, as they stand in a URL (`api.example.com`, `[::1]:8443`): those that can be warmed.
    exact_hosts: tuple[str, ...]

    def __init__(self, patterns: Iterable[_Pattern]) -> None:
        self._patterns = tuple(dict.fromkeys(patterns))
        self._verdicts: dict[tuple[str, bool], bool] = {}
        self.exact_hosts = tuple(_shown(p) for p in self._patterns if not p[2])

    @classmethod
    def parse(cls, hosts: str | Iterable[str], setting: str = "hosts") -> HostRule:
        """A rule from one host or several.

        hosts: `api.example.com` (that host), `api.example.com:8443` (on that port only), `127.0.0.1`, `[::1]`, or
            `*.example.com` (every host below it, at any depth, but not `example.com` itself). Case and a trailing dot
            do not matter; international names may be written either way (RFC 5891).
        Raises `ConfigurationError` for anything else: a lone `*`, a wildcard over a top-level domain, a URL.
        """
        given = [hosts] if isinstance(hosts, str) else hosts
        try:
            patterns = [_pattern(host, setting) for host in given]
        except TypeError:
            raise ConfigurationError(f"{setting}={hosts!r}: {_ALLOWED}, or several of them") from None
        if not patterns:
            raise ConfigurationError(f"{setting}={hosts!r} names no host; {_ALLOWED}")
        return cls(patterns)

    def allows(self, url: str, insecure: bool = False) -> bool:
        """Whether a request to `url` may carry the credential.

        insecure: also over plain http to a host that is not loopback.
        """
        plain = _PLAIN.match(url)
        if plain is None:
            # Not remembered: the key could hold a password.
            return self._judge(_read_closely(url), insecure)
        key = (plain.group(), insecure)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._judge(_target_of(*plain.group("scheme", "host", "port")), insecure)
            if len(self._verdicts) >= _MAX_VERDICTS:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        return verdict

    def _judge(self, target: _Target | None, insecure: bool) -> bool:
        if target is None:
            return False
        if not insecure and not _is_safe(target):
            return False
        return any(_matches(pattern, target) for pattern in self._patterns)

    def __str__(self) -> str:
        return ", ".join(map(_shown, self._patterns))

    def __repr__(self) -> str:
        return f"HostRule({self})"


def is_loopback(url: str) -> bool:
    """Whether `url` leads to 127.0.0.0/8, `::1` or `localhost`."""
    target = _target(url)
    return target is not None and _is_loopback(target[1])


def is_secure(url: str) -> bool:
    """Whether a secret may travel to `url`: https, or http to loopback."""
    target = _target(url)
    return target is not None and _is_safe(target)


def _is_safe(target: _Target) -> bool:
    return target[0] == "https" or _is_loopback(target[1])


def _matches(pattern: _Pattern, target: _Target) -> bool:
    host, port, wildcard = pattern
    if port is not None and port != target[2]:
        return False
    if wildcard:
        return target[1].endswith(f".{host}") and _is_name(target[1])
    return target[1] == host


def _target(url: str) -> _Target | None:
    plain = _PLAIN.match(url)
    return _target_of(*plain.group("scheme", "host", "port")) if plain else _read_closely(url)


def _target_of(scheme: str, host: str, port: str | int | None) -> _Target | None:
    scheme = scheme.lower()
    number = int(port) if port not in (None, "") else _DEFAULT_PORT.get(scheme, 0)
    named = _canonical(host)
    if named is None or scheme not in _DEFAULT_PORT or number > 65535:
        return None
    return scheme, named, number


def _read_closely(url: str) -> _Target | None:
    """The target of a URL with user information or an international name, if there is only one way to read it."""
    # At first use: whoever has a URL to send to has urllib3 loaded.
    from urllib.parse import urlsplit

    from urllib3.util import parse_url

    authority = re.match(r"[a-z]+://([^/?#]*)", url, re.IGNORECASE | re.ASCII)
    if authority is None or re.search(r"[\x00-\x20\x7f\\]", authority.group()):
        return None
    try:
        one, other = parse_url(url), urlsplit(url)
        # urllib3 leaves names in ASCII; urllib.parse leaves them as they are.
        host = other.hostname if authority.group().isascii() else one.host
        agreed = (one.scheme, (one.host or "").strip("[]"), one.port) == (
            other.scheme,
            (host or "").strip("[]"),
            other.port,
        )
    except ValueError:  # LocationParseError is one too
        return None
    if not agreed or not one.host or one.scheme is None:
        return None
    return _target_of(one.scheme, one.host, one.port)


def _canonical(host: str) -> str | None:
    """`host` in the one way of writing it; None if it is none."""
    host = host.lower()
    if host.startswith("["):
        # At first use: 3 ms, for the few who have such an address.
        from ipaddress import IPv6Address

        try:
            return f"[{IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return None
    host = host.removesuffix(".")
    if _is_ipv4(host) or _is_name(host):
        return host
    return None


def _is_ipv4(host: str) -> bool:
    """Four numbers up to 255, without leading zeros, which some take for octal."""
    parts = host.split(".")
    return len(parts) == 4 and all(map(_is_octet, parts))


def _is_octet(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3 and str(int(text)) == text and int(text) <= 255


def _is_loopback(host: str) -> bool:
    """RFC 6761 and RFC 1122 §3.2.1.3; a name that merely resolves to one of them proves nothing."""
    return host in ("localhost", "[::1]") or (host.startswith("127.") and _is_ipv4(host))


def _is_name(host: str) -> bool:
    labels = host.split(".")
    # A last label of digits makes it an odd way to write an address (WHATWG URL §3.5), as in 127.1.
    return all(map(_LABEL.fullmatch, labels)) and not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", labels[-1])


def _pattern(given: object, setting: str) -> _Pattern:
    """One entry of a rule, or `ConfigurationError`."""
    wrong = ConfigurationError(f"{setting}={given!r}: {_ALLOWED}")
    if not isinstance(given, str):
        raise wrong
    wildcard = given.startswith("*.")
    rest = given[2:] if wildcard else given
    if rest.count(":") > 1 and not rest.startswith("["):
        rest = f"[{rest}]"
    parts = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]\\\s:/?#@%*,]+)(?::([0-9]{1,5}))?", rest)
    if parts is None:
        raise wrong
    host = _canonical(parts[1]) if parts[1].isascii() else _ascii(parts[1])
    port = None if parts[2] is None else int(parts[2])
    if host is None or (port is not None and not 0 < port <= 65535):
        raise wrong
    if wildcard and ("." not in host or not _is_name(host)):
        raise wrong
    return host, port, wildcard


def _ascii(host: str) -> str | None:
    """An international name as urllib3 would look it up."""
    from urllib3.util import parse_url

    try:
        encoded = parse_url(f"https://{host}/").host
    except ValueError:
        return None
    return _canonical(encoded) if encoded else None


def _shown(pattern: _Pattern) -> str:
    host, port, wildcard = pattern
    return f"{'*.' if wildcard else ''}{host}{'' if port is None else f':{port}'}"
