"""The headers of an attempt that has a credential. Imports requests, so it is itself imported at first use."""

from __future__ import annotations

from requests.structures import CaseInsensitiveDict

__all__ = ["AttemptHeaders"]


class AttemptHeaders(CaseInsensitiveDict[str]):
    """Headers whose repr shows their names only: they are in the frames of all that sends them, down to the socket."""

    def copy(self) -> AttemptHeaders:
        """Another of the same kind; urllib3 makes one for a proxy."""
        return AttemptHeaders(self)

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{name!r}: '***'" for name in self) + "}"
