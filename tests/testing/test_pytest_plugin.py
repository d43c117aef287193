"""The fixtures, as a user's own test run sees them."""

from __future__ import annotations

import subprocess
import sys

import pytest


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    script = (
        "import sys, pytest; before = set(sys.modules); import resilience.testing.pytest_plugin;"
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == ["resilience"]


def test_each_fixture_is_listed_with_what_it_gives(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_subprocess("--fixtures", "-q", "-p", "no:cacheprovider").stdout.str()
    for name in ("faulty_api", "relay", "lambda_runtime", "lambda_context", "fake_clock"):
        assert f"\n{name} -- " in listed
    assert "no docstring available" not in listed.partition("fixtures defined from resilience")[2]


@pytest.mark.slow
def test_the_fixtures_work_in_a_users_test(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(fn="def handler(event, context): return event")
    pytester.makepyfile(
        test_users="""
        import threading
        import requests
        from resilience.core.clock import CLOCK

        def test_api(faulty_api):
            assert requests.get(faulty_api.url + "/health", timeout=10).status_code == 200

        def test_relay(relay, faulty_api):
            assert requests.get(relay.url + "/health", timeout=10).elapsed.total_seconds() >= relay.rtt
            assert faulty_api.count("/health") == 1

        def test_runtime(lambda_runtime, request):
            one, other = (lambda_runtime("fn.handler", root=request.path.parent) for _ in range(2))
            assert (one.invoke([1]).payload, other.invoke({}).payload) == ([1], {})

        def test_context(lambda_context, fake_clock):
            fake_clock.advance(10)
            assert lambda_context.get_remaining_time_in_millis() == 20_000

        def test_clock(fake_clock):
            CLOCK.sleep(3600)
            assert fake_clock.slept == [3600]

        def test_nothing_is_left():
            import time
            assert CLOCK.sleep is time.sleep
            assert [t for t in threading.enumerate() if t is not threading.main_thread()] == []
        """
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=6)
