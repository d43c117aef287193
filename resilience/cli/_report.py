"""What the samples come to: a row for each comparison, with its verdict, and the claims that are made of such tools."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from resilience.cli import _scenes as scenes
from resilience.cli._scenes import Course
from resilience.cli._variant import MAX_IDLE, PAUSE, RTT, TIMEOUT, Sample

__all__ = ["SOURCE", "Claim", "Prices", "Row", "as_json", "claims", "notes", "rows"]

#: Where the default prices stand.
SOURCE = "AWS Lambda pricing, us-east-1, x86"


@dataclass(frozen=True, slots=True)
class Prices:
    """What an invocation costs, in USD."""

    memory_mb: int
    gb_second: float
    request: float

    def of(self, samples: list[Sample]) -> float:
        """The cost of these invocations."""
        seconds = sum(s.billed_ms for s in samples) / 1000
        return seconds * self.memory_mb / 1024 * self.gb_second + len(samples) * self.request


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; less is better in all of them. digits: after the point, as shown."""

    name: str
    naive: float
    ours: float
    digits: int = 0

    @property
    def ratio(self) -> float | None:
        """ours / naive; None where naive is 0."""
        return self.ours / self.naive if self.naive else None

    @property
    def better(self) -> bool:
        """Whether ours is less."""
        return self.ours < self.naive


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said of such tools, and whether it was seen here: the ratio, and the level itself."""

    text: str
    ratio: float | None
    claimed_ratio: float
    level: float
    claimed_level: float | None

    @property
    def ratio_seen(self) -> bool:
        """Whether the improvement was at least as great."""
        return self.ratio is not None and self.ratio <= self.claimed_ratio

    @property
    def level_seen(self) -> bool | None:
        """Whether it was at least as low; None where the level depends on what is called."""
        return None if self.claimed_level is None else self.level <= self.claimed_level


def rows(naive: Course, ours: Course, prices: Prices) -> list[Row]:
    """The comparisons, in the order in which they are shown."""

    def row(name: str, of: Any, digits: int = 0) -> Row:
        return Row(name, of(naive), of(ours), digits)

    return [
        row("cold start to first answer, ms", lambda c: _ms(c.cold)),
        row("first request after a ping, ms", lambda c: _ms(c.pinged)),
        row("warm request, ms", lambda c: _ms(c.warm)),
        row("first request after a thaw, ms", lambda c: _ms(c.thaw)),
        row("errors at a key rotation, %", lambda c: _errors(c.rotation)),
        row(f"errors at {scenes.PROBABILITY:.0%} mixed faults, %", lambda c: _errors(c.mixed), 1),
        row("errors within a rate limit, %", lambda c: _errors(c.limited)),
        row("upstream requests per success ¹", _upstream, 2),
        row("billed ms per 1,000 successes ²", lambda c: _billed(c.mixed) * 1000 / _successes(c.mixed)),
        row("cost per 1,000 successes, USD ²", lambda c: prices.of(c.mixed) * 1000 / _successes(c.mixed), 5),
        row("billed ms per call in an outage ³", lambda c: (_billed(c.outage) + c.pings_ms) / max(len(c.outage), 1)),
        row("seconds until recovery ³", lambda c: scenes.PATIENCE if c.recovery is None else c.recovery, 2),
    ]


def claims(compared: list[Row]) -> list[Claim]:
    """The claims of the article that this package answers, beside what was measured."""
    starts = ("cold", "first request after a ping", "warm", "errors at 15", "cost")
    cold, pinged, warm, errors, cost = (_find(compared, start) for start in starts)
    # What the article compares: a user meets a cold start there, and here one that pings keep warm.
    kept_warm = pinged.ours / cold.naive if cold.naive else None
    return [
        Claim("cold 3–5 s → 200–500 ms, by pings", kept_warm, 0.5 / 3, pinged.ours, 500),
        Claim("warm 800 ms → 50–100 ms", warm.ratio, 100 / 800, warm.ours, 100),
        Claim("errors 15 % → below 1 %", errors.ratio, 1 / 15, errors.ours, 1),
        # In cents or dollars of another function: only the ratio can be compared.
        Claim("cost 0.05 → 0.02", cost.ratio, 0.02 / 0.05, cost.ours, None),
    ]


def notes(naive: Course, ours: Course, prices: Prices) -> list[str]:
    """What must be known to read the table."""
    calm = [course.upstream["mixed"] / _successes(course.mixed) for course in (naive, ours)]
    return [
        f"Less is better in each row. {RTT * 1000:.0f} ms round trip, the connect's included. Medians of {scenes.COLD}"
        f" cold starts (from the process's start to the answer), {scenes.PINGED} first requests to a process that a"
        f" ping has started (the naive handler fails on the ping, but has loaded), {scenes.WARM} warm requests,"
        f" {scenes.THAWS} thaws.",
        "¹ over the faults, the rate limit and the outage, pings' probes included; at the faults alone"
        f" {calm[0]:.2f} and {calm[1]:.2f}: a retry costs one request, and so does each call that failed.",
        f"² over the {scenes.MIXED} calls at mixed faults; {prices.memory_mb} MB at {prices.gb_second:.10f} USD per"
        f" GB-second and {prices.request:.7f} per invocation ({SOURCE}).",
        f"³ {scenes.REFUSING:g} s of 503s, then {scenes.SILENT:g} s of silence, which end half-way through the"
        f" {TIMEOUT:g} s timeout of the naive call then under way; what was under way is lost. A call every"
        f" {scenes.BEAT:g} s, or when the last one has ended, and a ping before each, which is billed, too.",
        f"The decorated handler trusts an idle connection for {MAX_IDLE:g} s and leaves an open circuit alone for"
        f" {PAUSE:g} s, so that the demo is short; 55 s and 10 s stand in its source.",
    ]


def as_json(naive: Course, ours: Course, prices: Prices, seed: int) -> dict[str, Any]:
    """All that was set, measured and concluded."""
    compared = rows(naive, ours, prices)
    return {
        "settings": {
            "seed": seed,
            "prices": {**asdict(prices), "source": SOURCE},
            "rtt": RTT,
            "timeout": TIMEOUT,
            "max_idle": MAX_IDLE,
            "pause": PAUSE,
            "fault_probability": scenes.PROBABILITY,
            "fault_weights": {f"{f.name} {f.code or f.seconds or ''}".strip(): w for f, w in scenes.FAULTS.items()},
            "limit": {"requests": scenes.LIMIT, "window": scenes.WINDOW},
            "outage": {"refusing": scenes.REFUSING, "silent": scenes.SILENT},
        },
        "rows": [{**asdict(row), "ratio": row.ratio, "better": row.better} for row in compared],
        "claims": [{**asdict(c), "ratio_seen": c.ratio_seen, "level_seen": c.level_seen} for c in claims(compared)],
        "better_in_each_row": all(row.better for row in compared),
        "samples": {"naive": asdict(naive), "ours": asdict(ours)},
    }


def _find(compared: list[Row], start: str) -> Row:
    return next(row for row in compared if row.name.startswith(start))


def _ms(samples: Iterable[Sample]) -> float:
    return median(s.ms for s in samples)


def _errors(samples: list[Sample]) -> float:
    return 100.0 * sum(not s.ok for s in samples) / len(samples)


def _billed(samples: list[Sample]) -> int:
    return sum(s.billed_ms for s in samples)


def _successes(samples: list[Sample]) -> int:
    return max(sum(s.ok for s in samples), 1)


def _upstream(course: Course) -> float:
    recovered = course.recovery is not None
    successes = sum(s.ok for s in (*course.mixed, *course.limited, *course.outage)) + recovered
    return sum(course.upstream.values()) / max(successes, 1)
