"""A secret that does not show itself, and what gives one.

Nothing here, nor in the modules that use it, keeps the bare string in a local variable or in a parameter while an error
may be raised: a traceback rendered with its locals would show it. It travels inside a `Credential` or a `Sealed`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar

from resilience.core.errors import ConfigurationError, CredentialUnavailable

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Credential", "EnvProvider", "Provider", "Sealed", "problem_with"]

T = TypeVar("T")

#: What RFC 9110 §5.5 forbids in a field value, and the C1 controls, which no key has.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Sealed(Generic[T]):
    """A value whose repr does not show it, for the way from where it was read to where it is used."""

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Sealed(***)"


class Credential:
    """A secret and when it ends; immutable.

    value: what is sent, without its scheme (`Bearer`).
    expires_at: seconds since the epoch, or an aware `datetime`; None if nobody said.
    Raises `CredentialUnavailable` if the value cannot be a header's (RFC 9110 §5.5), without showing it, and
    `ConfigurationError` for an `expires_at` that is no moment.

    `repr`, `str` and `format` do not show the value, and it cannot be pickled.
    """

    __slots__ = ("_value", "expires_at")

    _value: str
    expires_at: float | None

    def __init__(self, value: str, expires_at: float | datetime | None = None) -> None:
        # First: the repr of this frame's `self` may be asked for when the check fails.
        object.__setattr__(self, "expires_at", None)
        problem = problem_with(value)
        if problem is not None:
            del value
            raise CredentialUnavailable(f"the credential {problem}")
        object.__setattr__(self, "_value", value)
        del value
        object.__setattr__(self, "expires_at", _moment(expires_at))

    @property
    def value(self) -> str:
        """The secret itself."""
        return self._value

    def reveal(self) -> str:
        """The secret itself."""
        return self._value

    def __repr__(self) -> str:
        return f"Credential(***, expires_at={self.expires_at})"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Credential):
            return NotImplemented
        # At first use: 10 ms, and few compare.
        import hmac

        return hmac.compare_digest(self._value.encode("latin-1"), other._value.encode("latin-1"))

    def __hash__(self) -> int:
        return hash(self._value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        del value
        raise AttributeError(f"a Credential cannot be changed: {name}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Credential cannot be changed: {name}")

    def __copy__(self) -> Credential:
        return self

    def __deepcopy__(self, memo: object) -> Credential:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Credential cannot be pickled: it would leave the process in the clear")


class Provider:
    """What the shipped providers have in common. Any callable that returns a `str` or a `Credential` is one as well."""

    #: How it is called in events and errors.
    name: str = ""
    #: Seconds that a credential without `expires_at` is kept; None: as the source decides.
    ttl: float | None = None
    #: Asked anew for each attempt, on the caller's own thread: it is quick and keeps what it must itself.
    direct: ClassVar[bool] = False

    def __call__(self) -> str | Credential:
        """The credential of now; raises `CredentialUnavailable`."""
        raise NotImplementedError

    def drop(self) -> None:
        """Forget all that was read, and close what is open (before a snapshot, and after a 401)."""

    def __repr__(self) -> str:
        return f"<provider {self.name}>"


class EnvProvider(Provider):
    """An environment variable, read each time.

    What changes: `_last`, what was read last, so that an unchanged value is not checked again. No lock: it is replaced
    whole.
    """

    direct = True

    def __init__(self, variable: str) -> None:
        if not isinstance(variable, str) or not variable or "=" in variable or "\0" in variable:
            raise ConfigurationError(f"env={variable!r}: must be the name of an environment variable")
        self.name = f"env:{variable}"
        self._variable = variable
        self._last: Credential | None = None

    def __call__(self) -> Credential:
        last = self._last
        if last is not None and os.environ.get(self._variable) == last.value:
            return last
        if self._variable not in os.environ:
            raise CredentialUnavailable(f"the environment variable {self._variable} is not set")
        problem = problem_with(os.environ.get(self._variable, ""))
        if problem is not None:
            raise CredentialUnavailable(f"the environment variable {self._variable} {problem}")
        self._last = last = Credential(os.environ.get(self._variable, ""))
        return last

    def drop(self) -> None:
        self._last = None


def problem_with(value: Any) -> str | None:
    """Why `value` cannot be a credential, without showing it; None if it can."""
    if not isinstance(value, str):
        return f"must be a str, not {type(value).__name__}"
    if not value:
        return "is empty"
    if value != value.strip():
        return "begins or ends with white space or a line break"
    if _CONTROL.search(value):
        return "holds a control character (CR, LF, NUL, ...)"
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        return "holds a character that no header can (outside latin-1)"
    return None


def _moment(expires_at: float | datetime | None) -> float | None:
    if expires_at is None:
        return None
    # By what it can do: `datetime` need not be loaded for it.
    if not isinstance(expires_at, (int, float)) and hasattr(expires_at, "timestamp"):
        if expires_at.tzinfo is None:
            raise ConfigurationError(f"expires_at={expires_at!r}: a datetime must have a time zone")
        return float(expires_at.timestamp())
    if isinstance(expires_at, bool) or not isinstance(expires_at, (int, float)) or not abs(expires_at) < 1e12:
        raise ConfigurationError(f"expires_at={expires_at!r}: must be seconds since the epoch, or an aware datetime")
    return float(expires_at)
