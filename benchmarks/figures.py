"""One line of the table, and how it is judged."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["REFERENCE", "Figure", "render"]

#: What peers took on the machine for which the absolute limits were set (2 cores, CPython 3.11.7; in the unit of the
#: figure). The same peer, measured here in the same run, says how much slower this machine is.
REFERENCE = {
    "import requests": 103.0,
    "pyresilience": 3.0,
    "pyresilience async": 3.7,
    "pybreaker rejection": 3.4,
}


@dataclass(frozen=True)
class Figure:
    """One figure beside its peer.

    ours, theirs: both in `unit`; theirs None: there is no peer.
    judged: "ratio" of ours to theirs, "value" of ours, or "speed" (theirs to ours; more is better).
    limit: at most, for "speed" at least; None: told, not judged.
    slower: how many times slower than the reference machine this one is, for what its speed should not decide.
    """

    group: str
    name: str
    ours: float
    unit: str
    peer: str
    theirs: float | None
    judged: Literal["ratio", "value", "speed"] = "ratio"
    limit: float | None = None
    slower: float | None = None
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours to theirs; for "speed", theirs to ours."""
        if self.theirs is None or not self.theirs or not self.ours:
            return None
        return self.theirs / self.ours if self.judged == "speed" else self.ours / self.theirs

    @property
    def value(self) -> float | None:
        """What the limit is for."""
        return self.ours if self.judged == "value" else self.ratio

    @property
    def adjusted(self) -> float | None:
        """Ours on the reference machine; None where the machine's speed has no part in it."""
        return self.ours / self.slower if self.judged == "value" and self.slower else None

    @property
    def verdict(self) -> str:
        """One of pass, pass (adjusted: with the machine's speed taken out) and MISS; nothing where nothing is asked."""
        if self.limit is None or self.value is None:
            return ""
        if self._within(self.value):
            return "pass"
        if self.adjusted is not None and self._within(self.adjusted):
            return "pass (adjusted)"
        return "MISS"

    def _within(self, value: float) -> bool:
        assert self.limit is not None
        return value >= self.limit if self.judged == "speed" else value <= self.limit

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "ratio": self.ratio, "adjusted": self.adjusted, "verdict": self.verdict}


def render(figures: list[Figure]) -> str:
    """The table."""
    head = ("figure", "ours", "peer", "theirs", "ratio", "limit", "adjusted", "verdict")
    rows = [head, *map(_row, figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    left = {0, 2, 7}
    lines = [
        "  ".join(row[i].ljust(width) if i in left else row[i].rjust(width) for i, width in enumerate(widths))
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    notes = [f"{f.name}: {f.note}" for f in figures if f.note]
    return "\n".join(line.rstrip() for line in [*lines, "", *notes])


def _row(f: Figure) -> tuple[str, ...]:
    limit = ""
    if f.limit is not None:
        sign = ">=" if f.judged == "speed" else "<="
        limit = f"{sign} {f.limit:g}" + (f" {f.unit}" if f.judged == "value" else "x")
    return (
        f.name,
        f"{_number(f.ours)} {f.unit}",
        f.peer,
        "" if f.theirs is None else f"{_number(f.theirs)} {f.unit}",
        "" if f.ratio is None else f"{f.ratio:.2f}x",
        limit,
        "" if f.adjusted is None else f"{_number(f.adjusted)} {f.unit}",
        f.verdict,
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
