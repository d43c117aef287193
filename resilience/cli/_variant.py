"""One of the two that are compared: a sandbox with its handler, its own API behind its own network, and its key."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from resilience.testing import FaultyAPI, LambdaRuntime, Relay

__all__ = ["MAX_IDLE", "PAUSE", "RTT", "TIMEOUT", "Sample", "Variant", "variant"]

#: Seconds: the round trip; the timeout that the handler's body gives to `requests.post`.
RTT, TIMEOUT = 0.030, 3.0
#: Seconds that the decorated handler keeps an idle connection, and a circuit open: 55 and 10 in its source.
MAX_IDLE, PAUSE = 1.0, 0.3


#: Over loopback a connect takes no time. The relay holds back what is sent first, as if it had been sent a round trip
#: after the connect; a client that reads its CA bundle once it is connected, as requests does, would read it meanwhile
#: for nothing. So in both sandboxes a connect itself takes a round trip, as it does in the world.
_DISTANCE = f"""
import socket
import time

_connect_at_once = socket.socket.connect


def _connect(self, address):
    _connect_at_once(self, address)
    if isinstance(address, tuple):
        time.sleep({RTT})


socket.socket.connect = _connect
"""


@dataclass(frozen=True, slots=True)
class Sample:
    """One invocation. ms: all that the caller waited; init_ms: the part of it before the handler could run."""

    ok: bool
    ms: float
    init_ms: float
    billed_ms: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Variant:
    """What belongs to one of the two; the other has the same, seeded alike."""

    name: str
    api: FaultyAPI
    relay: Relay
    runtime: LambdaRuntime
    key_file: Path

    def ask(self) -> Sample:
        """Invoke the handler with a question, as a user does."""
        answer = self.runtime.invoke({"question": "Is anybody there?"})
        error = None if answer.ok else str((answer.error or {}).get("errorType"))
        if answer.ok and not (isinstance(answer.payload, dict) and answer.payload.get("statusCode", 500) < 400):
            error = f"answered {answer.payload!r}"[:200]
        billed = answer.billed_ms + answer.billed_init_ms
        return Sample(error is None, answer.total_ms, answer.init_ms, billed, error)

    def ping(self) -> int:
        """Invoke it as a scheduled warmer does; the milliseconds billed."""
        answer = self.runtime.invoke({"warmup": True})
        return answer.billed_ms + answer.billed_init_ms

    def rotate(self) -> None:
        """Have a new key, and put it where the secret is kept; the old one is void at once."""
        _publish(self.key_file, self.api.rotate())

    def renew(self) -> None:
        """A new sandbox, warm."""
        self.runtime.recycle()
        self.ask()

    @property
    def upstream(self) -> int:
        """Requests that reached the API since its counts were last reset; those it reset unread are not recorded."""
        return self.api.count() + self.api.injected["reset_before_reading"]


@contextmanager
def variant(name: str, source: str, folder: Path, *, seed: int, memory_mb: int) -> Iterator[Variant]:
    """One that runs, its sandbox not yet started. `folder` is shared by all variants."""
    home = folder / name
    home.mkdir()
    (home / "handler.py").write_text(source, encoding="utf-8")
    (home / "sitecustomize.py").write_text(_DISTANCE, encoding="utf-8")
    key_file = home / "api-key"
    with ExitStack() as running:
        api = running.enter_context(FaultyAPI(seed=seed))
        relay = running.enter_context(Relay(api.port, rtt=RTT))
        _publish(key_file, api.key)
        runtime = LambdaRuntime(
            "handler.handler",
            root=home,
            memory_mb=memory_mb,
            env=_environment(folder, relay.url, key_file, _bundle(home, api)),
            # The first start of all compiles what it imports.
            init_timeout=60.0,
        )
        yield Variant(name, api, relay, running.enter_context(runtime), key_file)


def _environment(folder: Path, url: str, key_file: Path, bundle: Path) -> dict[str, str]:
    return {
        "API_URL": url,
        "API_KEY_FILE": str(key_file),
        "MAX_IDLE": str(MAX_IDLE),
        "PAUSE": str(PAUSE),
        "REQUESTS_CA_BUNDLE": str(bundle),
        "SSL_CERT_FILE": str(bundle),
        # A proxy of this machine's has no part in it.
        "NO_PROXY": "localhost,127.0.0.1",
        "no_proxy": "localhost,127.0.0.1",
        # Both have all of their byte code, whatever this machine says of writing it: the first start makes it.
        "PYTHONDONTWRITEBYTECODE": "",
    }


def _bundle(home: Path, api: FaultyAPI) -> Path:
    """The API's certificate behind those of certifi, so that verifying costs what it costs in life."""
    import certifi

    bundle = home / "ca.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes() + b"\n" + Path(api.ca_file).read_bytes())
    return bundle


def _publish(key_file: Path, key: str) -> None:
    """Put the key into the file in one step, as a mounted secret changes."""
    new = key_file.with_suffix(".new")
    new.write_text(key + "\n", encoding="utf-8")
    os.replace(new, key_file)
