"""Checks for settings: a wrong one is named, with the value given and the range, when the decorator is made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from resilience.core.errors import ConfigurationError

__all__ = ["Settings"]

#: No setting is larger: in seconds, a good deal longer than the universe has been.
_HUGE = 1e30


class Settings:
    """The checks of one decorator, in whose name they complain."""

    def __init__(self, decorator: str) -> None:
        self.decorator = decorator

    def wrong(self, setting: str, value: object, allowed: str) -> ConfigurationError:
        """The error to raise for `value`."""
        return ConfigurationError(f"{self.decorator}: {setting}={value!r} is not {allowed}")

    def number(
        self,
        setting: str,
        value: Any,
        *,
        least: float = 0.0,
        most: float = math.inf,
        above: bool = False,
        optional: bool = False,
    ) -> None:
        """A finite number from `least` (or above it) to `most`."""
        if value is None and optional:
            return
        kind = "a number " + _range(least, most, above) + (" or None" if optional else "")
        # An int may be too large for a float, and so for `isfinite`.
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_HUGE < value < _HUGE:
            raise self.wrong(setting, value, kind)
        if value < least or value > most or (above and value == least):
            raise self.wrong(setting, value, kind)

    def integer(self, setting: str, value: Any, *, least: int = 0, most: float = math.inf) -> None:
        """A whole number from `least` to `most`."""
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(setting, value, "a whole number " + _range(least, most, False))

    def text(self, setting: str, value: Any, *, optional: bool = False) -> None:
        """A string with something in it."""
        if value is None and optional:
            return
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(setting, value, "a string that is not empty" + (" or None" if optional else ""))

    def header(self, setting: str, value: Any, *, optional: bool = False) -> None:
        """The name of an HTTP header (a token, RFC 9110 §5.6.2)."""
        if value is None and optional:
            return
        allowed = "!#$%&'*+-.^_`|~"
        if (
            not isinstance(value, str)
            or not value
            or not all(c.isascii() and (c.isalnum() or c in allowed) for c in value)
        ):
            raise self.wrong(setting, value, "the name of an HTTP header" + (" or None" if optional else ""))

    def flag(self, setting: str, value: Any, *, optional: bool = False) -> None:
        """True or False."""
        if not isinstance(value, bool) and not (value is None and optional):
            raise self.wrong(setting, value, "True or False" + (" or None" if optional else ""))

    def choice(self, setting: str, value: Any, choices: Iterable[Any]) -> None:
        """One of a few values."""
        choices = tuple(choices)
        if value not in choices:
            raise self.wrong(setting, value, "one of " + ", ".join(map(repr, choices)))

    def callable(self, setting: str, value: Any, *, optional: bool = True) -> None:
        """Something that can be called."""
        if not callable(value) and not (value is None and optional):
            raise self.wrong(setting, value, "a callable" + (" or None" if optional else ""))

    def errors(self, setting: str, value: Any, *, also: str = "") -> tuple[type[BaseException], ...]:
        """Classes of exceptions, as a tuple; one alone will do. also: what else is allowed, for the message."""
        listed = value if isinstance(value, (tuple, list, set, frozenset)) else (value,)
        if not all(isinstance(e, type) and issubclass(e, Exception) for e in listed):
            raise self.wrong(setting, value, "an exception class or a tuple of them" + (f" or {also}" if also else ""))
        return tuple(listed)

    def url(self, setting: str, value: Any, *, optional: bool = True) -> None:
        """An absolute http or https URL, without a user or a fragment."""
        if value is None and optional:
            return
        if not isinstance(value, str) or not _is_url(value):
            raise self.wrong(setting, value, "an absolute URL such as https://api.example.com/v1")

    def memory_only(self, setting: str, value: Any, usable: Callable[[Any], bool] | None = None) -> None:
        """A store: for now that of this process alone."""
        if value in (None, "memory", "memory://") or (usable is not None and usable(value)):
            return
        raise self.wrong(setting, value, "a store that this version has: only 'memory' (None) is, shared ones follow")


def _range(least: float, most: float, above: bool) -> str:
    low = f"above {least:g}" if above else f"of at least {least:g}"
    return low if most == math.inf else f"{low} and at most {most:g}"


def _is_url(value: str) -> bool:
    # Imported by every HTTP client, and only where a URL was given.
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(value)
        port_fits = parts.port is None or parts.port > 0
    except ValueError:
        return False
    clean = not any(c.isspace() or ord(c) < 32 or c == "\\" for c in value)
    return (
        clean and port_fits and parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
    )
