"""What must be seen without having been asked for: in the log, and in the notes of errors."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import requests

from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit
from resilience.testing import FakeClock, Fault, FaultyAPI, reset


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "resilience" and r.levelno == logging.WARNING]


def test_a_circuit_that_opens_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    @circuit_breaker(fail_max=1, name="bank")
    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        fail()
    assert warnings(caplog) == ["circuit of bank: open, was closed"]


def test_retries_given_up_are_warned_of(caplog: pytest.LogCaptureFixture, fake_clock: FakeClock) -> None:
    @retry_ratelimit(attempts=2, on=KeyError)
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    [said] = warnings(caplog)
    assert "gave up on" in said
    assert "that was the last attempt" in said


def test_one_attempt_by_choice_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    @retry_ratelimit(attempts=1, on=KeyError)
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert warnings(caplog) == []


def test_a_credential_refused_twice_is_warned_of_and_not_shown(
    faulty_api: FaultyAPI, caplog: pytest.LogCaptureFixture
) -> None:
    keys = iter(["old-secret", "new-secret", "newer-secret"])

    @pooled(base_url=faulty_api.base_url)
    @fresh_auth(provider=lambda: next(keys))
    def ask() -> int:
        return requests.get(faulty_api.base_url + "/models").status_code

    assert ask() == 401
    assert warnings(caplog) == [f"{faulty_api.url} refused the credential (401), a fresh one, too"]
    assert "secret" not in caplog.text


def test_a_credential_held_back_from_plain_http_is_warned_of_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "very-secret")

    @pooled(timeout=0.2)
    @fresh_auth(env="KEY", hosts="api.invalid")
    def ask() -> None:
        requests.get("http://api.invalid/")

    for _ in range(2):
        with pytest.raises(requests.ConnectionError):
            ask()
    assert warnings(caplog) == ["http://api.invalid:80: no credential is sent over plain http (insecure=True would)"]


@pytest.mark.slow
def test_what_the_deadline_ended_says_so(faulty_api: FaultyAPI) -> None:
    faulty_api.require_key = False
    faulty_api.script([Fault.hang()])

    @retry_ratelimit(deadline=0.4)
    @pooled
    def ask() -> Any:
        return requests.post(faulty_api.base_url + "/echo", json={})

    with pytest.raises(requests.ReadTimeout) as caught:
        ask()
    assert "resilience: the deadline of the call ended this attempt" in caught.value.__notes__
    assert any("by the deadline of the call" in note for note in caught.value.__notes__)


def test_a_reset_reaches_functions_decorated_before(fake_clock: FakeClock) -> None:
    failing = [True]

    @circuit_breaker(fail_max=1)
    def sometimes() -> str:
        if failing:
            raise ConnectionError
        return "well"

    with pytest.raises(ConnectionError):
        sometimes()
    failing.clear()
    reset()
    assert sometimes() == "well"


def test_an_absurd_hint_closes_the_gate_for_an_hour_at_most(faulty_api: FaultyAPI, fake_clock: FakeClock) -> None:
    faulty_api.require_key = False
    faulty_api.script([Fault.status(429, {"Retry-After": "99999999999"})])

    @retry_ratelimit
    @pooled
    def ask() -> int:
        return requests.get(faulty_api.base_url + "/models").status_code

    assert ask() == 429
    fake_clock.advance(3000)
    with pytest.raises(requests.RequestException):
        ask()
    fake_clock.advance(601)
    assert ask() == 200
    assert faulty_api.count() == 2
