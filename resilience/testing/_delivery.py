"""How an answer reaches the client, or fails to."""

from __future__ import annotations

import math
import time

from resilience.testing._wire import Answer, Connection, Gone, Request
from resilience.testing.faults import Fault


def deliver(connection: Connection, request: Request, answer: Answer, fault: Fault | None) -> bool:
    """Send `answer` as `fault` has it; whether the connection may be used again."""
    head, pieces = answer.head(request), answer.pieces(request)
    match fault.name if fault else None:
        case "reset_after_reading":
            connection.reset()
        case "eof_after_reading":
            connection.finish()
        case "hang":
            connection.wait_while(lambda: True)
        case "truncated_body":
            body = b"".join(pieces)
            connection.send(head + body[: len(body) // 2])
            connection.finish()
        case "drip" if fault:
            connection.send(head)
            _drip(connection, b"".join(pieces), fault)
            return request.keeps_alive
        case "drip_headers" if fault:
            _drip(connection, head + b"".join(pieces), fault)
            return request.keeps_alive
        case "close_when_idle" | "tls_failure":
            _send(connection, head, pieces, answer.delay)
            connection.finish()
        case name:
            if fault and name == "stall_before_headers":
                connection.wait(fault.seconds)
            _send(connection, head, pieces, answer.delay)
            return request.keeps_alive
    raise Gone


def _send(connection: Connection, head: bytes, pieces: list[bytes], delay: float) -> None:
    """Head and first piece in one write: two would cost a packet, and with Nagle a round trip."""
    if not delay:
        connection.send(head + b"".join(pieces))
        return
    connection.send(head + b"".join(pieces[:1]))
    for piece in pieces[1:]:
        connection.wait(delay)
        connection.send(piece)


def _drip(connection: Connection, data: bytes, fault: Fault) -> None:
    end = math.inf if fault.total is None else time.monotonic() + fault.total
    at = 0
    while at < len(data) and time.monotonic() < end:
        connection.send(data[at : at + fault.size])
        at += fault.size
        connection.wait(min(fault.seconds, end - time.monotonic()))
    if at < len(data):
        connection.send(data[at:])
