"""urllib3's pools, with places that are not lost, a wait that ends by the deadline, and connections laid in ahead.

Imports urllib3, so it is itself imported only when the first request is made.
"""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from urllib3 import connectionpool

from resilience.core.clock import CLOCK
from resilience.http.connections import HTTPConnection, HTTPSConnection
from resilience.http.sockets import ATTEMPT, Attempt

__all__ = ["HTTPPool", "HTTPSPool", "PoolQueue", "pool_classes"]

#: What changes: every pool of the process that is alive; only a forked child walks through them.
_pools: weakref.WeakSet[Any] = weakref.WeakSet()


class PoolQueue(queue.LifoQueue[Any]):
    """The places of a pool: live connections on top, so that none lies unused below an empty place.

    What changes: as in `queue.Queue`, guarded by its `mutex`.
    """

    def _put(self, item: Any) -> None:
        if item is None or item.is_closed:
            self.queue.insert(0, item)
        else:
            self.queue.append(item)

    def add_idle(self, conn: HTTPConnection) -> bool:
        """Put a connection into an empty place; False if there is none."""
        with self.mutex:
            if not self.queue or (self.queue[0] is not None and not self.queue[0].is_closed):
                return False
            self.queue[0:1] = []
            self.queue.append(conn)
            return True

    def idle(self) -> list[HTTPConnection]:
        """The open connections in it."""
        with self.mutex:
            return [item for item in self.queue if item is not None and not item.is_closed]

    def weed(self) -> tuple[int, list[tuple[HTTPConnection, str]]]:
        """How many open connections may be used, and those that may not, with why, taken out; their places stay.

        Looked at under the lock: a look reads, and would take from a thread that has just taken the connection out.
        """
        unfit = []
        with self.mutex:
            for place, item in enumerate(self.queue):
                why = None if item is None or item.is_closed else item.unfit()
                if why is not None:
                    unfit.append((item, why))
                    self.queue[place] = None
            # Empty places below, as in `_put`.
            self.queue.sort(key=lambda item: item is not None and not item.is_closed)
            left = sum(1 for item in self.queue if item is not None and not item.is_closed)
        return left, unfit

    def drain(self) -> list[HTTPConnection]:
        """The open connections, taken out; their places stay."""
        with self.mutex:
            taken = [item for item in self.queue if item is not None and not item.is_closed]
            self.queue[:] = [None] * len(self.queue)
        return taken

    def renew(self) -> None:
        """In a forked child: new locks, as another thread of the parent may have held them, and every place again."""
        items = [item for item in self.queue if item is not None]
        size = self.maxsize
        queue.LifoQueue.__init__(self, size)
        self.queue[:] = [None] * (size - len(items)) + items


class HTTPPool(connectionpool.HTTPConnectionPool):
    """A pool whose waiting for a place ends by the deadline, and which gets back the places of lost responses.

    What changes: `_orphans`, a deque, whose operations are atomic; `_era`, a number that `retire` raises.
    """

    QueueCls = PoolQueue
    ConnectionCls = HTTPConnection

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._orphans: deque[HTTPConnection] = deque()
        self._era = 0
        _pools.add(self)

    def urlopen(self, *args: Any, **settings: Any) -> Any:
        while self._orphans:
            self._put_conn(self._orphans.popleft())
        attempt = ATTEMPT.get()
        if attempt is not None and attempt.deadline is not None:
            settings["pool_timeout"] = max(attempt.deadline - CLOCK.monotonic(), 0.0)
        return super().urlopen(*args, **settings)

    def _get_conn(self, timeout: float | None = None) -> Any:
        conn: Any = super()._get_conn(timeout)
        # In this order: see `_reclaim`.
        conn.uses += 1
        conn.pooled = False
        conn.era = self._era
        if conn.is_closed:
            conn.pid = os.getpid()
        return conn

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            if conn.pid != os.getpid():
                # Its place was made free when this process was forked.
                conn.close()
                return
            if conn.era != self._era:
                conn.close()
            conn.pooled = True
        super()._put_conn(conn)

    def retire(self, why: str) -> int:
        """Close every connection that lies in the pool, how many, and those in use when they come back."""
        self._era += 1
        retired = cast(PoolQueue, self.pool).drain() if self.pool is not None else []
        for conn in retired:
            conn.tell_retired(why)
            conn.close()
        return len(retired)

    def fill(self, count: int, deadline: float | None, timeout: Any) -> int:
        """See to it that `count` open connections lie in the pool, and say how many were opened; see `open_idle`."""
        if self.pool is None:
            return 0
        left, unfit = cast(PoolQueue, self.pool).weed()
        for conn, why in unfit:
            conn.tell_retired(why)
            conn.close()
        missing = count - left
        opened: list[bool] = []
        failures: list[Exception] = []

        def work() -> None:
            try:
                opened.append(self.open_idle(deadline, timeout))
            except Exception as error:
                failures.append(error)

        _side_by_side(work, missing)
        if failures and not any(opened):
            raise failures[0]
        return sum(opened)

    def open_idle(self, deadline: float | None, timeout: Any) -> bool:
        """Open one more connection and lay it into the pool; False if meanwhile there is no empty place.

        urllib3 has no public way to do so: a request is the only thing that opens a connection. Of what it has, making
        one (`_new_conn`, and `_prepare_proxy` for a tunnel) is what a subclass of a pool overrides, so least bad.
        """
        token = ATTEMPT.set(Attempt(deadline))
        try:
            conn: Any = self._new_conn()
            conn.timeout = timeout
            if self.proxy is not None and self.scheme == "https":
                self._prepare_proxy(conn)
            else:
                conn.connect()
        finally:
            ATTEMPT.reset(token)
        conn.pooled, conn.era = True, self._era
        if self.pool is not None and cast(PoolQueue, self.pool).add_idle(conn):
            return True
        conn.close()
        return False

    def watch(self, raw: Any) -> None:
        """Get the place back when the caller lets go of a streamed response without closing it.

        urllib3 does not, and in a pool that blocks each such response would take a place for good.
        """
        conn = raw.connection
        if conn is not None:
            weakref.finalize(raw, self._reclaim, conn, conn.uses).atexit = False

    def _reclaim(self, conn: HTTPConnection, uses: int) -> None:
        if conn.pooled or conn.uses != uses:
            return
        conn.close()
        pool = self.pool
        # The garbage collector may call this on a thread that holds the queue's lock, which it must not wait for.
        if pool is not None and pool.mutex.acquire(blocking=False):
            pool.mutex.release()
            self._put_conn(conn)
        else:
            self._orphans.append(conn)


class HTTPSPool(HTTPPool, connectionpool.HTTPSConnectionPool):
    """The same for https."""

    ConnectionCls = HTTPSConnection


def pool_classes(max_idle: float) -> dict[str, Any]:
    """The two pool classes, by scheme, with connections that are not used after `max_idle` seconds of quiet."""

    def made(pool: Any, conn: Any) -> Any:
        conn = type(conn.__name__, (conn,), {"max_idle": max_idle, "__module__": __name__})
        # By urllib3's name for it, which stands at the head of every error message of a connection.
        name = "HTTPSConnectionPool" if conn.scheme == "https" else "HTTPConnectionPool"
        return type(name, (pool,), {"ConnectionCls": conn, "__module__": __name__})

    return {"http": made(HTTPPool, HTTPConnection), "https": made(HTTPSPool, HTTPSConnection)}


def _side_by_side(work: Callable[[], None], times: int) -> None:
    """Run `work` so many times at once, or one after the other where no thread can be started."""
    threads: list[threading.Thread] = []
    for _ in range(times - 1):
        thread = threading.Thread(target=work, name="resilience-warm", daemon=True)
        try:
            thread.start()
            threads.append(thread)
        except RuntimeError:
            work()
    if times > 0:
        work()
    for thread in threads:
        thread.join()


def _after_fork() -> None:
    """In the child, an unused pool: its connections stay in it, without sockets, to be retired when next looked at."""
    for pool in list(_pools):
        if pool.pool is not None:
            pool.pool.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
