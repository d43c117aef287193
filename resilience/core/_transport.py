"""Which exceptions are failures of the transport, and whether the request may have been sent before them.

Known by the package and the name of a class and of its bases, so that nothing is imported to ask. A rule holds for
subclasses too, and the most derived class that has a rule decides.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

__all__ = ["class_names", "maybe_sent", "unwrapped"]

_NOT_SENT, _SENT = False, True

#: By package and class name: whether the request may have been sent (None: only what is inside tells), and where to
#: look inside first: "" nowhere, "args" in `reason` and the arguments, "cause" in `__cause__` and `__context__` too.
_RULES: dict[tuple[str, str], tuple[bool | None, str]] = {}


def _rule(packages: str, sent: bool | None, names: str, inside: str = "") -> None:
    _RULES.update({(package, name): (sent, inside) for package in packages.split() for name in names.split()})


_rule("builtins", _NOT_SENT, "ConnectionRefusedError")
# A bare timeout says nothing of when; the request may have been processed.
_rule("builtins", _SENT, "ConnectionError TimeoutError")
_rule("socket", _NOT_SENT, "gaierror herror")
_rule("ssl", _NOT_SENT, "SSLError")
# Without more, it cannot be told from the end of a connection whose request had been sent.
_rule("ssl", _SENT, "SSLEOFError SSLZeroReturnError SSLSyscallError")
_rule("asyncio", _SENT, "IncompleteReadError")
_rule("http", _SENT, "RemoteDisconnected IncompleteRead BadStatusLine LineTooLong UnknownProtocol")
_rule("urllib", _SENT, "ContentTooShortError")
_rule("urllib", None, "URLError", "args")

_rule("requests", _NOT_SENT, "ConnectTimeout ProxyError")
_rule("requests", _SENT, "Timeout ChunkedEncodingError ContentDecodingError")
_rule("requests", _NOT_SENT, "SSLError", "args")
_rule("requests", _SENT, "ConnectionError", "args")
_rule("requests", None, "RetryError", "args")

_URLLIB3_NOT_SENT = "ConnectTimeoutError ProxyError EmptyPoolError FullPoolError ClosedPoolError CertificateError"
_rule("urllib3", _NOT_SENT, _URLLIB3_NOT_SENT)
_rule("urllib3", _SENT, "TimeoutError ProtocolError IncompleteRead InvalidChunkLength DecodeError")
_rule("urllib3", _NOT_SENT, "SSLError", "args")
_rule("urllib3", None, "MaxRetryError", "args")

_HTTPX = "httpx httpx2 httpcore httpcore2"
_rule(_HTTPX, _NOT_SENT, "ConnectError ConnectTimeout PoolTimeout ProxyError")
_rule(_HTTPX, _SENT, "NetworkError TimeoutException RemoteProtocolError DecodingError")

_rule("aiohttp", _NOT_SENT, "ClientConnectorError ConnectionTimeoutError ServerFingerprintMismatch")
_rule("aiohttp", _SENT, "ClientConnectionError ClientPayloadError")

_rule("botocore", _NOT_SENT, "ConnectionError EndpointConnectionError ConnectTimeoutError ProxyConnectionError")
_rule("botocore", _SENT, "ReadTimeoutError ConnectionClosedError ResponseStreamingError IncompleteReadError")
_rule("botocore", _NOT_SENT, "SSLError", "cause")
_rule("botocore", _SENT, "HTTPClientError", "cause")

# openai, anthropic, and every other client made by the same generator.
_rule("*", _SENT, "APIConnectionError", "cause")


def _errnos(*names: str) -> frozenset[int]:
    # Not every platform has them all.
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


_NOT_SENT_ERRNOS = _errnos("EHOSTUNREACH", "ENETUNREACH", "EHOSTDOWN", "ENETDOWN", "EADDRNOTAVAIL")
_SENT_ERRNOS = _errnos("ENOTCONN", "ENETRESET")


def class_names(error: BaseException) -> set[str]:
    """The names of the error's class and of all its bases."""
    return {cls.__name__ for cls in type(error).__mro__}


def unwrapped(error: BaseException) -> Iterator[BaseException]:
    """`error`, and what it wraps, where it is of a kind that wraps; outermost first, each once, at most 16."""
    waiting = [error]
    seen: set[int] = set()
    while waiting and len(seen) < 16:
        this = waiting.pop(0)
        if id(this) in seen:
            continue
        seen.add(id(this))
        yield this
        inside = _looked_up(this)[1]
        if inside:
            within = [getattr(this, "reason", None), *this.args[:4]]
            if inside == "cause":
                within += [this.__cause__, this.__context__]
            waiting[:0] = [e for e in within if isinstance(e, BaseException)]


def maybe_sent(chain: list[BaseException]) -> bool | None:
    """Whether the request may have been sent before it failed; None: no transport failure.

    chain: from `unwrapped`. The first answer that is certain holds, or else the outermost that is assumed.
    """
    assumed: bool | None = None
    for error in chain:
        sent, inside = _looked_up(error)
        if sent is not None and not inside:
            return sent
        assumed = sent if assumed is None else assumed
    return assumed


def _looked_up(error: BaseException) -> tuple[bool | None, str]:
    for cls in type(error).__mro__:
        # The C parts of the standard library have their module's name with an underscore before it.
        package = cls.__module__.partition(".")[0].lstrip("_")
        rule = _RULES.get((package, cls.__name__)) or _RULES.get(("*", cls.__name__))
        if rule is not None:
            return (_SENT, "") if package == "ssl" and _record_broken(error) else rule
    number = error.errno if isinstance(error, OSError) else None
    return (_NOT_SENT if number in _NOT_SENT_ERRNOS else _SENT if number in _SENT_ERRNOS else None), ""


def _record_broken(error: BaseException) -> bool:
    # A record is what carries data, after the handshake.
    reason = str(getattr(error, "reason", None) or "")
    return "BAD_RECORD_MAC" in reason or "DECRYPTION_FAILED" in reason
