"""A real API on loopback that fails as real APIs do."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable
from dataclasses import replace

from resilience.core.settings import Settings
from resilience.testing._delivery import deliver
from resilience.testing._ledger import Ledger, Record
from resilience.testing._plan import Plan
from resilience.testing._routes import error, route
from resilience.testing._server import Server
from resilience.testing._wire import Answer, Connection, Request
from resilience.testing.faults import DAY, MIXED, RATE_LIMITED, Fault, hint_headers

__all__ = ["MIXED", "Fault", "FaultyAPI", "Record"]

_check = Settings("FaultyAPI")

#: Faults that leave a request without an answer.
UNANSWERED = {"reset_after_reading", "eof_after_reading", "hang"}


class FaultyAPI(Plan, Ledger):
    """An HTTP/1.1 server with TLS on 127.0.0.1 whose faults are chosen by the test.

    seed: of the faults that `rate` draws, and of the keys.
    tls: False serves plain HTTP. hostnames: names in the certificate beside localhost and 127.0.0.1.
    latency: seconds (0 to 86400) added to each answer; may be set at any time.
    require_key: whether all but `/health` want `Authorization: Bearer <key>`; may be set at any time.

    Routes: `POST /v1/chat/completions` (OpenAI's shape, also `"stream": true`), `GET /v1/models`, `/v1/stream`
    (server-sent events, `?n=5&delay=0`), `/v1/echo` (what was sent), `/v1/cookie` (sets one, reports those received),
    `/v1/redirect?to=URL` (302), `/health`; HEAD everywhere.

    Which fault a request meets is decided when its first byte arrives: an outage, else the next of `script`, else a
    draw of `rate`. If the fault does not replace the answer, the request needs the key (401), then a place within
    `limit` (429). A POST that is then answered 2xx counts in `processed`; one whose `Idempotency-Key` was processed
    before gets the stored answer (with `Idempotent-Replayed: true`) and counts in `replays`.

    What changes, beside what Plan and Ledger name: the keys and `_stored`, guarded by `_lock`; `latency` and
    `require_key`, which only the test sets.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        tls: bool = True,
        hostnames: Iterable[str] = (),
        latency: float = 0.0,
        require_key: bool = True,
    ) -> None:
        Plan.__init__(self, seed)
        Ledger.__init__(self)
        _check.number("latency", latency, most=DAY)
        self.latency = latency
        self.require_key = require_key
        self.tls = tls
        self._hostnames = ("localhost", "127.0.0.1", *hostnames)
        self._lock = threading.Lock()
        # A source of their own, so that a rotation changes nothing about the faults drawn after it.
        self._keys = random.Random(f"keys {seed}")
        self._key = self._new_key()
        self._old_keys: dict[str, float] = {}
        self._stored: dict[str, Answer] = {}
        self._server: Server | None = None

    def start(self) -> FaultyAPI:
        """Make the certificate and listen on a free port. Once only; else RuntimeError."""
        if self._server:
            raise RuntimeError("a FaultyAPI is started once")
        context = None
        if self.tls:
            from resilience.testing._certificate import Certificate

            self._certificate = Certificate(self._hostnames)
            context = self._certificate.context
        self._server = Server(self._serve, context)
        return self

    def stop(self) -> None:
        """Close everything, requests that wait included, and delete `ca_file`. Again, or before `start`: nothing."""
        if self._server:
            self._server.stop()
            if self.tls:
                self._certificate.remove()

    def __enter__(self) -> FaultyAPI:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; RuntimeError before `start`."""
        if self._server is None:
            raise RuntimeError("FaultyAPI is not started: use it in a `with` statement or call start()")
        return self._server.port

    @property
    def url(self) -> str:
        """`https://localhost:PORT`."""
        return f"{'https' if self.tls else 'http'}://localhost:{self.port}"

    @property
    def base_url(self) -> str:
        """`url` with `/v1`, as SDKs want it."""
        return self.url + "/v1"

    @property
    def ca_file(self) -> str:
        """Path of the PEM file to verify by (`verify=`, `REQUESTS_CA_BUNDLE`, `SSL_CERT_FILE`); gone after `stop`."""
        if not self.tls or self._server is None:
            raise RuntimeError("there is a ca_file only with tls=True, and after start()")
        return self._certificate.ca_file

    @property
    def key(self) -> str:
        """The key that is valid now."""
        return self._key

    def rotate(self, grace: float = 0.0) -> str:
        """Make a new key and return it; the old one answers 401 after `grace` seconds (0 to 86400)."""
        _check.number("grace", grace, most=DAY)
        with self._lock:
            self._old_keys[self._key] = time.monotonic() + grace
            self._key = self._new_key()
            return self._key

    def outage(self, mode: str = "503") -> None:
        super().outage(mode)
        if mode == "refuse" and self._server:
            self._server.drop()

    outage.__doc__ = Plan.outage.__doc__

    def _new_key(self) -> str:
        return f"key-{self._keys.getrandbits(64):016x}"

    def _accepts(self, key: str | None) -> bool:
        with self._lock:
            return key == self._key or time.monotonic() < self._old_keys.get(key or "", 0.0)

    def _serve(self, connection: Connection) -> None:
        self._add("connections")
        if self._refuses():
            connection.reset()
            return
        if self._handshake_fails():
            self._inject("tls_failure")
            connection.answer_rubbish()
            return
        connection.handshake()
        self._add("handshakes")
        while self._exchange(connection):
            pass

    def _exchange(self, connection: Connection) -> bool:
        """Serve one request; whether the connection may be used again."""
        connection.begin()
        fault = self._next_fault()
        if fault and fault.name != "tls_failure":
            self._inject(fault.name)
        if fault and fault.name == "reset_before_reading":
            connection.reset()
            return False
        try:
            request = connection.read_request()
        except ValueError as exc:
            connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            connection.finish()
            raise ConnectionError("not HTTP") from exc
        record = self._note(request, connection.number)
        record.fault = fault.name if fault else None
        if fault and fault.name == "outage":
            connection.wait_while(self._hangs)
        answer = self._answer(request, record, fault)
        if self.latency:
            connection.wait(self.latency)
        if fault is None or fault.name not in UNANSWERED:
            record.status = answer.status
        return deliver(connection, request, answer, fault)

    def _answer(self, request: Request, record: Record, fault: Fault | None) -> Answer:
        if fault and fault.code:
            return Answer(fault.code, fault.body, fault.all_headers())
        if self.require_key and request.path != "/health" and not self._accepts(request.key):
            return error(401, "Incorrect API key provided.", "invalid_api_key", WWW_Authenticate="Bearer")
        if (over := self._over_limit()) is not None:
            record.fault = "limit"
            return Answer(429, RATE_LIMITED, tuple(hint_headers(*over).items()))
        return self._process(request, record) if request.method == "POST" else route(request)

    def _process(self, request: Request, record: Record) -> Answer:
        """Let the effect of a POST take place, once for each idempotency key."""
        with self._lock:
            stored = self._stored.get(record.idempotency_key or "")
            answer = stored or route(request)
            if stored is None and 200 <= answer.status < 300:
                self._add("processed")
                if record.idempotency_key:
                    replayed = (*answer.headers, ("Idempotent-Replayed", "true"))
                    self._stored[record.idempotency_key] = replace(answer, headers=replayed)
        if stored:
            self._add("replays")
            record.fault = record.fault or "replay"
        return answer
