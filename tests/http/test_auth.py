from __future__ import annotations

import asyncio
import contextlib
import copy
import datetime
import functools
import gc
import os
import pickle
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from resilience.core import events
from resilience.core.call import CURRENT, EXCLUSIVE, find
from resilience.core.clock import CLOCK, replaced
from resilience.core.errors import ConfigurationError, CredentialUnavailable, DeadlineExceeded
from resilience.http import flight as flights
from resilience.http.auth import (
    Authorizer,
    Credential,
    CredentialSource,
    SecretHeaders,
    new_idempotency_key,
    resolving,
)
from resilience.http.hosts import HostRule

SECRET = "sk-Zq3xV9-do-not-show"
URL = "https://api.example.com/v1"


class FakeClock:
    """Both clocks, moved by hand, together or apart."""

    def __init__(self) -> None:
        self.m, self.w = 1000.0, 1_700_000_000.0

    def monotonic(self) -> float:
        return self.m

    def wall(self) -> float:
        return self.w

    def sleep(self, seconds: float) -> None:
        self.pass_(seconds)

    async def sleep_async(self, seconds: float) -> None:
        self.pass_(seconds)

    def pass_(self, seconds: float) -> None:
        self.m += seconds
        self.w += seconds


@pytest.fixture
def clock() -> Iterator[FakeClock]:
    fake = FakeClock()
    with contextlib.contextmanager(replaced)(fake):
        yield fake


class Vault:
    """A provider that counts, and answers `token-1`, `token-2`, ... or what it is told to."""

    def __init__(self, answer: Callable[[int], Any] = lambda n: f"token-{n}") -> None:
        self.calls = 0
        self.answer = answer
        self.error: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def __call__(self) -> Any:
        with self._lock:
            self.calls += 1
            n = self.calls
        assert self.gate.wait(20)
        if self.error is not None:
            raise self.error
        return self.answer(n)


def until(condition: Callable[[], object]) -> None:
    """Wait for another thread to get somewhere."""
    for _ in range(20_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("it did not happen")


def landed(source: CredentialSource) -> None:
    until(lambda: source._flight is None)


def at_once(n: int, fn: Callable[[], Any]) -> list[Any]:
    """What each of n threads, started together, got or raised."""
    barrier = threading.Barrier(n)

    def run() -> Any:
        barrier.wait()
        try:
            return fn()
        except Exception as error:
            return error

    with ThreadPoolExecutor(n) as pool:
        return [f.result() for f in [pool.submit(run) for _ in range(n)]]


# ---- Credential


def test_a_credential_does_not_show_its_value() -> None:
    credential = Credential(SECRET, 1_700_000_000)
    shown = [
        repr(credential),
        str(credential),
        f"{credential}",
        f"{credential:>80}",
        f"{credential} {credential!r}",
    ]
    assert not any(SECRET in s for s in shown)
    assert shown[0] == "Credential(***, expires_at=1700000000.0)"
    assert credential.value == credential.reveal() == SECRET


def test_a_credential_cannot_be_changed_nor_pickled() -> None:
    credential = Credential(SECRET)
    with pytest.raises(AttributeError):
        credential.expires_at = 1.0
    with pytest.raises(AttributeError):
        credential._value = "x"
    with pytest.raises(AttributeError):
        del credential._value
    with pytest.raises(AttributeError):
        credential.other = 1  # type: ignore[attr-defined]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(credential, protocol)
    assert copy.copy(credential) is credential
    assert copy.deepcopy([credential])[0] is credential


def test_credentials_are_equal_by_value() -> None:
    assert Credential("a", 1) == Credential("a", 2)
    assert Credential("a") != Credential("b")
    assert Credential("é") == Credential("é")
    assert Credential("a") != "a"
    assert len({Credential("a"), Credential("a", 5)}) == 1


def test_an_aware_datetime_is_a_moment_and_a_naive_one_is_not() -> None:
    moment = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    assert Credential("a", moment).expires_at == moment.timestamp()
    with pytest.raises(ConfigurationError, match="time zone"):
        Credential("a", datetime.datetime(2030, 1, 1))


@pytest.mark.parametrize("wrong", [True, "soon", float("nan"), float("inf"), 1_700_000_000_000])
def test_a_wrong_expiry_is_named(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="expires_at="):
        Credential("a", wrong)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "key\r\nX-Evil: 1",
        "key\n",
        " key",
        "k\0ey",
        "k\tey",
        "k\x7fey",
        "k\x85ey",
        "kéy€",
        "k\udcffey",
        None,
        5,
        b"key",
    ],
)
def test_a_value_that_no_header_can_hold_is_refused_without_showing_it(value: Any) -> None:
    with pytest.raises(CredentialUnavailable) as caught:
        Credential(value)
    assert "key" not in str(caught.value)
    assert caught.value.__context__ is None


# ---- CredentialSource: settings


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "env= and provider="),
        ({"env": "A", "provider": lambda: "x"}, "env= and provider="),
        ({"env": ""}, "env=''"),
        ({"env": "A=B"}, "env='A=B'"),
        ({"env": 5}, "env=5"),
        ({"provider": "x"}, "provider='x'"),
        ({"provider": lambda: "x", "ttl": 0}, "ttl=0"),
        ({"provider": lambda: "x", "ttl": -1}, "ttl=-1"),
        ({"provider": lambda: "x", "ttl": float("inf")}, "ttl=inf"),
        ({"provider": lambda: "x", "ttl": float("nan")}, "ttl=nan"),
        ({"provider": lambda: "x", "ttl": True}, "ttl=True"),
        ({"provider": lambda: "x", "ttl": "5"}, "ttl='5'"),
    ],
)
def test_a_wrong_setting_of_a_source_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        CredentialSource(**settings)
    assert named in str(caught.value)


def test_a_source_is_called_by_what_it_reads() -> None:
    assert str(CredentialSource(env="API_KEY")) == "env:API_KEY"
    assert CredentialSource(provider=at_once).name == "at_once"
    assert CredentialSource(provider=functools.partial(at_once, 1)).name == "at_once"
    assert repr(CredentialSource(provider=Vault())) == "CredentialSource(Vault)"


# ---- env


def test_an_environment_variable_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    source = CredentialSource(env="API_KEY")
    monkeypatch.setenv("API_KEY", "one")
    assert source.get() is source.get(), "an unchanged value is not made anew"
    monkeypatch.setenv("API_KEY", "two")
    assert source.get().value == "two"
    assert not source.can_refresh


def test_a_missing_or_unfit_variable_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    source = CredentialSource(env="API_KEY")
    monkeypatch.delenv("API_KEY", raising=False)
    with pytest.raises(CredentialUnavailable, match="API_KEY is not set"):
        source.get()
    monkeypatch.setenv("API_KEY", "")
    with pytest.raises(CredentialUnavailable, match="API_KEY is empty"):
        source.get()
    monkeypatch.setenv("API_KEY", SECRET + "\n")
    with pytest.raises(CredentialUnavailable, match=r"API_KEY begins or ends with white space") as caught:
        source.get()
    assert SECRET not in str(caught.value)


async def test_a_variable_is_renewed_only_if_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    source = CredentialSource(env="API_KEY")
    monkeypatch.setenv("API_KEY", "old")
    stale = await source.get_async()
    assert source.renew(stale) is None
    assert await source.renew_async(stale) is None
    monkeypatch.setenv("API_KEY", "new")
    assert source.renew(stale) == Credential("new")
    assert await source.renew_async(stale) == Credential("new")


# ---- provider: kept and refreshed


def test_a_string_is_kept_for_its_ttl(clock: FakeClock) -> None:
    vault = Vault()
    source = CredentialSource(provider=vault, ttl=100)
    assert [source.get().value for _ in range(3)] == ["token-1"] * 3
    clock.pass_(79)
    assert source.get().value == "token-1"
    assert source._flight is None
    clock.pass_(21)
    assert source.get().value == "token-2"
    assert vault.calls == 2


def test_without_a_ttl_it_is_300_seconds(clock: FakeClock) -> None:
    source = CredentialSource(provider=Vault())
    source.get()
    clock.pass_(239)
    assert source.get().value == "token-1"
    clock.pass_(61)
    assert source.get().value == "token-2"


def test_a_credential_is_given_up_shortly_before_it_ends(clock: FakeClock) -> None:
    vault = Vault(lambda n: Credential(f"token-{n}", clock.w + 3600))
    source = CredentialSource(provider=vault, ttl=5)
    source.get()
    clock.pass_(2800)
    assert source.get().value == "token-1"
    assert vault.calls == 1
    clock.pass_(790)
    assert source.get().value == "token-2"


def test_a_credential_that_has_ended_already_is_given_but_not_kept(clock: FakeClock) -> None:
    # The peer decides; our wall clock may be the one that is wrong.
    vault = Vault(lambda n: Credential(f"token-{n}", clock.w - 5))
    source = CredentialSource(provider=vault)
    assert [source.get().value, source.get().value] == ["token-1", "token-2"]


@pytest.mark.parametrize("ticking", ["m", "w"])
def test_it_is_old_if_either_clock_says_so(clock: FakeClock, ticking: str) -> None:
    source = CredentialSource(provider=Vault(), ttl=100)
    source.get()
    setattr(clock, ticking, getattr(clock, ticking) + 101)
    assert source.get().value == "token-2"


def test_a_wall_clock_that_is_set_back_makes_nothing_younger_or_older(clock: FakeClock) -> None:
    source = CredentialSource(provider=Vault(), ttl=100)
    source.get()
    clock.w -= 10_000
    clock.m += 50
    assert source.get().value == "token-1"
    clock.m += 50
    assert source.get().value == "token-2"


def test_what_was_found_old_does_not_come_back_when_the_wall_clock_goes_back(clock: FakeClock) -> None:
    vault = Vault()
    source = CredentialSource(provider=vault, ttl=100)
    source.get()
    vault.error = OSError("down")
    clock.w += 10_000
    with pytest.raises(CredentialUnavailable):
        source.get()
    clock.w -= 10_000
    with pytest.raises(CredentialUnavailable):
        source.get()


def test_it_is_refreshed_ahead_while_callers_get_the_old_one(clock: FakeClock) -> None:
    vault = Vault()
    source = CredentialSource(provider=vault, ttl=100)
    source.get()
    vault.gate.clear()
    clock.pass_(95)
    assert at_once(8, lambda: source.get().value) == ["token-1"] * 8, "nobody waits"
    until(lambda: vault.calls == 2)
    vault.gate.set()
    landed(source)
    assert source.get().value == "token-2"
    assert vault.calls == 2


def test_a_refresh_ahead_that_fails_leaves_the_old_one_and_is_tried_again_later(clock: FakeClock) -> None:
    vault = Vault()
    source = CredentialSource(provider=vault, ttl=100)
    source.get()
    vault.error = OSError("down")
    clock.pass_(91)
    for _ in range(5):
        assert source.get().value == "token-1"
        landed(source)
    assert vault.calls == 2, "not at every request"
    clock.pass_(5)
    assert source.get().value == "token-1"
    landed(source)
    assert vault.calls == 3
    clock.pass_(5)
    with pytest.raises(CredentialUnavailable):
        source.get()


def test_where_no_thread_can_be_started_it_is_refreshed_in_line_at_its_end(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_threads(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_threads)
    vault = Vault()
    source = CredentialSource(provider=vault, ttl=100)
    assert source.get().value == "token-1"
    clock.pass_(95)
    assert source.get().value == "token-1"
    assert vault.calls == 1
    clock.pass_(5)
    assert source.get().value == "token-2"
    vault.error = KeyboardInterrupt()
    source.drop()
    with pytest.raises(KeyboardInterrupt):
        source.get()


def test_drop_forgets_the_credential_and_a_refresh_under_way(clock: FakeClock) -> None:
    vault = Vault()
    source = CredentialSource(provider=vault)
    source.get()
    source.drop()
    assert SECRET not in repr(vars(source))
    assert source.get().value == "token-2"
    vault.gate.clear()
    clock.pass_(280)
    assert source.get().value == "token-2"
    until(lambda: vault.calls == 3)
    source.drop()
    vault.gate.set()
    assert source.get().value == "token-4", "what began before the snapshot leaves nothing behind it"


# ---- provider: once for all


def test_32_threads_cause_one_call() -> None:
    vault = Vault()
    vault.gate.clear()
    source = CredentialSource(provider=vault)
    opener = threading.Thread(
        target=lambda: (until(lambda: source._flight and source._flight.joined == 31), vault.gate.set())
    )
    opener.start()
    got = at_once(32, source.get)
    opener.join()
    assert {c.value for c in got} == {"token-1"}
    assert vault.calls == 1


def test_32_threads_share_an_error_and_a_later_call_asks_again() -> None:
    vault = Vault()
    vault.error = ValueError(f"cannot parse {SECRET}")
    vault.gate.clear()
    source = CredentialSource(provider=vault)
    opener = threading.Thread(
        target=lambda: (until(lambda: source._flight and source._flight.joined == 31), vault.gate.set())
    )
    opener.start()
    got = at_once(32, source.get)
    opener.join()
    assert vault.calls == 1
    assert {type(e) for e in got} == {CredentialUnavailable}
    assert len({id(e) for e in got}) == 32, "each has an exception of its own"
    assert all(e.__cause__ is vault.error for e in got)
    assert {str(e) for e in got} == {"Vault: the provider failed: ValueError"}, (
        "not the text, which holds who knows what"
    )
    vault.error = None
    assert source.get().value == "token-2"


@pytest.mark.parametrize("fails", [False, True])
def test_32_threads_with_the_same_refused_credential_cause_one_refresh_early_or_late(fails: bool) -> None:
    vault = Vault()
    source = CredentialSource(provider=vault)
    stale = source.get()
    vault.error = OSError("down") if fails else None
    # Not gated: some come while the refresh is under way and some after it.
    got = at_once(32, lambda: source.renew(stale))
    assert vault.calls == 2
    if fails:
        assert {type(e) for e in got} == {CredentialUnavailable}
        assert all(e.__cause__ is vault.error for e in got)
        with pytest.raises(CredentialUnavailable):
            source.renew(stale)
        assert vault.calls == 2
        vault.error = None
        assert source.get().value == "token-3", "a later call asks again"
        renewed = source.renew(stale)
        assert renewed is not None
        assert renewed.value == "token-3"
    else:
        assert {c.value for c in got} == {"token-2"}


def test_a_refused_credential_that_is_being_refreshed_ahead_causes_no_second_refresh(clock: FakeClock) -> None:
    vault = Vault()
    source = CredentialSource(provider=vault, ttl=100)
    stale = source.get()
    vault.gate.clear()
    vault.error = OSError("down")
    clock.pass_(95)
    source.get()
    opener = threading.Thread(
        target=lambda: (until(lambda: source._flight and source._flight.joined), vault.gate.set())
    )
    opener.start()
    for _ in range(3):
        with pytest.raises(CredentialUnavailable):
            source.renew(stale)
    opener.join()
    assert vault.calls == 2


def test_a_provider_that_gives_the_same_value_is_asked_once_and_its_value_sent_again() -> None:
    same = Credential("same")
    vault = Vault(lambda n: same)
    source = CredentialSource(provider=vault)
    stale = source.get()
    got = at_once(8, lambda: source.renew(stale))
    assert vault.calls == 2
    assert all(c == stale and c is not stale for c in got)


def test_invalidate_drops_only_what_is_still_held() -> None:
    vault = Vault()
    source = CredentialSource(provider=vault)
    old = source.get()
    source.invalidate(old)
    new = source.get()
    source.invalidate(old)
    assert source.get() is new
    assert vault.calls == 2


def test_who_waits_waits_no_longer_than_its_deadline_and_the_refresh_goes_on() -> None:
    vault = Vault()
    vault.gate.clear()
    source = CredentialSource(provider=vault)
    with pytest.raises(DeadlineExceeded, match="Vault"):
        source.get(CLOCK.monotonic() - 1)
    with pytest.raises(DeadlineExceeded):
        source.get(CLOCK.monotonic() + 0.01)
    vault.gate.set()
    landed(source)
    assert source.get(CLOCK.monotonic() - 1).value == "token-1", "what is there is given even then"
    assert vault.calls == 1


def test_who_has_no_deadline_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flights, "PATIENCE", 0.01)
    vault = Vault()
    vault.gate.clear()
    source = CredentialSource(provider=vault)
    with pytest.raises(CredentialUnavailable, match="no answer"):
        source.get()
    vault.gate.set()


def test_a_refresh_that_was_frozen_with_the_process_does_not_hold_up_the_next(clock: FakeClock) -> None:
    gates = [threading.Event(), threading.Event()]
    asked: list[int] = []

    def provider() -> str:
        n = len(asked)
        asked.append(n)
        if n == 0:
            gates[0].wait(20)
        return f"token-{n}"

    source = CredentialSource(provider=provider)
    with pytest.raises(DeadlineExceeded):
        source.get(clock.m)
    frozen = source._flight
    until(lambda: asked)
    clock.w += 600
    assert source.get().value == "token-1"
    gates[0].set()
    assert frozen is not None
    assert frozen.wait(None).value == "token-0", "who waits for it gets it"
    assert source.get().value == "token-1", "but it does not replace what came later"


def test_a_provider_that_asks_for_its_own_credential_fails_at_once() -> None:
    def provider() -> str:
        return source.get().value

    source = CredentialSource(provider=provider)
    with pytest.raises(CredentialUnavailable, match="asks for the credential"):
        source.get()


def test_what_the_provider_sends_belongs_to_no_call() -> None:
    from resilience.core.call import Call

    seen: list[Any] = []
    call = Call()

    def provider() -> str:
        seen.extend([find(), resolving()])
        return "x"

    source = CredentialSource(provider=provider)
    token = CURRENT.set(call)
    EXCLUSIVE[0] = call
    try:
        assert find() is call
        source.get()
    finally:
        CURRENT.reset(token)
        EXCLUSIVE[0] = None
    assert seen == [None, source]
    assert resolving() is None


@pytest.mark.parametrize("wrong", [None, 5, b"bytes-" + SECRET.encode(), "", "a\nb", SECRET + "\r\n", ["x"]])
def test_an_answer_that_is_no_credential_is_refused_without_showing_it(wrong: Any) -> None:
    source = CredentialSource(provider=lambda: wrong)
    with pytest.raises(CredentialUnavailable) as caught:
        source.get()
    assert "the provider's answer" in str(caught.value)
    assert SECRET not in rendered(caught.value)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_keeps_the_credential_and_waits_for_no_thread_of_its_parent() -> None:
    vault = Vault()
    kept, waiting = CredentialSource(provider=lambda: "kept"), CredentialSource(provider=vault)

    async def coroutine() -> str:
        return "from a loop"

    looped = CredentialSource(provider=coroutine)
    kept.get()
    looped.get()
    vault.gate.clear()
    with pytest.raises(DeadlineExceeded):
        waiting.get(CLOCK.monotonic())
    until(lambda: vault.calls == 1)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            vault.gate = threading.Event()
            vault.gate.set()
            vault._lock = threading.Lock()
            looped.drop()
            deadline = CLOCK.monotonic() + 10
            got = [kept.get(deadline).value, waiting.get(deadline).value, looped.get(deadline).value]
            status = 0 if got == ["kept", "token-2", "from a loop"] else 2
        finally:
            os._exit(status)
    vault.gate.set()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert waiting.get().value == "token-1"


# ---- async


async def test_an_async_caller_does_not_block_the_loop_and_shares_with_threads() -> None:
    vault = Vault()
    vault.gate.clear()
    source = CredentialSource(provider=vault)
    tasks = [asyncio.create_task(source.get_async()) for _ in range(200)]
    thread = asyncio.create_task(asyncio.to_thread(source.get))
    while source._flight is None or source._flight.joined < 200:
        await asyncio.sleep(0.001)
    vault.gate.set()
    assert {c.value for c in await asyncio.gather(*tasks, thread)} == {"token-1"}
    assert (await source.get_async()).value == "token-1"
    assert vault.calls == 1


async def test_async_callers_share_an_error_and_a_cancelled_one_harms_nobody() -> None:
    vault = Vault()
    vault.error = OSError("down")
    vault.gate.clear()
    source = CredentialSource(provider=vault)
    tasks = [asyncio.create_task(source.get_async()) for _ in range(10)]
    while source._flight is None or source._flight.joined < 9:
        await asyncio.sleep(0.001)
    tasks[0].cancel()
    vault.gate.set()
    got = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(got[0], asyncio.CancelledError)
    assert {type(e) for e in got[1:]} == {CredentialUnavailable}
    assert vault.calls == 1


async def test_an_async_caller_waits_no_longer_than_its_deadline() -> None:
    vault = Vault()
    vault.gate.clear()
    source = CredentialSource(provider=vault)
    with pytest.raises(DeadlineExceeded):
        await source.get_async(CLOCK.monotonic() + 0.01)
    vault.gate.set()


async def test_tasks_with_the_same_refused_credential_cause_one_refresh() -> None:
    vault = Vault()
    source = CredentialSource(provider=vault)
    stale = await source.get_async()
    got = await asyncio.gather(*(source.renew_async(stale) for _ in range(50)))
    assert {c.value for c in got if c} == {"token-2"}
    assert vault.calls == 2


async def test_an_async_provider_serves_sync_and_async_callers_on_one_loop_of_its_own() -> None:
    loops: list[Any] = []

    async def provider() -> str:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return f"token-{len(loops)}"

    source = CredentialSource(provider=provider)
    # Blocking this loop on purpose: the provider must not need it.
    first = source.get()
    assert first.value == "token-1"
    source.invalidate(first)
    assert (await source.get_async()).value == "token-2"
    assert loops[0] is loops[1]
    assert loops[0] is not asyncio.get_running_loop()


def test_an_async_provider_that_fails_is_a_failure() -> None:
    async def provider() -> str:
        raise asyncio.CancelledError

    with pytest.raises(CredentialUnavailable):
        CredentialSource(provider=provider).get()


# ---- events


def test_a_refresh_tells_why_and_whether_it_came_to_something(clock: FakeClock) -> None:
    vault = Vault()
    source = CredentialSource(provider=vault, ttl=100)
    heard: list[events.CredentialRefreshed] = []
    stop = events.listen(heard.append, events.CredentialRefreshed)
    try:
        source.get()
        clock.pass_(100)
        source.get()
        clock.pass_(95)
        source.get()
        landed(source)
        until(lambda: len(heard) == 3)
        source.renew(source.get())
        vault.error = OSError(SECRET)
        source.invalidate(source.get())
        with pytest.raises(CredentialUnavailable):
            source.get()
    finally:
        stop()
    assert [(e.why, e.ok) for e in heard] == [
        ("first", True),
        ("expiry", True),
        ("ahead", True),
        ("unauthorized", True),
        ("unauthorized", False),
    ]
    assert {e.source for e in heard} == {"Vault"}
    assert SECRET not in repr(heard)


# ---- Authorizer


def authorizer(**settings: Any) -> Authorizer:
    return Authorizer(CredentialSource(provider=lambda: SECRET), HostRule.parse("api.example.com"), **settings)


def test_the_credential_replaces_whatever_stands_in_its_header() -> None:
    headers = requests.structures.CaseInsensitiveDict({"authorization": "Bearer stale", "Accept": "*/*"})
    assert authorizer().apply(headers, URL, Credential("fresh"))
    assert dict(headers.items()) == {"Accept": "*/*", "Authorization": "Bearer fresh"}
    plain = {"AUTHORIZATION": "a", "authorization": "b", "Accept": "*/*"}
    authorizer().apply(plain, URL, Credential("fresh"))
    assert plain == {"Accept": "*/*", "Authorization": "Bearer fresh"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"scheme": "Token"}, {"Authorization": "Token x"}),
        ({"scheme": ""}, {"Authorization": "x"}),
        ({"scheme": None, "header": "x-api-key"}, {"x-api-key": "x"}),
    ],
)
def test_scheme_and_header_are_settings(settings: dict[str, Any], expected: dict[str, str]) -> None:
    assert authorizer(**settings).headers_for(URL, Credential("x")) == expected


def test_nothing_is_set_for_another_host() -> None:
    headers = {"Authorization": "the user's own"}
    for url in ("https://evil.com/", "http://api.example.com/"):
        assert not authorizer().allows(url)
        assert not authorizer().apply(headers, url, Credential(SECRET))
        assert authorizer().headers_for(url, Credential(SECRET)) == {}
    assert headers == {"Authorization": "the user's own"}
    assert authorizer(insecure=True).allows("http://api.example.com/")


def test_a_request_of_the_provider_itself_gets_no_credential() -> None:
    seen: list[bool] = []

    def provider() -> str:
        seen.append(auth.allows(URL))
        return "x"

    source = CredentialSource(provider=provider)
    auth = Authorizer(source, HostRule.parse("api.example.com"))
    source.get()
    assert seen == [False]
    assert auth.allows(URL)


def test_headers_for_another_client_do_not_show_themselves() -> None:
    headers = authorizer().headers_for(URL, Credential(SECRET))
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert isinstance(headers, SecretHeaders)
    assert SECRET not in repr(headers)
    assert "Authorization" in repr(headers)


def test_without_a_source_there_is_no_credential_and_every_host_may_know_the_request_id() -> None:
    auth = Authorizer(None, None)
    assert not auth.allows(URL)
    assert auth.is_ours("http://anywhere.example/")
    assert authorizer().is_ours("http://api.example.com/")
    assert not authorizer().is_ours("https://evil.com/")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"scheme": "Bea rer"}, "scheme='Bea rer'"),
        ({"scheme": "a\r\n"}, "scheme="),
        ({"header": ""}, "header=''"),
        ({"header": "X:"}, "header='X:'"),
        ({"header": "X\n"}, "header="),
        ({"header": "Content-Length"}, "header='Content-Length'"),
        ({"header": None}, "header=None"),
        ({"request_id_header": "a b"}, "request_id_header='a b'"),
        ({"refresh_on": (200,)}, "refresh_on=(200,)"),
        ({"refresh_on": ("401",)}, "refresh_on=('401',)"),
    ],
)
def test_a_wrong_setting_of_an_authorizer_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        authorizer(**settings)
    assert named in str(caught.value)


def test_a_source_needs_hosts() -> None:
    with pytest.raises(ConfigurationError, match="hosts=None"):
        Authorizer(CredentialSource(env="A"), None)


def test_idempotency_keys_are_random_uuids() -> None:
    keys = {new_idempotency_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(len(k) == 36 and k[14] == "4" for k in keys)


# ---- nothing shows the secret


def rendered(error: BaseException) -> str:
    """The error as the most talkative handler would print it, without the frames of this file."""
    told: list[str] = []
    todo: list[traceback.TracebackException | None] = [
        traceback.TracebackException.from_exception(error, capture_locals=True)
    ]
    while todo:
        one = todo.pop()
        if one is not None:
            frames = traceback.StackSummary.from_list([f for f in one.stack if f.filename != __file__])
            told += [*one.format_exception_only(), *frames.format()]
            todo += [one.__cause__, one.__context__]
    return "".join(told)


class Refusing(dict[str, str]):
    def __setitem__(self, key: str, value: str) -> None:
        raise RuntimeError("no room")


def test_no_traceback_of_ours_shows_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = SECRET + "\n"
    caught: list[BaseException] = []

    def collect(fn: Callable[[], Any]) -> None:
        try:
            fn()
        except Exception as error:
            caught.append(error)

    monkeypatch.setenv("API_KEY", bad)
    collect(CredentialSource(env="API_KEY").get)
    collect(lambda: Credential(bad))
    collect(lambda: Credential(SECRET, "soon"))  # type: ignore[arg-type]
    for answer in (bad, SECRET.encode(), [SECRET]):
        collect(CredentialSource(provider=lambda a=answer: a).get)
    collect(lambda: authorizer().apply(Refusing(), URL, Credential(SECRET)))

    vault = Vault(lambda n: SECRET)
    source = CredentialSource(provider=vault)
    stale = source.get()
    vault.error = OSError("down")
    collect(lambda: source.renew(stale))
    collect(lambda: source.get())
    vault.gate.clear()
    collect(lambda: source.get(CLOCK.monotonic()))
    vault.gate.set()

    async def finish() -> str:
        return bad

    collect(CredentialSource(provider=finish).get)
    assert len(caught) == 11
    assert [SECRET in rendered(e) for e in caught] == [False] * 11


def test_a_source_and_its_settings_do_not_show_the_secret() -> None:
    auth = authorizer()
    assert auth.source is not None
    auth.source.get()
    shown = repr(auth) + repr(vars(auth)) + repr(auth.source) + repr(vars(auth.source))
    assert SECRET not in shown


@pytest.mark.slow
def test_threads_that_get_renew_and_drop_at_random_see_no_error() -> None:
    import sys

    vault = Vault()
    source = CredentialSource(provider=vault)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def busy() -> int:
        for n in range(2000):
            held = source.get()
            if n % 100 == 0:
                source.renew(held)
            elif n % 333 == 0:
                source.drop()
        return 1

    try:
        assert at_once(8, busy) == [1] * 8
    finally:
        sys.setswitchinterval(before)
        gc.collect()
