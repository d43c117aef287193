"""The API that is measured against, in a process of its own: on this side nothing of it takes CPU time."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

__all__ = ["Server", "serving"]


class Server(NamedTuple):
    """Where it is.

    url: without, relays: with round trips, by milliseconds. ca_file: certifi's bundle, as long as any, and the
    server's own certificate at its end: what takes the time when a connection is opened is to read all of it.
    """

    url: str
    relays: dict[str, str]
    ca_file: str
    key: str


@contextmanager
def serving(*round_trips_ms: float) -> Iterator[Server]:
    """The server, with a relay for each round-trip time, until the end of the block."""
    command = [sys.executable, "-m", "benchmarks.server", *map(str, round_trips_ms)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Server(**json.loads(process.stdout.readline()))
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def main(round_trips_ms: list[str]) -> None:
    """Serve until the parent closes our standard input."""
    import certifi

    from resilience.testing import FaultyAPI, Relay

    with ExitStack() as stack:
        api = stack.enter_context(FaultyAPI())
        relays = {ms: stack.enter_context(Relay(api.port, rtt=float(ms) / 1000)).url for ms in round_trips_ms}
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        ca_file = folder / "ca.pem"
        ca_file.write_bytes(Path(certifi.where()).read_bytes() + b"\n" + Path(api.ca_file).read_bytes())
        print(json.dumps(Server(api.url, relays, str(ca_file), api.key)._asdict()), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
