"""Warming up: what is done, what is told of it, and that it holds nobody up."""

from __future__ import annotations

import gc
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
import requests

import resilience
from resilience import circuit_breaker, fresh_auth, pooled, retry_ratelimit, warm
from resilience.core import events
from resilience.testing import FakeClock, FaultyAPI, LambdaContext

PING = {"warmup": True}
_different = itertools.count(21)


def own_pool(api: FaultyAPI, **settings: Any) -> Any:
    """A pool that no other test shares."""
    return pooled(base_url=api.base_url, maxsize=next(_different), **settings)


@pytest.fixture(autouse=True)
def _no_warming_up_outlives_its_test() -> Iterator[None]:
    """Else another test's listeners would hear of its end."""
    yield
    assert until(lambda: not any(t.name == "resilience-warm" for t in threading.enumerate()))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyAPI]:
    """One for each test: a handshake's server side may end after the test that it belongs to."""
    with FaultyAPI(seed=1, require_key=False) as api:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", api.ca_file)
        yield api


@pytest.fixture
def heard() -> Iterator[list[Any]]:
    found: list[Any] = []
    stop = events.listen(found.append, events.WarmedUp)
    yield found
    stop()


@pytest.fixture
def hanging() -> Iterator[Callable[[], Any]]:
    """Something that does not return before the test has ended."""
    over = threading.Event()

    def hang() -> str:
        over.wait(60)
        return "late"

    hang.over = over  # type: ignore[attr-defined]
    yield hang
    over.set()


def until(condition: Callable[[], Any], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.002)
    return True


def handshaken(api: FaultyAPI, count: int) -> bool:
    """Whether there were so many handshakes; the server's half of the last one may end a moment after the client's."""
    until(lambda: api.handshakes >= count)
    return api.handshakes == count


def state_of(api: FaultyAPI, answer: Any) -> str:
    return str(answer["breakers"][f"https://localhost:{api.port}"])


# --- a ping's answer -------------------------------------------------------------------------------------------------


def test_the_answer_of_a_bare_function_says_what_there_was_to_do() -> None:
    @warm
    def handler(event: Any, context: Any) -> None: ...

    answer = handler(PING, LambdaContext())
    assert answer == {
        "warmed": True,
        "cold": answer["cold"],
        "ms": answer["ms"],
        "connections": 0,
        "instance": answer["instance"],
        "errors": [],
    }
    assert answer["ms"] >= 0
    assert json.loads(json.dumps(answer)) == answer
    again = handler(PING, LambdaContext())
    assert again["instance"] == answer["instance"]
    assert again["cold"] is False


def test_connections_credential_and_breakers_are_ready_after_it(api: FaultyAPI, clock: FakeClock) -> None:
    asked = []

    def provider() -> str:
        asked.append(1)
        return api.key

    @warm(connections=3)
    @own_pool(api)
    @retry_ratelimit
    @circuit_breaker
    @fresh_auth(provider=provider)
    def handler(event: Any, context: Any) -> int:
        return requests.get(api.base_url + "/models").status_code

    answer = handler(PING, LambdaContext())

    assert answer["errors"] == []
    assert answer["connections"] == 3
    assert answer["credential"] == "ready"
    assert state_of(api, answer) == "closed"
    assert handshaken(api, 3)
    assert (api.count(), len(asked)) == (0, 1)
    # The call finds all of it there.
    assert handler({}, LambdaContext()) == 200
    assert (api.handshakes, api.count(), len(asked)) == (3, 1, 1)
    assert api.by_key[api.key] == 1
    # And there is nothing left to do.
    assert handler(PING, LambdaContext())["connections"] == 0


def test_hosts_that_a_call_went_to_are_warm_hosts_from_then_on(api: FaultyAPI) -> None:
    @warm
    @pooled(maxsize=next(_different))
    def handler(event: Any, context: Any) -> int:
        return requests.get(api.url + "/health").status_code

    assert handler(PING, LambdaContext())["connections"] == 0
    assert handler({}, LambdaContext()) == 200
    handler.resilience.pool.retire_all("idle")
    assert handler(PING, LambdaContext())["connections"] == 1


async def test_an_async_handlers_ping_does_not_hold_up_the_loop(hanging: Any) -> None:
    import asyncio

    @warm(probe=hanging)
    async def handler(event: Any, context: Any) -> None: ...

    ping = asyncio.ensure_future(handler(PING, LambdaContext()))
    # The loop is free while the probe hangs.
    for _ in range(10):
        await asyncio.sleep(0)
    assert not ping.done()
    hanging.over.set()
    assert (await ping)["errors"] == []


def test_whoever_listens_hears_of_it(heard: list[Any], api: FaultyAPI) -> None:
    @warm(connections=2)
    @own_pool(api)
    def handler(event: Any, context: Any) -> None: ...

    handler(PING, LambdaContext())
    assert [(e.reason, e.connections, e.errors) for e in heard] == [("ping", 2, ())]


# --- the probe -------------------------------------------------------------------------------------------------------


def test_a_probes_url_is_asked_over_the_pool_with_the_credential(api: FaultyAPI) -> None:
    @warm(probe=api.base_url + "/models")
    @own_pool(api)
    @fresh_auth(provider=lambda: api.key)
    def handler(event: Any, context: Any) -> int:
        return requests.get(api.base_url + "/models").status_code

    answer = handler(PING, LambdaContext(aws_request_id="r-1"))

    assert answer["probe"] == 200
    assert (api.count("/v1/models"), api.handshakes) == (1, 1)
    assert api.requests[0].key == api.key
    assert api.requests[0].request_id == "r-1"
    handler({}, LambdaContext())
    assert api.handshakes == 1


def test_without_a_pool_a_probes_url_is_a_request_like_any_other(api: FaultyAPI) -> None:
    @warm(probe=api.base_url + "/models")
    def handler(event: Any, context: Any) -> None: ...

    assert handler(PING, LambdaContext())["probe"] == 200


def test_a_probe_may_be_a_function_and_its_requests_are_the_calls(api: FaultyAPI) -> None:
    def completion() -> Any:
        assert resilience.current().request_id == "r-2"
        return requests.post(
            api.base_url + "/chat/completions",
            json={"model": "small", "max_tokens": 1, "messages": [{"role": "user", "content": "."}]},
        )

    @warm(probe=completion)
    @own_pool(api)
    @fresh_auth(provider=lambda: api.key)
    def handler(event: Any, context: Any) -> None: ...

    answer = handler(PING, LambdaContext(aws_request_id="r-2"))
    assert (answer["probe"], answer["errors"]) == (200, [])
    assert api.requests[0].key == api.key


def test_an_async_probe_is_run() -> None:
    ran = []

    async def probe() -> str:
        ran.append(1)
        return "fine"

    @warm(probe=probe)
    def handler(event: Any, context: Any) -> None: ...

    answer = handler(PING, LambdaContext())
    assert (ran, answer["probe"], answer["errors"]) == ([1], "ok", [])


def test_a_probe_that_fails_is_told_by_kind_and_not_raised() -> None:
    def probe() -> Any:
        raise PermissionError("with the secret 12345 in it")

    @warm(probe=probe)
    def handler(event: Any, context: Any) -> None: ...

    answer = handler(PING, LambdaContext())
    assert answer["probe"] == "PermissionError"
    assert answer["errors"] == ["probe: PermissionError"]
    assert "12345" not in json.dumps(answer)


def test_a_host_that_cannot_be_reached_is_told_and_not_raised(api: FaultyAPI) -> None:
    @warm(timeout=2)
    @pooled(base_url="https://localhost:1", maxsize=next(_different))
    def handler(event: Any, context: Any) -> None: ...

    answer = handler(PING, LambdaContext())
    assert answer["connections"] == 0
    assert len(answer["errors"]) == 1
    assert answer["errors"][0].startswith("https://localhost:1: ")


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_a_hanging_probe_is_left_alone_at_the_timeout(hanging: Any) -> None:
    @warm(timeout=0.05, probe=hanging)
    def handler(event: Any, context: Any) -> None: ...

    answer = handler(PING, LambdaContext())
    assert not hanging.over.is_set()
    assert answer["errors"] == ["not done within 0.05 s"]
    assert answer["ms"] >= 50


def test_a_hanging_provider_is_left_alone_at_the_timeout(hanging: Any) -> None:
    @warm(timeout=0.05)
    @fresh_auth(provider=hanging, hosts="localhost")
    def handler(event: Any, context: Any) -> None: ...

    answer = handler(PING, LambdaContext())
    assert not hanging.over.is_set()
    assert "credential" not in answer
    # Whichever of the two saw first that time was up.
    assert answer["errors"]
    assert all(e.startswith(("not done within 0.05 s", "fresh_auth: DeadlineExceeded")) for e in answer["errors"])


@pytest.mark.parametrize("pool_first", [True, False])
def test_a_hanging_provider_keeps_no_connection_from_being_opened(
    pool_first: bool, api: FaultyAPI, hanging: Any
) -> None:
    def handler(event: Any, context: Any) -> None: ...

    decorated: Any = handler
    both = [own_pool(api), fresh_auth(provider=hanging)]
    for decorator in both if pool_first else reversed(both):
        decorated = decorator(decorated)
    decorated = warm(timeout=1)(decorated)

    assert decorated(PING, LambdaContext())["connections"] == 1


def test_a_ping_ends_by_the_platforms_deadline_too(hanging: Any) -> None:
    @warm(timeout=60, probe=hanging)
    def handler(event: Any, context: Any) -> None: ...

    answer = handler(PING, LambdaContext(remaining=0.1))
    assert not hanging.over.is_set()
    assert answer["errors"]


def test_where_no_thread_can_be_started_it_is_done_in_line(api: FaultyAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def refuse(self: threading.Thread) -> None:
        if self.name.startswith("resilience"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refuse)

    # A heart in line would beat for ever.
    @warm(probe=lambda: "fine", heartbeat=0.001)
    @own_pool(api)
    def handler(event: Any, context: Any) -> None: ...

    answer = handler(PING, LambdaContext())
    assert (answer["probe"], answer["connections"], answer["errors"]) == ("ok", 1, [])


# --- after quiet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["advance", "advance_wall", "advance_monotonic"])
def test_a_call_after_quiet_starts_a_warming_up_beside_it(
    which: str, clock: FakeClock, heard: list[Any], hanging: Any
) -> None:
    started = threading.Event()

    def probe() -> str:
        started.set()
        return str(hanging())

    @warm(interval=300, probe=probe)
    def handler(event: Any) -> str:
        return "handled"

    handler({})
    clock.advance(299)
    assert handler({}) == "handled"
    getattr(clock, which)(301)
    # It answers while the warming up hangs.
    assert handler({}) == "handled"
    assert started.wait(20)
    assert not hanging.over.is_set()
    assert handler({}) == "handled"
    hanging.over.set()
    assert until(lambda: heard)
    assert [e.reason for e in heard] == ["quiet"]


def test_neither_a_busy_function_nor_a_clock_set_back_warms(clock: FakeClock, heard: list[Any]) -> None:
    probed = []

    @warm(interval=300, probe=lambda: probed.append(1))
    def handler(event: Any) -> None: ...

    handler({})
    for _ in range(20):
        clock.advance(200)
        handler({})
    clock.advance_wall(-86_400)
    handler({})
    # Nor is one under way: a ping would wait for it.
    handler({"warmup": True})
    assert probed == [1]
    assert [e.reason for e in heard] == ["ping"]


def test_a_ping_after_quiet_warms_once(clock: FakeClock, heard: list[Any]) -> None:
    @warm(interval=300)
    def handler(event: Any) -> None: ...

    handler({})
    clock.advance(1000)
    handler(PING)
    handler({})
    assert [e.reason for e in heard] == ["ping"]


def test_a_dead_connection_is_replaced_after_quiet_before_a_call_needs_it(
    api: FaultyAPI, clock: FakeClock, heard: list[Any]
) -> None:
    @warm(interval=100)
    @own_pool(api, max_idle=55)
    def handler(event: Any) -> int:
        return 0 if event.get("idle") else requests.get(api.url + "/health").status_code

    assert handler({}) == 200
    clock.advance(101)
    handler({"idle": True})
    assert until(lambda: heard)
    assert handshaken(api, 2)
    assert handler({}) == 200
    assert api.handshakes == 2


# --- the init phase --------------------------------------------------------------------------------------------------


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001")
    monkeypatch.delenv("AWS_LAMBDA_INITIALIZATION_TYPE", raising=False)


@pytest.mark.usefixtures("init")
def test_in_the_init_phase_it_begins_at_decoration(api: FaultyAPI, heard: list[Any]) -> None:
    @warm
    @own_pool(api)
    def handler(event: Any, context: Any) -> int:
        return requests.get(api.url + "/health").status_code

    assert until(lambda: heard)
    assert handshaken(api, 1)
    assert api.count() == 0
    assert handler({}, LambdaContext()) == 200
    assert (api.handshakes, api.count()) == (1, 1)
    assert [e.reason for e in heard] == ["init"]


@pytest.mark.usefixtures("init")
def test_each_of_the_functions_that_share_a_decorator_is_warmed(heard: list[Any]) -> None:
    made: list[str] = []
    shared = warm(interval=60)

    def handler(name: str) -> Any:
        def key() -> str:
            made.append(name)
            return "key"

        @shared
        @fresh_auth(provider=key, hosts=f"{name}.test")
        def handle(event: Any = None) -> None:
            """Only warmed."""

        return handle

    handlers = [handler("one"), handler("other")]
    assert until(lambda: len(heard) == 2)
    assert sorted(made) == ["one", "other"]
    assert handlers[0].resilience.policy("warm") is not handlers[1].resilience.policy("warm")


@pytest.mark.usefixtures("init")
def test_decorators_above_it_are_waited_for(api: FaultyAPI, heard: list[Any]) -> None:
    # Without @pooled, @fresh_auth has no host: that is no error while decorators are still coming.
    @own_pool(api)
    @circuit_breaker
    @warm
    @fresh_auth(provider=lambda: api.key)
    def handler(event: Any, context: Any) -> int:
        return requests.get(api.url + "/health").status_code

    assert handler({}, LambdaContext()) == 200
    assert api.handshakes == 1
    assert until(lambda: any(e.connections == 1 for e in heard))


@pytest.mark.usefixtures("init")
def test_the_first_call_waits_for_it_but_not_for_ever(hanging: Any) -> None:
    begun = threading.Event()

    def probe() -> str:
        begun.set()
        return str(hanging())

    @warm(probe=probe)
    def handler(event: Any, context: Any) -> str:
        return "handled"

    assert begun.wait(20)
    assert handler({}, LambdaContext(remaining=0.2)) == "handled"
    assert not hanging.over.is_set()


def test_outside_lambda_decorating_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_LAMBDA_RUNTIME_API", raising=False)
    threads = set(threading.enumerate())

    @warm(probe=lambda: None)
    def handler() -> None: ...

    assert set(threading.enumerate()) <= threads


# --- heartbeat -------------------------------------------------------------------------------------------------------


def test_a_heartbeat_warms_again_and_again_until_the_function_is_gone(heard: list[Any]) -> None:
    beats = threading.Semaphore(0)
    first = [True]

    def probe() -> str:
        beats.release()
        if first and first.pop():
            raise ValueError("one that fails is not the last")
        return "fine"

    @warm(probe=probe, heartbeat=0.01)
    def handler() -> None: ...

    for _ in range(4):
        assert beats.acquire(timeout=20)
    assert heard[0].reason == "heartbeat"
    assert any(t.name == "resilience-heartbeat" and t.daemon for t in threading.enumerate())
    del handler
    gc.collect()
    assert until(lambda: not any(t.name == "resilience-heartbeat" for t in threading.enumerate()))


@pytest.mark.slow
def test_a_heartbeat_goes_on_in_a_forked_child_and_stops_with_the_interpreter() -> None:
    script = """
import os, threading, warnings
from resilience import warm
warnings.simplefilter("ignore")
beats = threading.Semaphore(0)
@warm(probe=beats.release, heartbeat=0.01)
def handler(event): return resilience.current()
mine = handler({"warmup": True})["instance"]
for _ in range(3):
    assert beats.acquire(timeout=20)
read, write = os.pipe()
child = os.fork()
if child == 0:
    beats = threading.Semaphore(0)
    handler.resilience.policy("warm").probe = beats.release
    ok = all(beats.acquire(timeout=20) for _ in range(3))
    other = handler({"warmup": True})["instance"]
    os.write(write, f"{ok} {other}".encode())
    os._exit(0)
os.close(write)
ok, other = os.read(read, 100).decode().split()
os.waitpid(child, 0)
assert ok == "True"
assert other != mine, "a child is another instance"
assert beats.acquire(timeout=20)
print("ended")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "ended\n", "")


# --- fan-out ---------------------------------------------------------------------------------------------------------


class FakeLambda(ThreadingHTTPServer):
    """What `boto3.client("lambda").invoke` speaks to."""

    def __init__(self) -> None:
        self.invoked: list[tuple[str, str, Any]] = []
        self.status = 202
        super().__init__(("127.0.0.1", 0), _FakeLambdaHandler)


class _FakeLambdaHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        name = unquote(self.path).removeprefix("/2015-03-31/functions/").removesuffix("/invocations")
        server: Any = self.server
        server.invoked.append((name, self.headers["X-Amz-Invocation-Type"], json.loads(body)))
        self.send_response(server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLambda]:
    with FakeLambda() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", f"http://127.0.0.1:{server.server_port}")
        for name, value in {
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        yield server
        server.shutdown()
        thread.join()


def test_a_warmer_ping_invokes_the_function_for_the_other_instances(aws: FakeLambda, clock: FakeClock) -> None:
    @warm(concurrency=True)
    def handler(event: Any, context: Any) -> None: ...

    context = LambdaContext(function_name="chat")
    answer = handler({"warmer": True, "concurrency": 4}, context)

    assert (answer["invoked"], answer["warmed"]) == (3, True)
    assert "invoke_error" not in answer
    assert aws.invoked == [(context.invoked_function_arn, "Event", {"warmer": True, "concurrency": 1})] * 3
    # Each of the others holds its instance for a moment, and invokes nobody.
    assert clock.slept == []
    assert "invoked" not in handler(aws.invoked[0][2], LambdaContext())
    assert clock.slept == [0.075]
    assert len(aws.invoked) == 3


@pytest.mark.parametrize("concurrency", [1, 0, -3, "5", None, True, 2.5, [3]])
def test_what_is_no_number_of_instances_invokes_nobody(aws: FakeLambda, clock: FakeClock, concurrency: Any) -> None:
    @warm(concurrency=True)
    def handler(event: Any, context: Any) -> None: ...

    assert handler({"warmer": True, "concurrency": concurrency}, LambdaContext())["warmed"]
    assert aws.invoked == []


def test_the_number_of_instances_has_an_end(aws: FakeLambda, clock: FakeClock) -> None:
    @warm(concurrency=True)
    def handler(event: Any, context: Any) -> None: ...

    assert handler({"warmer": True, "concurrency": 1_000_000}, LambdaContext())["invoked"] == 99


def test_it_is_off_unless_asked_for(aws: FakeLambda) -> None:
    @warm
    def handler(event: Any, context: Any) -> None: ...

    assert "invoked" not in handler({"warmer": True, "concurrency": 4}, LambdaContext())
    assert aws.invoked == []


def test_what_fails_is_told_and_not_raised(aws: FakeLambda, monkeypatch: pytest.MonkeyPatch) -> None:
    @warm(concurrency=True)
    def handler(event: Any, context: Any) -> None: ...

    ping = {"warmer": True, "concurrency": 4}
    assert handler(ping)["invoke_error"] == "no Lambda context"
    aws.status = 403
    answer = handler(ping, LambdaContext())
    assert (answer["invoked"], answer["invoke_error"], answer["warmed"]) == (0, "ClientError", True)
    # One that answers with an error is not asked again and again.
    assert len(aws.invoked) == 1
    monkeypatch.setitem(sys.modules, "boto3", None)
    answer = handler(ping, LambdaContext())
    assert (answer["invoked"], answer["warmed"]) == (0, True)


@pytest.mark.slow
def test_an_endpoint_that_never_answers_is_left_alone(aws: FakeLambda, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    import boto3

    # Loaded and made once before: on a busy machine that alone takes longer than the ping has.
    boto3.client("lambda", region_name="us-east-1")

    @warm(concurrency=True, timeout=3.0)
    def handler(event: Any, context: Any) -> None: ...

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL_LAMBDA", f"http://127.0.0.1:{silent.getsockname()[1]}")
        answer = handler({"warmer": True, "concurrency": 4}, LambdaContext())
    assert (answer["invoked"], answer["warmed"]) == (0, True)
    assert answer["invoke_error"] in ("ReadTimeoutError", "ConnectTimeoutError")
    # botocore's own limits are 60 s, five times.
    assert answer["ms"] < 10_000


# --- a ping is the probe of an open breaker --------------------------------------------------------------------------


def requesting(api: FaultyAPI, **settings: Any) -> Any:
    @warm(timeout=10, **settings)
    @own_pool(api)
    @circuit_breaker(fail_max=2, reset_timeout=30)
    def handler(event: Any, context: Any) -> int:
        return requests.post(api.base_url + "/echo", json=event).status_code

    return handler


@pytest.mark.parametrize("explicit", [False, True], ids=["no probe", "a probe"])
def test_the_ping_closes_the_breaker_when_the_dependency_is_back(
    explicit: bool, api: FaultyAPI, clock: FakeClock
) -> None:
    handler = requesting(api, probe=api.base_url + "/models" if explicit else None)
    api.outage()
    for _ in range(2):
        assert handler({}, LambdaContext()) == 503
    with pytest.raises(resilience.CircuitOpen):
        handler({}, LambdaContext())
    api.recover()
    clock.advance(31)

    answer = handler(PING, LambdaContext())

    assert state_of(api, answer) == "closed"
    assert handler.resilience.breaker.state == "closed"
    assert handler({}, LambdaContext()) == 200


@pytest.mark.parametrize("explicit", [False, True], ids=["no probe", "a probe"])
@pytest.mark.parametrize("mode", ["503", "refuse"])
def test_the_ping_opens_it_again_when_the_dependency_is_not(
    explicit: bool, mode: str, api: FaultyAPI, clock: FakeClock
) -> None:
    handler = requesting(api, probe=api.base_url + "/models" if explicit else None)
    handler.resilience.breaker.open()
    api.outage(mode)
    clock.advance(31)

    answer = handler(PING, LambdaContext())

    assert state_of(api, answer) == "open"
    api.recover()
    # No user was the probe, and none is before its time, which has doubled.
    clock.advance(31)
    with pytest.raises(resilience.CircuitOpen):
        handler({}, LambdaContext())
    clock.advance(40)
    assert state_of(api, handler(PING, LambdaContext())) == "closed"


def test_before_its_time_the_ping_asks_nobody(api: FaultyAPI, clock: FakeClock) -> None:
    handler = requesting(api)
    handler.resilience.breaker.open()
    clock.advance(29)
    assert state_of(api, handler(PING, LambdaContext())) == "open"
    assert api.count() == 0


def test_an_isolated_breaker_stays_so(api: FaultyAPI, clock: FakeClock) -> None:
    handler = requesting(api)
    handler.resilience.breaker.isolate()
    clock.advance(1e6)
    assert state_of(api, handler(PING, LambdaContext())) == "isolated"
    assert api.count() == 0


def test_the_breaker_of_a_function_is_probed_by_a_callable(clock: FakeClock) -> None:
    up = False
    probed = []

    def probe() -> str:
        probed.append(1)
        if not up:
            raise ConnectionRefusedError
        return "fine"

    @warm(probe=probe)
    @circuit_breaker(fail_max=1, reset_timeout=30)
    def handler(event: Any, context: Any) -> str:
        if not up:
            raise ConnectionRefusedError
        return "handled"

    with pytest.raises(ConnectionRefusedError):
        handler({}, LambdaContext())
    clock.advance(31)
    name = handler.resilience.name

    assert handler(PING, LambdaContext())["breakers"] == {name: "open"}
    up = True
    clock.advance(70)
    assert handler(PING, LambdaContext())["breakers"] == {name: "closed"}
    # Once a ping, also where a breaker wants to know.
    assert len(probed) == 2
    assert handler({}, LambdaContext()) == "handled"


def test_without_a_probe_a_functions_own_breaker_is_left_to_the_next_call(clock: FakeClock) -> None:
    @warm
    @circuit_breaker(fail_max=1, reset_timeout=30)
    def handler(event: Any, context: Any) -> str:
        return "handled"

    handler.resilience.breaker.open()
    clock.advance(31)
    assert list(handler(PING, LambdaContext())["breakers"].values()) == ["open"]
    assert handler({}, LambdaContext()) == "handled"
    assert handler.resilience.breaker.state == "closed"


def test_a_heartbeat_is_no_probe(api: FaultyAPI, clock: FakeClock) -> None:
    handler = requesting(api)
    handler.resilience.breaker.open()
    clock.advance(31)
    handler.resilience.policy("warm").beat()
    assert handler.resilience.breaker.state == "open"
    assert api.count() == 0
