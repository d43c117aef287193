"""What the two go through: in turns where milliseconds are compared, side by side where failures are."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from resilience.cli._variant import MAX_IDLE, TIMEOUT, Sample, Variant
from resilience.core.clock import CLOCK
from resilience.testing import Fault

__all__ = ["FAULTS", "SCENES", "STEPS", "Course", "Tick"]

COLD, PINGED, WARM, THAWS, ROTATION, MIXED, LIMITED = 11, 3, 30, 3, 10, 200, 16
#: The share of requests that meet a fault, and what may be met, with weights: a busy API's day.
PROBABILITY = 0.15
FAULTS: dict[Fault, float] = {
    Fault.rate_limited("retry-after-ms", 0.1): 5,
    Fault.rate_limited("fraction", 0.2): 1,
    Fault.status(503): 4,
    Fault.status(500): 2,
    Fault.status(502): 1,
    Fault.reset_before_reading(): 1,
    Fault.reset_after_reading(): 1,
    Fault.truncated_body(): 0.75,
    # Longer than anybody waits.
    Fault.stall_before_headers(TIMEOUT + 1.0): 0.25,
}
#: The true rate limit: requests in a window of so many seconds.
LIMIT, WINDOW = 4, 1.0
#: The outage: seconds of 503s, then seconds of silence, the last of them half-way through the bare handler's timeout.
REFUSING, SILENT = 4.9, 4.85
#: Seconds between the calls of a steady client, and after which it is taken that there will be no recovery.
BEAT, PATIENCE = 0.25, 15.0

Tick = Callable[[], None]


@dataclass(slots=True)
class Course:
    """What one variant went through. What changes: each scene adds its own; by one thread at a time."""

    cold: list[Sample] = field(default_factory=list)
    #: The first request of a user to a sandbox that a ping has started.
    pinged: list[Sample] = field(default_factory=list)
    warm: list[Sample] = field(default_factory=list)
    thaw: list[Sample] = field(default_factory=list)
    rotation: list[Sample] = field(default_factory=list)
    mixed: list[Sample] = field(default_factory=list)
    limited: list[Sample] = field(default_factory=list)
    outage: list[Sample] = field(default_factory=list)
    #: Requests that reached the API, by scene.
    upstream: dict[str, int] = field(default_factory=dict)
    #: Milliseconds billed for the pings of the outage.
    pings_ms: int = 0
    #: Seconds from the outage's end to the end of the first call that succeeded; None: there was none.
    recovery: float | None = None


Pair = list[tuple[Variant, Course]]


def cold(pair: Pair, tick: Tick) -> None:
    """A new process, and its first answer. The first of all is not counted: it compiles, and fills the file cache."""
    for number in range(COLD + 1):
        for variant, course in pair:
            variant.runtime.recycle()
            sample = variant.ask()
            if not sample.ok:
                raise RuntimeError(f"{variant.name}: {sample.error}\n{variant.runtime.logs}")
            if number:
                course.cold.append(sample)
        tick()


def pinged(pair: Pair, tick: Tick) -> None:
    """A scheduled ping starts a new process; then comes the first request of a user."""
    for _ in range(PINGED):
        for variant, course in pair:
            variant.runtime.recycle()
            variant.ping()
            course.pinged.append(variant.ask())
        tick()


def warm(pair: Pair, tick: Tick) -> None:
    """One request after the other, and nothing goes wrong."""
    for _ in range(WARM):
        for variant, course in pair:
            course.warm.append(variant.ask())
        tick()


def thaw(pair: Pair, tick: Tick) -> None:
    """Frozen for longer than an idle connection is trusted, and meanwhile the network has forgotten all of them."""
    for _ in range(THAWS):
        for variant, _course in pair:
            variant.ask()
            variant.runtime.freeze()
            variant.relay.black_hole()
        CLOCK.sleep(MAX_IDLE * 1.2)
        for variant, course in pair:
            course.thaw.append(variant.ask())
        tick()


def rotation(pair: Pair, tick: Tick) -> None:
    """Half-way through, the key is replaced; a new sandbox then reads it, where the old one did not."""
    for variant, course in pair:
        for number in range(ROTATION):
            if number == ROTATION // 2:
                variant.rotate()
            course.rotation.append(variant.ask())
            tick()
        if not course.rotation[-1].ok:
            variant.renew()


def mixed(variant: Variant, course: Course, tick: Tick) -> None:
    """A bad day upstream: the n-th request there meets the same fault in both."""
    variant.api.rate(FAULTS, probability=PROBABILITY)
    for _ in range(MIXED):
        course.mixed.append(variant.ask())
        tick()
    variant.api.rate(probability=0)


def limited(variant: Variant, course: Course, tick: Tick) -> None:
    """More calls than a true rate limit lets through; it says `Retry-After: 1`."""
    variant.api.limit(LIMIT, per=WINDOW, hint="retry-after")
    for _ in range(LIMITED):
        course.limited.append(variant.ask())
        tick()
    variant.api.limit(None)


def outage(variant: Variant, course: Course, tick: Tick) -> None:
    """503s, then silence, then all is well again, but what was under way is lost. Before each call there is a ping."""
    over, ended = threading.Event(), 0.0

    def weather() -> None:
        nonlocal ended
        variant.api.outage("503")
        CLOCK.sleep(REFUSING)
        variant.api.outage("hang")
        CLOCK.sleep(SILENT)
        variant.relay.black_hole()
        variant.api.recover()
        ended = CLOCK.monotonic()
        over.set()

    sky = threading.Thread(target=weather, name="weather")
    begun = CLOCK.monotonic()
    sky.start()
    while course.recovery is None and not (over.is_set() and CLOCK.monotonic() - ended > PATIENCE):
        course.pings_ms += variant.ping()
        sample = variant.ask()
        tick()
        if over.is_set() and sample.ok:
            course.recovery = CLOCK.monotonic() - ended
        else:
            course.outage.append(sample)
            CLOCK.sleep(BEAT - (CLOCK.monotonic() - begun) % BEAT)
    sky.join()


def _side_by_side(scene: Callable[[Variant, Course, Tick], None]) -> Callable[[Pair, Tick], None]:
    """The scene for both at the same time, with what reached the API counted."""

    def both(pair: Pair, tick: Tick) -> None:
        def one(variant: Variant, course: Course) -> None:
            variant.api.reset_counts()
            scene(variant, course, tick)
            course.upstream[scene.__name__] = variant.upstream

        with ThreadPoolExecutor(len(pair)) as threads:
            for done in [threads.submit(one, *each) for each in pair]:
                done.result()

    return both


#: What is said of each scene while it runs, and the scene.
SCENES: dict[str, Callable[[Pair, Tick], None]] = {
    "cold starts": cold,
    "pings to new processes": pinged,
    "warm requests": warm,
    "freeze and thaw": thaw,
    "a key rotated": rotation,
    f"{MIXED} requests, {PROBABILITY:.0%} faults": _side_by_side(mixed),
    "a rate limit": _side_by_side(limited),
    "an outage": _side_by_side(outage),
}
#: Ticks of each, for a progress bar; those of the outage can't be known.
STEPS = dict(zip(SCENES, (COLD + 1, PINGED, WARM, THAWS, 2 * ROTATION, 2 * MIXED, 2 * LIMITED, None), strict=True))
