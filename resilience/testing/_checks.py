"""Settings are judged when they are given: the message names the setting, the value and the range."""

from __future__ import annotations

import math
from collections.abc import Collection

from resilience.core.errors import ConfigurationError


def number(setting: str, value: float, low: float, high: float) -> float:
    """`value`, if it is a number from `low` to `high`, both included; else ConfigurationError (a ValueError)."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    if not plain or math.isnan(value) or not low <= value <= high:
        raise ConfigurationError(f"{setting}={value!r}: must be a number from {low:g} to {high:g}")
    return value


def whole(setting: str, value: int, low: int, high: int) -> int:
    """`value`, if it is a whole number from `low` to `high`, both included; else ConfigurationError."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigurationError(f"{setting}={value!r}: must be a whole number from {low} to {high}")
    return value


def one_of(setting: str, value: str, allowed: Collection[str]) -> str:
    """`value`, if it is one of `allowed`; else ConfigurationError."""
    if value not in allowed:
        raise ConfigurationError(f"{setting}={value!r}: must be one of {', '.join(map(repr, allowed))}")
    return value
