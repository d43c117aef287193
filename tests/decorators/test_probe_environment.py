"""A ping's probe trusts what other requests trust: the CA bundle that the environment names."""

from __future__ import annotations

from typing import Any

import requests

from resilience import circuit_breaker, pooled, warm
from resilience.testing import FaultyAPI


def test_a_ping_closes_a_circuit_to_a_host_whose_certificate_only_the_environment_trusts(
    faulty_api: FaultyAPI, fake_clock: Any
) -> None:
    # Given a circuit whose time is past, to a host that certifi knows nothing of
    @warm
    @pooled(base_url=faulty_api.url)
    @circuit_breaker(reset_timeout=30)
    def handler(event: Any) -> int:
        return requests.get(faulty_api.url + "/health").status_code

    handler.resilience.breaker.open()  # type: ignore[attr-defined]
    fake_clock.advance(31)

    # When a ping comes
    handler({"warmup": True})

    # Then it has found the host well
    assert handler.resilience.breaker[f"https://localhost:{faulty_api.port}"].state == "closed"  # type: ignore[attr-defined]
    assert faulty_api.count(method="HEAD") == 1
