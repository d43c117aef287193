"""What the child processes of `LambdaRuntime` print."""

from __future__ import annotations

import codecs
import os
import selectors
import threading
from typing import IO

__all__ = ["Output"]

#: Reads of 64 KiB in a row: more than a pipe holds, so that all that was printed so far is read, and an end to it.
_READS = 17


class Output:
    """The output of one process after another.

    A thread empties the pipe, so that a child that prints much never waits; whoever asks for the text empties it, too,
    so that what was printed before an answer is in the text after it.

    What changes: the text, `_pipe` (None once it has ended) and the decoder, under `_lock`.
    """

    def __init__(self) -> None:
        self._chunks: list[str] = []
        self._pipe: IO[bytes] | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def attach(self, pipe: IO[bytes]) -> None:
        """Read `pipe` from now on, until its end; closed by `detach`."""
        os.set_blocking(pipe.fileno(), False)
        self._pipe = pipe
        self._thread = threading.Thread(target=self._follow, args=(pipe,), name="LambdaRuntime output", daemon=True)
        self._thread.start()

    def detach(self) -> None:
        """Read what is left and close the pipe; something that the child started may hold the other end open."""
        self._pump()
        with self._lock:
            pipe, self._pipe = self._pipe, None
            self._decoder.reset()
        if self._thread is not None:
            self._thread.join()
        if pipe is not None:
            pipe.close()

    def mark(self) -> int:
        """A place in the text: after all that has been printed so far."""
        self._pump()
        return len(self._chunks)

    def text(self, since: int = 0) -> str:
        """What has been printed since `mark`. The runtime client ends a traceback's lines by CR; here they are
        lines."""
        self._pump()
        return "".join(self._chunks[since:]).replace("\r\n", "\n").replace("\r", "\n")

    def _pump(self) -> None:
        with self._lock:
            for _ in range(_READS):
                if self._pipe is None:
                    return
                try:
                    data = os.read(self._pipe.fileno(), 65536)
                except BlockingIOError:
                    return
                self._chunks.append(self._decoder.decode(data, final=not data))
                if not data:
                    self._pipe.close()
                    self._pipe = None

    def _follow(self, pipe: IO[bytes]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while self._pipe is pipe:
                # Looks up now and then: who detaches does not write to the pipe.
                if selector.select(0.05):
                    self._pump()
