"""Fixtures for users' own tests. Loaded at every start of pytest, so nothing heavy is imported before it is asked
for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from resilience.testing import FakeClock, FaultyAPI, LambdaContext, LambdaRuntime, Relay

__all__ = ["fake_clock", "faulty_api", "lambda_context", "lambda_runtime", "relay"]


@pytest.fixture
def faulty_api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyAPI]:
    """A real TLS API on loopback whose faults the test chooses; requests and httpx trust its certificate meanwhile."""
    from resilience.testing import FaultyAPI

    with FaultyAPI() as api:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", api.ca_file)
        monkeypatch.setenv("SSL_CERT_FILE", api.ca_file)
        yield api


@pytest.fixture
def relay(faulty_api: FaultyAPI) -> Iterator[Relay]:
    """A relay to `faulty_api` with a round trip of 30 ms (`relay.rtt`), which can black-hole what goes through it."""
    from resilience.testing import Relay

    with Relay(faulty_api.port, rtt=0.030) as relay:
        yield relay


@pytest.fixture
def lambda_runtime() -> Iterator[Callable[..., LambdaRuntime]]:
    """Makes `LambdaRuntime`s, `lambda_runtime("handler.handler", root=tmp_path)`, and stops them at the end."""
    from resilience.testing import LambdaRuntime

    with ExitStack() as running:

        def make(handler: str, **settings: Any) -> LambdaRuntime:
            return running.enter_context(LambdaRuntime(handler, **settings))

        yield make


@pytest.fixture
def lambda_context(request: pytest.FixtureRequest) -> LambdaContext:
    """A Lambda context with 30 seconds left, by the `fake_clock` where the test has one."""
    from resilience.testing import LambdaContext

    if "fake_clock" in request.fixturenames:
        # Whichever the test names first: a deadline by one clock means nothing to the other.
        request.getfixturevalue("fake_clock")

    return LambdaContext(remaining=30.0)


@pytest.fixture
def fake_clock() -> Iterator[FakeClock]:
    """A clock in the place of the real ones: it stands still, and sleeping moves it at once."""
    from resilience.testing import FakeClock

    with FakeClock() as clock:
        yield clock
