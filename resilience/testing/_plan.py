"""What will go wrong next."""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from resilience.core.settings import Settings
from resilience.testing.faults import DAY, HINTS, MIXED, Fault

_check = Settings("FaultyAPI")

#: By mode: what each request meets.
OUTAGES = {
    "503": replace(Fault.status(503), name="outage"),
    "refuse": Fault.reset_before_reading(),
    "hang": Fault("outage"),
}


@dataclass(slots=True)
class Limit:
    """A fixed window: it begins with the first request after the last one has ended."""

    n: int
    per: float
    hint: str
    ends: float = 0.0
    used: int = 0

    def wait(self) -> float | None:
        """Take a place in the window: None, or the seconds until the next window if there is none left."""
        now = time.monotonic()
        if now >= self.ends:
            self.ends, self.used = now + self.per, 0
        if self.used >= self.n:
            return self.ends - now
        self.used += 1
        return None


class Plan:
    """The half of FaultyAPI that a test controls: which fault comes next.

    What changes: everything below, guarded by `_plan_lock`.
    """

    def __init__(self, seed: int) -> None:
        self._plan_lock = threading.Lock()
        self._draws = random.Random(seed)
        self._script: deque[Fault | None] = deque()
        self._mix: dict[Fault, float] = {}
        self._probability = 0.0
        self._outage: str | None = None
        self._limit: Limit | None = None
        self._failing_handshakes = 0

    def script(self, faults: Iterable[Fault | None]) -> None:
        """The next requests take these, one each; None is a request without a fault. Replaces what is left."""
        faults = list(faults)
        for fault in faults:
            if fault is not None:
                _require_fault("script", fault)
        with self._plan_lock:
            self._script = deque(faults)

    def rate(
        self, faults: Fault | Iterable[Fault] | Mapping[Fault, float] = MIXED, *, probability: float = 0.15
    ) -> None:
        """Each request that is not scripted takes one of `faults` with `probability` (0 to 1; 0 ends it).

        faults: one, several that are equally likely, or a mapping to weights. Drawn in the order in which requests
        arrive, from a source seeded by `seed`.
        """
        if isinstance(faults, Fault):
            faults = [faults]
        mix = dict(faults) if isinstance(faults, Mapping) else dict.fromkeys(faults, 1.0)
        for fault, weight in mix.items():
            _require_fault("faults", fault)
            _check.number(f"weight of {fault.name}", weight, most=1e9)
        _check.number("probability", probability, most=1)
        if probability and not sum(mix.values()):
            raise _check.wrong("faults", mix, "at least one fault with a weight above 0")
        with self._plan_lock:
            self._mix, self._probability = mix, probability

    def outage(self, mode: str = "503") -> None:
        """Fail everything until `recover`.

        mode: "503" answers that; "refuse" resets all connections, those open now and those to come, before any
        handshake; "hang" reads requests and lets them wait, until `recover` answers them.
        """
        _check.choice("mode", mode, OUTAGES)
        with self._plan_lock:
            self._outage = mode

    def recover(self) -> None:
        """End the outage."""
        with self._plan_lock:
            self._outage = None

    def limit(self, n: int | None, per: float = 1.0, hint: str = "retry-after") -> None:
        """Let `n` requests (0 to 1e6) pass in a fixed window of `per` seconds (0.001 to 86400); None ends the limit.

        The others get 429 and, by `hint` (see `faults.HINTS`), the time until the window ends. Requests whose answer
        a fault replaces, and those without a valid key, take no place.
        """
        made = None
        if n is not None:
            _check.integer("n", n, most=10**6)
            _check.number("per", per, least=0.001, most=DAY)
            _check.choice("hint", hint, HINTS)
            made = Limit(n, per, hint)
        with self._plan_lock:
            self._limit = made

    def _refuses(self) -> bool:
        return self._outage == "refuse"

    def _hangs(self) -> bool:
        return self._outage == "hang"

    def _handshake_fails(self) -> bool:
        """Whether this new connection's handshake is to fail; takes that fault."""
        with self._plan_lock:
            if self._failing_handshakes:
                self._failing_handshakes -= 1
                return True
            first = self._script[0] if self._script and self._outage is None else None
            if first is None or first.name != "tls_failure":
                return False
            self._script.popleft()
            return True

    def _next_fault(self) -> Fault | None:
        """The fault of the request that now begins to arrive."""
        with self._plan_lock:
            if self._outage:
                return OUTAGES[self._outage]
            if self._script:
                fault = self._script.popleft()
            elif self._probability and self._draws.random() < self._probability:
                fault = self._draws.choices(list(self._mix), list(self._mix.values()))[0]
            else:
                fault = None
            if fault and fault.name == "tls_failure":
                self._failing_handshakes += 1
            return fault

    def _over_limit(self) -> tuple[str, float] | None:
        """Take a place within the limit: None, or the kind of hint and the seconds to wait."""
        with self._plan_lock:
            wait = self._limit.wait() if self._limit else None
            return None if wait is None or self._limit is None else (self._limit.hint, wait)


def _require_fault(setting: str, value: Fault) -> None:
    if not isinstance(value, Fault):
        raise _check.wrong(setting, value, "a Fault, made by one of its class methods")
