"""Puts a credential on a request, if the request goes where the credential may go."""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping
from typing import Any

from resilience.core.errors import ConfigurationError
from resilience.http.credential import Credential, Provider
from resilience.http.hosts import HostRule
from resilience.http.source import CredentialSource, resolving

__all__ = [
    "Authorizer",
    "Credential",
    "CredentialSource",
    "Provider",
    "SecretHeaders",
    "new_idempotency_key",
    "resolving",
]

#: RFC 9110 §5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
#: Headers that say how a message is framed or where it goes: a credential there would break the request.
_FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection"})


class SecretHeaders(dict[str, str]):
    """Headers that hold a credential; the repr shows their names only."""

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: '***'" for name in self) + "}"


class Authorizer:
    """The settings of one credential: from where, to which hosts, in which header. Immutable.

    source: None: there is no credential, and only request ids are sent.
    hosts: where the credential may go; None only without a source.
    scheme: goes before the value; "" or None: the bare value.
    refresh_on: statuses, 400 to 499, on which the credential is resolved anew.
    request_id_header: carries the invocation's id; None: not sent.
    idempotency_key: whether each POST gets an `Idempotency-Key`.
    insecure: whether plain http will do for hosts that are not loopback.
    """

    def __init__(
        self,
        source: CredentialSource | None,
        hosts: HostRule | None,
        *,
        scheme: str | None = "Bearer",
        header: str = "Authorization",
        refresh_on: Iterable[int] = (401,),
        request_id_header: str | None = "X-Request-ID",
        idempotency_key: bool = False,
        insecure: bool = False,
    ) -> None:
        if source is not None and hosts is None:
            raise ConfigurationError("hosts=None: a credential must have hosts that it may go to")
        _check_header("header", header)
        if request_id_header is not None:
            _check_header("request_id_header", request_id_header)
        if scheme and not _TOKEN.fullmatch(scheme):
            raise ConfigurationError(f"scheme={scheme!r}: must be a word such as 'Bearer', '' or None")
        self.source = source
        self.hosts = hosts
        self.header = header
        self.refresh_on = frozenset(refresh_on)
        if not all(isinstance(status, int) and 400 <= status <= 499 for status in self.refresh_on):
            raise ConfigurationError(f"refresh_on={refresh_on!r}: must be statuses from 400 to 499")
        self.request_id_header = request_id_header
        self.idempotency_key = idempotency_key
        self.insecure = insecure
        self._prefix = f"{scheme} " if scheme else ""

    def allows(self, url: str) -> bool:
        """Whether a request to `url` is to carry the credential.

        Not where the provider itself makes the request: it would wait for what it is to provide.
        """
        return (
            self.source is not None
            and self.hosts is not None
            and self.hosts.allows(url, self.insecure)
            and resolving() is not self.source
        )

    def is_ours(self, url: str) -> bool:
        """Whether `url` is at one of the hosts, by any scheme: they may know the request id, no secret."""
        return self.hosts is None or self.hosts.allows(url, insecure=True)

    def apply(self, headers: MutableMapping[str, Any], url: str, credential: Credential) -> bool:
        """Set the credential in `headers`, in place of any that is there.

        Returns False, and does nothing, if `url` is not one that it may go to.
        """
        if not self.allows(url):
            return False
        # In those of requests, which know one name by all its spellings, it is replaced by setting it.
        if not hasattr(headers, "lower_items"):
            name = self.header.lower()
            for other in [n for n in headers if _text(n).lower() == name]:
                del headers[other]
        # Last, and with nothing after it that could fail: `headers` is in this frame.
        headers[self.header] = self._prefix + credential.value
        return True

    def headers_for(self, url: str, credential: Credential) -> dict[str, str]:
        """The credential as headers for a client of the user's own; empty if `url` is not one that it may go to."""
        headers = SecretHeaders()
        self.apply(headers, url, credential)
        return headers

    def __repr__(self) -> str:
        return f"Authorizer({self.header} from {self.source} for {self.hosts})"


def new_idempotency_key() -> str:
    """A key that no other request has: a random UUID (RFC 9562 §5.4)."""
    # At first use: 13 ms more than the random bytes alone.
    from uuid import uuid4

    return str(uuid4())


def _text(name: str | bytes) -> str:
    return name.decode("latin-1") if isinstance(name, bytes) else name


def _check_header(setting: str, value: object) -> None:
    if not isinstance(value, str) or not _TOKEN.fullmatch(value) or value.lower() in _FRAMING:
        raise ConfigurationError(f"{setting}={value!r}: must be the name of a header such as 'Authorization'")
