"""What a ping looks like. An event may be anything at all: what is not a dict is no ping."""

from __future__ import annotations

import logging
import os
from typing import Any

from resilience.core.call import PLAIN, Call
from resilience.core.kinds import parameter_position

__all__ = ["PINGS", "Pings"]

#: Those that count unless told otherwise. Sources: serverless-plugin-warmup and lambda-warmer-py, their documentation.
PINGS = ("warmup", "warmer", "serverless-plugin-warmup")

_log = logging.getLogger("resilience")


class Pings:
    """What counts as a ping for one function. Immutable."""

    def __init__(self, kinds: tuple[Any, ...], *, path: str | None, secret_env: str) -> None:
        self._flags = tuple(k for k in ("warmup", "warmer") if k in kinds)
        self._plugin = "serverless-plugin-warmup" in kinds
        self._scheduled = "scheduled" in kinds
        self._predicates = tuple(k for k in kinds if callable(k))
        self._path = path
        self._odd = bool(self._predicates) or path is not None
        self._secret_env = secret_env
        self.names = tuple(k if isinstance(k, str) else getattr(k, "__name__", "predicate") for k in kinds)

    def may_be(self, call: Call) -> bool:
        """Whether it is worth a closer look; what every call pays."""
        if self._odd or call.invocation is not PLAIN:
            return True
        args = call.args
        if not args:
            return "event" in call.kwargs
        event = args[0]
        if type(event) is dict:
            return "warmup" in event or "warmer" in event or "source" in event
        # A method's first argument is its object.
        return event is not None and (len(args) > 1 or "event" in call.kwargs)

    def match(self, call: Call) -> dict[str, Any] | None:
        """The ping's own words, a dict that may be empty; None: it is a real call."""
        event, context = _event(call), call.invocation.context
        if type(event) is dict and (
            "warmup" in event or "warmer" in event or "source" in event or self._path is not None
        ):
            if any(event.get(flag) is True for flag in self._flags):
                return event
            source = event.get("source")
            if source is not None and self._from(source, event):
                return event
            if self._path is not None and self._knocks(event):
                return event
        if context is not None and self._plugin and _told_by_client(context):
            return {}
        for predicate in self._predicates:
            if self._holds(predicate, event):
                return event if type(event) is dict else {}
        return None

    def _from(self, source: Any, event: dict[str, Any]) -> bool:
        if source == "serverless-plugin-warmup":
            return self._plugin
        # EventBridge: "Scheduled Event" is what a rule with a schedule sends.
        return self._scheduled and source == "aws.events" and event.get("detail-type") == "Scheduled Event"

    def _holds(self, predicate: Any, event: Any) -> bool:
        try:
            return bool(predicate(event))
        except Exception as error:
            # A predicate that expects a dict meets a list one day: that is no ping.
            _log.debug("pings: %s failed on this event: %s", self.names, type(error).__name__)
            return False

    def _knocks(self, event: dict[str, Any]) -> bool:
        """A GET of our path (API Gateway 1.0 and 2.0, function URLs) that knows the secret."""
        http = event.get("requestContext")
        http = http.get("http") if isinstance(http, dict) else None
        method = http.get("method") if isinstance(http, dict) else event.get("httpMethod")
        if method != "GET" or self._path not in (event.get("rawPath"), event.get("path")):
            return False
        headers = event.get("headers")
        given = ""
        if isinstance(headers, dict):
            given = next((str(v) for k, v in headers.items() if str(k).lower() == "authorization"), "")
        secret = os.environ.get(self._secret_env, "")
        # hmac costs nothing until a request knocks at this very path.
        import hmac

        # The user agent proves nothing; only the secret does.
        return bool(secret) and hmac.compare_digest(_bytes(given), _bytes(f"Bearer {secret}"))


def _event(call: Call) -> Any:
    invocation, args = call.invocation, call.args
    if invocation is not PLAIN:
        return invocation.event
    if not args or "event" in call.kwargs:
        return call.kwargs.get("event")
    # A method's first argument is its object.
    method = len(args) > 1 and type(args[0]) is not dict and (type(args[1]) is dict or _is_method(call.pipeline.fn))
    return args[1] if method else args[0]


def _is_method(fn: Any) -> bool:
    return parameter_position(fn, "self") == 0 or parameter_position(fn, "cls") == 0


def _bytes(text: str) -> bytes:
    # JSON can hold half of a surrogate pair, which strict UTF-8 refuses.
    return text.encode("utf-8", "surrogatepass")


def _told_by_client(context: Any) -> bool:
    custom = getattr(getattr(context, "client_context", None), "custom", None)
    return isinstance(custom, dict) and custom.get("source") == "serverless-plugin-warmup"
