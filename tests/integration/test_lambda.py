"""The five decorators on a handler under the real runtime client, against a real API behind a real network."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resilience.testing import Fault, FaultyAPI, LambdaRuntime, Relay

pytestmark = pytest.mark.slow

HANDLER = """
import os
import resilience
URL = os.environ["API_URL"]
if "PREWARM" in os.environ:
    resilience.prewarm(URL)

import requests
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit, warm
from resilience.core import events

heard, bodies, asked = [], [], []
resilience.listen(lambda e: heard.append([type(e).__name__, getattr(e, "why", getattr(e, "meaning", None))]),
    events.AttemptFailed, events.ConnectionRetired, events.RetryScheduled, events.RetryGivenUp)

def key():
    asked.append(1)
    return Path(os.environ["KEY_FILE"]).read_text()

QUESTION = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}

@warm
@pooled(base_url=URL, max_idle=float(os.environ.get("MAX_IDLE", "55")),
        timeout=(3, float(os.environ.get("READ_TIMEOUT", "30"))))
@retry_ratelimit(base=0.01)
@circuit_breaker
@fresh_auth(provider=key, ttl=3600, idempotency_key="NO_KEY" not in os.environ)
def handler(event, context):
    heard.clear()
    bodies.append(1)
    def ask(_=None):
        return requests.post(URL + "/v1/chat/completions", json=QUESTION)
    if event == "threads":
        with ThreadPoolExecutor(4) as pool:
            r = list(pool.map(ask, range(4)))[0]
    else:
        r = ask()
    why = getattr(getattr(r, "resilience", None), "why", None)
    return {"status": r.status_code, "bodies": len(bodies), "heard": heard, "why": why, "asked": len(asked)}

if "AT_IMPORT" in os.environ:
    handler.resilience.session.get("/v1/models").raise_for_status()
"""

ASYNC_HANDLER = """
import asyncio, os, ssl
import httpx, resilience
from resilience import circuit_breaker, fresh_auth, retry_ratelimit, warm

URL = os.environ["API_URL"]
client = None

@warm
@retry_ratelimit(base=0.01)
@circuit_breaker
@fresh_auth(env="API_KEY", hosts="localhost")
async def handler(event, context):
    global client
    if client is None:
        client = httpx.AsyncClient(verify=ssl.create_default_context(cafile=os.environ["REQUESTS_CA_BUNDLE"]))
    headers = resilience.current().auth_headers(URL)
    r = await client.get(URL + "/v1/models", headers=headers)
    r.raise_for_status()
    return {"loop": id(asyncio.get_running_loop()), "status": r.status_code}
"""

CALL_HANDLER = """
import os, requests
from resilience import retry_ratelimit, warm

@warm
@retry_ratelimit
def handler(event, context):
    requests.get(os.environ["API_URL"] + "/health").raise_for_status()
"""

Start = Callable[..., LambdaRuntime]


@pytest.fixture
def api() -> Iterator[FaultyAPI]:
    with FaultyAPI(seed=5) as api:
        yield api


@pytest.fixture
def relay(api: FaultyAPI) -> Iterator[Relay]:
    with Relay(api.port, rtt=0.01) as relay:
        yield relay


@pytest.fixture
def key_file(tmp_path: Path, api: FaultyAPI) -> Path:
    file = tmp_path / "key"
    file.write_text(api.key)
    return file


@pytest.fixture
def start(tmp_path: Path, api: FaultyAPI, key_file: Path) -> Iterator[Start]:
    """Makes a runtime of the handler above, which has not been started."""
    made: list[LambdaRuntime] = []

    def start(url: str, source: str = HANDLER, env: dict[str, str] | None = None, **settings: Any) -> LambdaRuntime:
        (tmp_path / "function.py").write_text(source)
        # Nothing of this machine's environment speaks for a proxy, or against our certificate.
        without = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
        env = {**without, "API_URL": url, "REQUESTS_CA_BUNDLE": api.ca_file, "KEY_FILE": str(key_file), **(env or {})}
        env.setdefault("API_KEY", api.key)
        made.append(LambdaRuntime("function.handler", root=tmp_path, env=env, **{"timeout": 30, **settings}))
        return made[-1]

    yield start
    for runtime in made:
        runtime.stop()


def until(condition: Callable[[], Any], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def sockets_to(pid: int | None, port: int) -> int:
    """How many TCP sockets, of whatever state, the process has to a port."""
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        # Closed since it was listed.
        try:
            links.append(os.readlink(fd))
        except FileNotFoundError:
            continue
    inodes = {m[1] for link in links if (m := re.fullmatch(r"socket:\[(\d+)\]", link))}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[2].rpartition(":")[2], 16) == port and row[9] in inodes for row in rows)


# --- cold and warm ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [{}, {"PREWARM": "1"}], ids=["warm", "warm and prewarm"])
def test_the_handshake_is_made_in_the_init_phase_and_never_again(env: Any, api: FaultyAPI, start: Start) -> None:
    runtime = start(api.url, env=env)
    runtime.start()
    assert until(lambda: api.handshakes == 1)
    assert api.count() == 0

    answers = [runtime.invoke({}) for _ in range(30)]

    assert [a.payload["status"] for a in answers] == [200] * 30
    assert [a.cold for a in answers] == [True] + [False] * 29
    assert api.handshakes == 1
    assert {record.connection for record in api.requests} == {1}
    assert [record.request_id for record in api.requests] == [a.request_id for a in answers]
    assert answers[-1].payload["asked"] == 1


@pytest.mark.parametrize("env", [{}, {"PREWARM": "1"}], ids=["warm", "warm and prewarm"])
def test_a_first_call_that_comes_at_once_shares_the_handshake_under_way(
    env: Any, api: FaultyAPI, relay: Relay, start: Start
) -> None:
    relay.rtt = 0.1
    answer = start(relay.url, env=env).invoke({})
    assert answer.payload["status"] == 200
    assert api.handshakes == 1


def test_threads_of_the_handler_send_the_invocations_id(api: FaultyAPI, start: Start) -> None:
    runtime = start(api.url)
    answers = [runtime.invoke("threads") for _ in range(2)]
    assert [a.payload["status"] for a in answers] == [200, 200]
    assert api.by_id == {a.request_id: 4 for a in answers}


def test_pings_and_odd_events_reach_the_real_runtime(api: FaultyAPI, start: Start) -> None:
    runtime = start(api.url)
    for event in ({"warmup": True}, {"warmer": True, "concurrency": 2}, {"source": "serverless-plugin-warmup"}):
        answer = runtime.invoke(event).payload
        assert answer["warmed"] is True
        assert answer["errors"] == []
        assert answer["credential"] == "ready"
    told = runtime.invoke([1], client_context={"custom": {"source": "serverless-plugin-warmup"}})
    assert told.payload["warmed"] is True
    assert api.count() == 0
    for event in ([1, 2], "text", 7, None, True, {"source": ["x"]}):
        assert runtime.invoke(event).payload["status"] == 200
    assert api.handshakes == 1


def test_an_async_handler_runs_on_one_loop_and_keeps_its_client(api: FaultyAPI, start: Start) -> None:
    runtime = start(api.url, ASYNC_HANDLER)
    answers = [runtime.invoke({"n": n}) for n in range(5)]

    assert [a.error for a in answers] == [None] * 5
    assert {a.payload["status"] for a in answers} == {200}
    assert len({a.payload["loop"] for a in answers}) == 1
    assert api.handshakes == 1
    assert runtime.invoke({"warmup": True}).payload["warmed"] is True

    api.script([Fault.status(503)])
    assert runtime.invoke({}).payload["status"] == 200
    assert api.count("/v1/models") == 7


# --- frozen ----------------------------------------------------------------------------------------------------------


def test_after_a_long_freeze_the_dead_connection_is_not_used(api: FaultyAPI, relay: Relay, start: Start) -> None:
    runtime = start(relay.url, env={"MAX_IDLE": "0.3", "READ_TIMEOUT": "20"})
    assert runtime.invoke({}).payload["status"] == 200
    before = relay.connections
    runtime.freeze()
    assert relay.black_hole() >= 1
    time.sleep(0.4)

    answer = runtime.invoke({})

    assert answer.payload["status"] == 200
    assert answer.payload["heard"] == [["ConnectionRetired", "idle"]]
    assert relay.connections == before + 1
    # No timeout was waited for: neither that of reading nor that of connecting.
    assert answer.duration_ms < 20_000 / 10


def test_after_a_short_freeze_the_dead_connection_costs_one_read_timeout(
    api: FaultyAPI, relay: Relay, start: Start
) -> None:
    runtime = start(relay.url, env={"READ_TIMEOUT": "1"})
    assert runtime.invoke({}).payload["status"] == 200
    runtime.freeze()
    relay.black_hole()

    answer = runtime.invoke({})

    assert answer.payload["status"] == 200
    assert answer.payload["heard"] == [["AttemptFailed", "dropped"], ["RetryScheduled", "dropped"]]
    assert answer.payload["bodies"] == 2
    # That of one attempt, and not the 30 s of the whole.
    assert 1_000 <= answer.duration_ms < 30_000 / 3
    assert (api.count(), api.processed) == (2, 2)


def test_what_may_have_been_processed_is_not_sent_again_without_a_key(
    api: FaultyAPI, relay: Relay, start: Start
) -> None:
    runtime = start(relay.url, env={"READ_TIMEOUT": "0.5", "NO_KEY": "1"})
    assert runtime.invoke({}).payload["status"] == 200
    runtime.freeze()
    relay.black_hole()

    answer = runtime.invoke({})

    assert answer.error is not None
    assert "Timeout" in answer.error["errorType"]
    assert api.count() == 1
    assert runtime.invoke({}).payload["status"] == 200


def test_a_process_frozen_between_init_and_its_first_call_works(api: FaultyAPI, relay: Relay, start: Start) -> None:
    env = {"MAX_IDLE": "0.3", "READ_TIMEOUT": "20"}
    runtime = start(relay.url, env=env, init_type="provisioned-concurrency")
    runtime.start()
    assert until(lambda: api.handshakes == 1)
    runtime.freeze()
    relay.black_hole()
    time.sleep(0.4)

    answer = runtime.invoke({})

    assert answer.payload["status"] == 200
    assert answer.duration_ms < 20_000 / 10


@pytest.mark.parametrize("env", [{}, {"PREWARM": "1"}], ids=["warm", "warm and prewarm"])
def test_a_process_frozen_in_the_middle_of_its_handshake_works(
    env: dict[str, str], api: FaultyAPI, relay: Relay, start: Start
) -> None:
    relay.rtt = 2.0
    runtime = start(relay.url, env={**env, "READ_TIMEOUT": "25"}, init_type="provisioned-concurrency")
    runtime.start()
    assert until(lambda: relay.connections == 1)
    runtime.freeze()
    relay.black_hole()
    relay.rtt = 0.01

    answer = runtime.invoke({})

    assert answer.payload["status"] == 200
    # What is left of the connect timeout at most.
    assert answer.duration_ms < 25_000 / 2


# --- SnapStart -------------------------------------------------------------------------------------------------------


def test_a_snapshot_holds_no_socket_and_no_credential(api: FaultyAPI, start: Start, key_file: Path) -> None:
    runtime = start(api.url, env={"PREWARM": "1", "AT_IMPORT": "1"}, init_type="snap-start")
    runtime.snapshot()
    # It had both, and nothing was opened beside them.
    assert (api.handshakes, api.count("/v1/models", status=200)) == (1, 1)
    assert sockets_to(runtime.pid, api.port) == 0

    key_file.write_text(api.rotate())
    runtime.restore()
    runtime.start()

    # Warm before the first event.
    assert until(lambda: api.handshakes == 2)
    assert sockets_to(runtime.pid, api.port) == 1
    answers = [runtime.invoke({}) for _ in range(2)]
    assert [a.payload["status"] for a in answers] == [200, 200]
    assert api.count(status=401) == 0
    assert [record.key for record in api.requests[1:]] == [api.key, api.key]
    assert api.handshakes == 2
    # One at import, and one after the restore.
    assert answers[-1].payload["asked"] == 2


def test_nothing_is_opened_before_a_snapshot_by_itself(api: FaultyAPI, start: Start) -> None:
    runtime = start(api.url, init_type="snap-start")
    runtime.snapshot()
    assert api.connections == 0
    assert runtime.invoke({}).payload["status"] == 200
    assert api.handshakes == 1


# --- credentials and limits ------------------------------------------------------------------------------------------


def test_a_rotated_key_fails_no_call(api: FaultyAPI, start: Start, key_file: Path) -> None:
    runtime = start(api.url)
    assert runtime.invoke({}).payload["status"] == 200
    key_file.write_text(api.rotate())

    answers = [runtime.invoke({}) for _ in range(3)]

    assert [a.payload["status"] for a in answers] == [200] * 3
    assert api.count(status=401) == 1
    assert answers[-1].payload["asked"] == 2
    assert api.key not in runtime.logs


def test_a_hint_that_does_not_fit_the_time_left_is_answered_at_once(api: FaultyAPI, start: Start) -> None:
    runtime = start(api.url)
    assert runtime.invoke({}).payload["status"] == 200
    api.script([Fault.rate_limited("retry-after", 10)])
    api.reset_counts()

    answer = runtime.invoke({}, timeout=3)

    assert (answer.payload["status"], answer.payload["why"]) == (429, "deadline")
    assert not answer.timed_out
    assert api.count() == 1
    assert answer.duration_ms < 3_000 / 2

    # Nor is the next call sent before the hint's end: it says so at once.
    second = runtime.invoke({}, timeout=3)
    assert second.error is not None
    assert second.error["errorType"] == "RateLimited"
    assert api.count() == 1
    assert second.duration_ms < 3_000 / 2


def test_a_call_that_raises_it_is_a_rate_limited_error(api: FaultyAPI, start: Start) -> None:
    runtime = start(api.url, CALL_HANDLER)
    assert runtime.invoke({}).ok
    api.script([Fault.rate_limited("retry-after", 10)])

    answer = runtime.invoke({}, timeout=3)

    assert answer.error is not None
    assert answer.error["errorType"] == "RateLimited"
    assert "429" in answer.error["errorMessage"]
    assert answer.duration_ms < 3_000 / 2


def test_a_hint_that_fits_is_waited_for_and_the_body_runs_once(api: FaultyAPI, start: Start) -> None:
    runtime = start(api.url)
    runtime.start()
    api.script([Fault.rate_limited("retry-after", 1)])

    answer = runtime.invoke({})

    assert (answer.payload["status"], answer.payload["bodies"]) == (200, 1)
    first, second = api.requests
    assert second.t - first.t >= 1.0
    assert first.idempotency_key == second.idempotency_key
