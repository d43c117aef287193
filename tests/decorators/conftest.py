"""A real API for the tests of the guards: one server a module, made anew for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resilience.testing import FakeClock, FaultyAPI


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyAPI]:
    with FaultyAPI(seed=1, require_key=False) as server:
        yield server


@pytest.fixture
def api(server: FaultyAPI, monkeypatch: pytest.MonkeyPatch) -> FaultyAPI:
    """Nothing is wrong with it yet, and nothing has been asked of it."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", server.ca_file)
    monkeypatch.setenv("SSL_CERT_FILE", server.ca_file)
    server.recover()
    server.script([])
    server.rate(probability=0)
    server.limit(None)
    server.reset_counts()
    return server


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    """A clock that stands still, and that sleeping moves at once."""
    with FakeClock() as clock:
        yield clock
