from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
import requests

from resilience.testing.faulty_api import FaultyAPI
from resilience.testing.relay import Relay

RTT = 0.04


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """A listener whose connections the test accepts itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        yield listener


def port_of(listener: socket.socket) -> int:
    return listener.getsockname()[1]


@contextlib.contextmanager
def flow(relay: Relay, target: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket, and the target's end of the same flow."""
    with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as client:
        server, _ = target.accept()
        with server:
            server.settimeout(10)
            yield client, server


def send_and_receive(source: socket.socket, sink: socket.socket, data: bytes) -> float:
    """Seconds that `data` was under way."""
    began = time.monotonic()
    source.sendall(data)
    receive(sink, len(data))
    return time.monotonic() - began


def receive(sink: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = sink.recv(size - len(data))
        assert chunk, "closed too early"
        data += chunk
    return data


def hears_nothing(sock: socket.socket) -> bool:
    """Whether neither bytes nor FIN nor RST come for a moment."""
    sock.settimeout(0.05)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(10)
    return False


def test_bytes_arrive_in_order_both_ways_and_are_counted(target):
    data = bytes(range(256)) * 4096
    with Relay(port_of(target)) as relay, flow(relay, target) as (client, server):
        for source, sink in ((client, server), (server, client)):
            sender = threading.Thread(target=source.sendall, args=(data,))
            sender.start()
            assert receive(sink, len(data)) == data
            sender.join(10)
        assert (relay.connections, relay.bytes) == (1, 2 * len(data))


def test_each_direction_takes_half_the_round_trip(target):
    with Relay(port_of(target), RTT) as relay, flow(relay, target) as (client, server):
        assert send_and_receive(client, server, b"first") >= RTT
        for _ in range(3):
            assert send_and_receive(client, server, b"ask") >= RTT / 2
            assert send_and_receive(server, client, b"answer") >= RTT / 2


def test_the_first_byte_pays_for_the_connect(target):
    with Relay(port_of(target), RTT) as relay:
        began = time.monotonic()
        with flow(relay, target) as (client, server):
            client.sendall(b"x")
            receive(server, 1)
            assert time.monotonic() - began >= 1.5 * RTT
            server.sendall(b"y")
            receive(client, 1)
            assert time.monotonic() - began >= 2 * RTT


def test_nothing_comes_back_before_the_connect_is_paid_for(target):
    with Relay(port_of(target), RTT) as relay:
        began = time.monotonic()
        with flow(relay, target) as (client, server):
            server.sendall(b"hello")
            receive(client, 5)
            assert time.monotonic() - began >= 2 * RTT


def test_latency_does_not_limit_bandwidth(target):
    with Relay(port_of(target), 0.2) as relay, flow(relay, target) as (client, server):
        send_and_receive(client, server, b"x")
        began = time.monotonic()
        for _ in range(100):
            client.sendall(b"x" * 1000)
        receive(server, 100_000)
        took = time.monotonic() - began
    # One after the other they would take 100 times half a round trip, 10 s.
    assert 0.1 <= took < 5


def test_the_round_trip_can_change(target):
    with Relay(port_of(target)) as relay, flow(relay, target) as (client, server):
        send_and_receive(client, server, b"x")
        relay.rtt = 0.1
        assert relay.rtt == 0.1
        assert send_and_receive(client, server, b"x") >= 0.05


def test_more_than_a_socket_holds_waits_for_its_reader(target):
    data = b"x" * (40 << 20)
    with Relay(port_of(target)) as relay, flow(relay, target) as (client, server):
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        time.sleep(0.05)
        size = 0
        while size < len(data):
            size += len(server.recv(1 << 20))
        sender.join(10)
        assert relay.bytes == len(data)


def test_a_half_close_is_passed_on_and_the_rest_still_comes(target):
    with Relay(port_of(target), 0.01) as relay, flow(relay, target) as (client, server):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        receive(server, 8)
        assert server.recv(1) == b""
        server.sendall(b"answer")
        server.close()
        assert receive(client, 6) == b"answer"
        assert client.recv(1) == b""


@pytest.mark.parametrize("who", ["client", "server"])
def test_a_reset_is_passed_on(target, who):
    with Relay(port_of(target), 0.01) as relay, flow(relay, target) as (client, server):
        send_and_receive(client, server, b"x")
        ending, other = (client, server) if who == "client" else (server, client)
        ending.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ending.close()
        with pytest.raises(ConnectionResetError):
            other.recv(1)


def test_a_target_that_is_down_is_a_reset():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = port_of(gone)
    with Relay(port) as relay, pytest.raises(ConnectionError):
        # Whether the connect or the first use of it fails depends on which thread is the faster.
        with socket.create_connection(("127.0.0.1", relay.port), timeout=10) as client:
            client.recv(1)


def test_a_black_hole_swallows_what_is_open_and_spares_what_is_new(target):
    with Relay(port_of(target)) as relay, flow(relay, target) as (client, server):
        send_and_receive(client, server, b"x")
        assert relay.black_hole() == 1
        client.sendall(b"lost")
        server.sendall(b"lost too")
        assert hears_nothing(client)
        assert hears_nothing(server)
        client.close()
        assert hears_nothing(server)
        with flow(relay, target) as (other, end):
            send_and_receive(other, end, b"works")


def test_what_is_under_way_is_swallowed_too(target):
    with Relay(port_of(target), 0.05) as relay, flow(relay, target) as (client, server):
        client.sendall(b"lost")
        client.shutdown(socket.SHUT_WR)
        assert relay.black_hole() == 1
        time.sleep(0.1)
        assert hears_nothing(server)


@pytest.mark.slow
def test_only_idle_flows_are_forgotten(target):
    with (
        Relay(port_of(target)) as relay,
        flow(relay, target) as (idle, idle_end),
        flow(relay, target) as (busy, busy_end),
    ):
        send_and_receive(idle, idle_end, b"x")
        time.sleep(1)
        send_and_receive(busy, busy_end, b"x")
        assert relay.black_hole_idle(1) == 1
        send_and_receive(busy, busy_end, b"still here")
        idle_end.sendall(b"lost")
        assert hears_nothing(idle)
        idle.sendall(b"lost")
        assert hears_nothing(idle_end)


@pytest.mark.slow
def test_a_flow_that_becomes_idle_is_forgotten_until_that_ends(target):
    with Relay(port_of(target)) as relay:
        assert relay.black_hole_idle(0.2) == 0
        with flow(relay, target) as (client, server), flow(relay, target) as (other, other_end):
            time.sleep(0.25)
            client.sendall(b"lost")
            assert hears_nothing(server)
            assert relay.black_hole_idle(None) == 0
            send_and_receive(other, other_end, b"never spoke, never was forgotten")
            client.sendall(b"lost still")
            assert hears_nothing(server)


def test_drop_resets_everything(target):
    with Relay(port_of(target)) as relay, flow(relay, target) as (client, server), flow(relay, target) as (other, _):
        send_and_receive(client, server, b"x")
        relay.black_hole()
        assert relay.drop() == 2
        for sock in (client, server, other):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert relay.drop() == 0


def test_refuse_and_accept_again_on_the_same_port(target):
    with Relay(port_of(target)) as relay, flow(relay, target) as (client, server):
        send_and_receive(client, server, b"x")
        port = relay.port
        relay.refuse()
        relay.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=10)
        send_and_receive(client, server, b"goes on")
        relay.accept()
        relay.accept()
        with flow(relay, target) as (again, end):
            send_and_receive(again, end, b"x")
        assert relay.port == port


@pytest.mark.slow
def test_a_new_tls_connection_takes_three_round_trips_and_a_reused_one_takes_one():
    with FaultyAPI() as api, Relay(api.port, RTT) as relay, requests.Session() as session:
        session.trust_env = False
        session.verify = api.ca_file
        session.headers["Authorization"] = f"Bearer {api.key}"
        took = []
        for _ in range(3):
            began = time.monotonic()
            assert session.get(relay.base_url + "/models").ok
            took.append(time.monotonic() - began)
    assert took[0] >= 3 * RTT
    assert all(each >= RTT for each in took)
    assert min(took[1:]) < took[0] / 2
    assert (relay.connections, api.handshakes) == (1, 1)


def test_before_start_and_after_stop(target):
    relay = Relay(port_of(target), scheme="http")
    relay.stop()
    with pytest.raises(RuntimeError, match="not started"):
        _ = relay.port
    with pytest.raises(RuntimeError, match="not running"):
        relay.drop()
    with relay:
        assert relay.url == f"http://localhost:{relay.port}"
        with pytest.raises(RuntimeError, match="once"):
            relay.start()
        with flow(relay, target) as (client, _):
            relay.stop()
            with pytest.raises(ConnectionResetError):
                client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", relay.port), timeout=10)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: Relay(0), r"target_port=0 is not .* 1 and at most 65535"),
        (lambda: Relay(1, rtt=-0.1), r"rtt=-0.1 is not .* 0 and at most 60"),
        (lambda: Relay(1, scheme="ftp"), r"scheme='ftp'"),
        (lambda: setattr(Relay(1), "rtt", 61), r"rtt=61"),
        (lambda: Relay(1).black_hole_idle(-1), r"seconds=-1"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_range(act, message):
    with pytest.raises(ValueError, match=message):
        act()
