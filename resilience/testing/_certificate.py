"""A certificate authority that lives for one test."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterable


class Certificate:
    """A new authority and a server certificate signed by it, made by `trustme`.

    context: the server's SSLContext, offering HTTP/1.1.
    ca_file: path of the authority's certificate (PEM), which clients verify by. `remove()` deletes it.
    """

    def __init__(self, hostnames: Iterable[str]) -> None:
        # cryptography costs 100 ms to import, and a plain HTTP server does not need it.
        import trustme

        authority = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.set_alpn_protocols(["http/1.1"])
        authority.issue_cert(*hostnames).configure_cert(self.context)
        handle, self.ca_file = tempfile.mkstemp(prefix="faulty-api-", suffix=".pem")
        with os.fdopen(handle, "wb") as file:
            file.write(authority.cert_pem.bytes())

    def remove(self) -> None:
        """Delete `ca_file`."""
        if os.path.exists(self.ca_file):
            os.unlink(self.ca_file)
