"""What FaultyAPI answers when nothing is wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from resilience.testing._wire import Answer, Request

#: A fixed `created` time, so that the same question always has the same answer.
CREATED = 1_700_000_000
DONE = b"data: [DONE]\n\n"


def error(status: int, message: str, code: str | None = None, **headers: str) -> Answer:
    """An error in OpenAI's shape."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return Answer.of(
        {"error": {"message": message, "type": kind, "param": None, "code": code}}, status=status, **headers
    )


def route(request: Request) -> Answer:
    """The answer to `request` when all is well."""
    try:
        methods, handle = ROUTES[request.path]
    except KeyError:
        return error(404, f"no such path: {request.path}", "not_found")
    if request.method not in methods and request.method != "HEAD" and methods:
        return error(405, f"{request.method} is not allowed here", Allow=", ".join((*methods, "HEAD")))
    if request.method == "HEAD" and "GET" not in methods:
        return Answer.of({})
    try:
        return handle(request)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError) as exc:
        return error(400, f"bad request: {exc}")


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _health(request: Request) -> Answer:
    return Answer.of({"status": "ok"})


def _models(request: Request) -> Answer:
    names = ("faulty-large", "faulty-small")
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "faulty"} for name in names]
    return Answer.of({"object": "list", "data": data})


def _echo(request: Request) -> Answer:
    text = request.body.decode("utf-8", "replace")
    return Answer.of(
        {
            "method": request.method,
            "path": request.path,
            "query": request.query,
            "headers": request.headers,
            "body": text,
        }
    )


def _cookie(request: Request) -> Answer:
    pairs = (pair.partition("=") for pair in request.headers.get("Cookie", "").split("; ") if pair)
    return Answer.of({"cookies": {name: value for name, _, value in pairs}}, Set_Cookie="session=one-caller; Path=/")


def _redirect(request: Request) -> Answer:
    return Answer.of({}, status=302, Location=request.query["to"])


def _stream(request: Request) -> Answer:
    n = int(request.query.get("n", "5"))
    delay = float(request.query.get("delay", "0"))
    if not (0 <= n <= 100_000 and 0 <= delay <= 3600):
        raise ValueError("n must be from 0 to 100000, delay from 0 to 3600 seconds")
    return Answer(200, events=(*(_event({"n": i}) for i in range(n)), DONE), delay=delay)


def _completions(request: Request) -> Answer:
    question = request.json()
    said = str(question["messages"][-1]["content"])
    reply = f"You said: {said}"
    asked = sum(len(str(message["content"]).split()) for message in question["messages"])
    usage = {
        "prompt_tokens": asked,
        "completion_tokens": len(reply.split()),
        "total_tokens": asked + len(reply.split()),
    }
    base = {
        "id": "chatcmpl-" + hashlib.sha256(request.body).hexdigest()[:24],
        "created": CREATED,
        "model": str(question.get("model", "faulty-small")),
    }
    if question.get("stream"):
        counted = bool((question.get("stream_options") or {}).get("include_usage"))
        return Answer(200, events=_completion_events(base, reply, usage if counted else None))
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": reply, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    return Answer.of({**base, "object": "chat.completion", "choices": [choice], "usage": usage})


def _completion_events(base: dict[str, Any], reply: str, usage: dict[str, int] | None) -> tuple[bytes, ...]:
    base = {**base, "object": "chat.completion.chunk"}

    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        return _event({**base, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]})

    first, *rest = reply.split(" ")
    events = [chunk({"role": "assistant", "content": first}), *(chunk({"content": " " + word}) for word in rest)]
    events.append(chunk({}, "stop"))
    if usage is not None:
        events.append(_event({**base, "choices": [], "usage": usage}))
    return (*events, DONE)


#: Path: the methods it takes (none named: any), and what answers. HEAD works everywhere.
ROUTES: dict[str, tuple[tuple[str, ...], Callable[[Request], Answer]]] = {
    "/health": (("GET",), _health),
    "/v1/models": (("GET",), _models),
    "/v1/chat/completions": (("POST",), _completions),
    "/v1/stream": (("GET", "POST"), _stream),
    "/v1/echo": ((), _echo),
    "/v1/cookie": (("GET", "POST"), _cookie),
    "/v1/redirect": (("GET", "POST"), _redirect),
}
