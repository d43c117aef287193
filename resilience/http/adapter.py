"""The adapter under every pooled session: live sockets, one TLS context, and an end by the deadline.

Imports requests, so it is itself imported only when the first request is made.
"""

from __future__ import annotations

import os
import ssl
import threading
import weakref
from typing import Any, cast

import requests
from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from requests.exceptions import ConnectionError, ConnectTimeout, InvalidProxyURL, InvalidURL, ReadTimeout, SSLError
from requests.utils import get_environ_proxies, prepend_scheme_if_needed, select_proxy
from urllib3.exceptions import EmptyPoolError, LocationValueError, ReadTimeoutError
from urllib3.util import Timeout, parse_url

from resilience.core.clock import CLOCK
from resilience.core.errors import DeadlineExceeded, also
from resilience.http.connections import is_replaced
from resilience.http.pools import HTTPPool, PoolQueue, pool_classes
from resilience.http.sockets import ATTEMPT, Attempt
from resilience.http.tls import SharedContext, default_ca, tls_context

__all__ = ["PooledAdapter"]

#: A read of the body that takes too long is a `ConnectionError` in requests (psf/requests#5430); here it is both.
BodyTimeout: type[Any] = also(ReadTimeout, ConnectionError)
#: No connection was free by the deadline. It is a `ConnectTimeout` in requests; that it is our own limit, and says
#: nothing of the dependency, is for the breaker.
NoneFree: type[Any] = also(ConnectTimeout, DeadlineExceeded)
PORTS = {"http": 80, "https": 443}

#: What changes: every adapter that is alive; only a forked child walks through them.
_adapters: weakref.WeakSet[PooledAdapter] = weakref.WeakSet()


class _Stock(HTTPAdapter):
    """A stock adapter that is not one of the user's."""


class PooledAdapter(HTTPAdapter):
    """`requests.adapters.HTTPAdapter` with connections that are alive, cheap to make, and done by the deadline.

    pool_connections: hosts for which connections are kept. pool_maxsize: connections to one host; a request beyond it
    waits. max_idle: seconds of quiet, by either clock, after which a connection is not used again.
    timeout: (connect, read) in seconds, each for a request that has none. The connect timeout is for the name, TCP and
    TLS together.

    Where vcrpy and the like have replaced what urllib3 connects with, a stock adapter takes the requests.

    What changes: the pools, which guard themselves; `_keys`, whose entries any thread may set to the same value.
    """

    def __init__(
        self,
        pool_connections: int = 10,
        pool_maxsize: int = 20,
        max_idle: float = 55.0,
        timeout: tuple[float, float] = (3.05, 30.0),
    ) -> None:
        self._pool_classes = pool_classes(max_idle)
        self._size = pool_maxsize
        self._hosts = pool_connections
        self._default = timeout
        self._timeout = Timeout(connect=timeout[0], read=timeout[1])
        # By origin and context: what urllib3 finds a pool by, which takes longer to make than to use.
        self._keys: dict[tuple[str, SharedContext | None], tuple[Any, dict[str, Any]]] = {}
        self._stock: _Stock | None = None
        super().__init__(pool_connections, pool_maxsize, 0, pool_block=True)
        _adapters.add(self)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = True, **pool_kwargs: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pool_classes

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = self._pool_classes
        return manager

    # Sending.

    def send(
        self,
        request: Any,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        """As any adapter's: the caller reads the body, and there is no deadline but that of an attempt under way."""
        if is_replaced():
            return self._stock_adapter().send(request, stream, self._timeouts(timeout), verify, cert, proxies)
        try:
            # By name, as requests itself does it: `responses` and its like may stand in its place.
            response = super().send(
                request, stream=stream, timeout=self._timeouts(timeout), verify=verify, cert=cert, proxies=proxies
            )
        except EmptyPoolError as error:
            raise NoneFree(error, request=request) from error
        if stream:
            pool = getattr(response.raw, "_pool", None)
            if isinstance(pool, HTTPPool):
                pool.watch(response.raw)
        return response

    def send_attempt(
        self,
        request: Any,
        *,
        stream: bool,
        timeout: Any,
        verify: Any,
        cert: Any,
        proxies: Any,
        attempt: Attempt,
    ) -> requests.Response:
        """One attempt, which ends by its deadline: the body too is read before this returns, unless `stream`.

        A streamed body ends by the same deadline, while the caller reads it.

        Raises what requests raises: ConnectTimeout before the request was sent, ReadTimeout after it when time was up.
        """
        token = ATTEMPT.set(attempt)
        try:
            response = self.send(request, stream, timeout, verify, cert, proxies)
            if not stream:
                self._read(response)
            return response
        except ConnectionError as error:
            # A write that the deadline ended is a plain "connection aborted" in urllib3.
            over = attempt.deadline is not None and CLOCK.monotonic() >= attempt.deadline
            if over and attempt.sent and not isinstance(error, requests.Timeout):
                raise BodyTimeout(*error.args, request=request) from error
            raise
        finally:
            ATTEMPT.reset(token)

    def _read(self, response: requests.Response) -> None:
        try:
            # It stays in the response, as after `requests.get`.
            _ = response.content
        except BaseException as error:
            # So that its connection is neither used again nor missing from the pool.
            response.close()
            if isinstance(error, ConnectionError) and error.args and isinstance(error.args[0], ReadTimeoutError):
                raise BodyTimeout(*error.args, request=response.request) from error
            raise

    def _timeouts(self, timeout: Any) -> Any:
        """`timeout` as requests takes it, with the adapter's own in place of what is None."""
        if timeout is None:
            return self._timeout
        if isinstance(timeout, tuple) and len(timeout) == 2 and None in timeout:
            connect, read = timeout
            default = self._default
            return (default[0] if connect is None else connect, default[1] if read is None else read)
        return timeout

    def _stock_adapter(self) -> _Stock:
        if self._stock is None:
            # Two threads may both make one; the last stays.
            self._stock = _Stock(self._hosts, self._size, pool_block=True)
        return self._stock

    # The pool for a request.

    def get_connection_with_tls_context(
        self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
    ) -> HTTPPool:
        url: str = request.url
        proxy = select_proxy(url, proxies) if proxies else None
        context = self._shared(request, verify, cert, proxy)
        if proxy or (context is None and url[:6].lower() == "https:"):
            return self._rare_pool(request, verify, proxies, cert, context, proxy)
        origin = url[: url.find("/", 8) + 1] or url
        known = self._keys.get((origin, context))
        if known is None:
            known = self._key(request, verify, cert, context)
            if len(self._keys) >= 100:
                self._keys.clear()
            self._keys[origin, context] = known
        key, settings = known
        # A copy, because urllib3 takes out of it what it needs when the pool is a new one.
        return cast(HTTPPool, self.poolmanager.connection_from_pool_key(key, settings.copy()))

    def _shared(self, request: Any, verify: Any, cert: Any, proxy: str | None) -> SharedContext | None:
        """The context for what is verified without a client certificate; None for any other.

        Nor for a TLS proxy, whose certificate urllib3 verifies by the settings that a shared context replaces.
        """
        wanted = verify and cert is None and request.url[:6].lower() == "https:"
        if not wanted or (proxy and proxy.lower().startswith("https:")):
            return None
        try:
            return tls_context(DEFAULT_CA_BUNDLE_PATH if verify is True else str(verify))
        except ssl.SSLError as error:
            raise SSLError(error, request=request) from error

    def _attributes(self, request: Any, verify: Any, cert: Any, context: SharedContext | None) -> Any:
        try:
            host, pool = self.build_connection_pool_key_attributes(request, verify, cert)
        except ValueError as error:
            raise InvalidURL(error, request=request) from error
        if context is not None:
            pool["ssl_context"] = context
            # They would be loaded into it again at each connection, which is what takes the time.
            pool.pop("ca_certs", None)
            pool.pop("ca_cert_dir", None)
        return host, pool

    def _rare_pool(
        self, request: Any, verify: Any, proxies: Any, cert: Any, context: SharedContext | None, proxy: str | None
    ) -> HTTPPool:
        """Through a proxy, unverified, or with a client certificate."""
        if context is None or not proxy:
            return cast(HTTPPool, super().get_connection_with_tls_context(request, verify, proxies, cert))
        proxy = cast(str, prepend_scheme_if_needed(proxy, "http"))  # type: ignore[no-untyped-call]
        if not parse_url(proxy).host:
            raise InvalidProxyURL("Please check proxy URL. It is malformed and could be missing the host.")
        host, pool = self._attributes(request, verify, cert, context)
        return cast(HTTPPool, self.proxy_manager_for(proxy).connection_from_host(**host, pool_kwargs=pool))

    def _key(self, request: Any, verify: Any, cert: Any, context: SharedContext | None) -> tuple[Any, dict[str, Any]]:
        """What `PoolManager.connection_from_host` makes of the request before it looks for the pool."""
        host, pool = self._attributes(request, verify, cert, context)
        if not host["host"]:
            raise LocationValueError("No host specified.")
        manager = self.poolmanager
        settings = {**manager.connection_pool_kw, **pool, **host}
        settings["port"] = host["port"] or PORTS[host["scheme"]]
        return manager.key_fn_by_scheme[host["scheme"]](settings), settings

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        if "ssl_context" not in conn.conn_kw:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]

    def request_url(self, request: Any, proxies: Any) -> str:
        return super().request_url(request, proxies) if proxies else cast(str, request.path_url)

    # The pools as a whole.

    def warm(
        self,
        url: str,
        count: int = 1,
        deadline: float | None = None,
        *,
        verify: bool | str | None = None,
        proxies: Any = None,
    ) -> int:
        """See to it that `count` open connections to the host of `url` lie idle in the pool; how many had to be opened.

        count: at most the pool's size. deadline: by the monotonic clock, for all of it.
        verify, proxies: as of a request; None for what the environment says, as a session would take it.

        Raises the first failure, an OSError or urllib3.exceptions.HTTPError, if none could be opened.
        """
        request = requests.Request("GET", url).prepare()
        if verify is None:
            verify = default_ca()
        if proxies is None:
            proxies = get_environ_proxies(url)
        if is_replaced():
            return 0
        pool = self.get_connection_with_tls_context(request, verify, proxies)
        self.cert_verify(pool, url, verify, None)
        return pool.fill(min(count, self._size), deadline, self._default[0])

    def _all_pools(self) -> list[HTTPPool]:
        found = []
        for manager in (self.poolmanager, *list(self.proxy_manager.values())):
            # Not `for key in`: the container cannot be iterated over.
            keys = manager.pools.keys()
            found += [pool for pool in map(manager.pools.get, keys) if isinstance(pool, HTTPPool)]
        return found

    @property
    def idle_connections(self) -> int:
        """How many open connections lie in the pools."""
        return sum(len(cast(PoolQueue, pool.pool).idle()) for pool in self._all_pools() if pool.pool is not None)

    def retire_all(self, why: str, host: str | None = None) -> int:
        """Close every connection that lies in the pools, say how many, and close those in use when they come back.

        host: only those to this one. The adapter may go on to be used.
        """
        return sum(pool.retire(why) for pool in self._all_pools() if host in (None, pool.host))

    def close(self) -> None:
        """Close what lies in the pools; as with a stock adapter, a later request opens new ones."""
        super().close()
        if self._stock is not None:
            self._stock.close()


def _after_fork() -> None:
    # Another thread of the parent may have held one; the pools themselves see to the rest.
    for adapter in list(_adapters):
        for manager in (adapter.poolmanager, *adapter.proxy_manager.values()):
            manager.pools.lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
