"""Lines on standard error, written by a thread: who has one to say never waits for who reads it.

The buffer is bounded: a reader that stalls, or a full disk behind it, costs lines, which are
counted, and no request. Lines leave whole, in pieces that a pipe takes at once, so that those of
several processes do not mix.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog

__all__ = ["Lines", "log_as_json", "standard_error"]

BUFFER_LINES = 10_000
"""Some 4 MB."""
FLUSH_SECONDS = 0.2
"""Between two writes of lines that do not hurry: a crash loses those of this long."""
PATIENCE_SECONDS = 1.0
"""The end of the process waits so long for who reads."""
PIECE_BYTES = 4096
"""Linux's PIPE_BUF: two processes' writes of up to so much do not mix in a pipe."""


def _write(content: bytes) -> None:
    sys.stderr.buffer.write(content)
    sys.stderr.flush()


class Lines:
    """Takes lines of UTF-8, without their ends; `write` gets pieces of whole lines."""

    def __init__(self, write: Callable[[bytes], None] = _write) -> None:
        self.lost = 0
        """Lines that were not written."""
        self._write = write
        self._lines: deque[bytes] = deque()
        self._wanted = threading.Event()
        self._waiting: deque[threading.Event] = deque()
        self._thread: threading.Thread | None = None

    def append(self, line: bytes, *, hurry: bool = False) -> None:
        """Take a line; one in a hurry is written at once. Never waits."""
        if len(self._lines) >= BUFFER_LINES:
            self.lost += 1
            return
        self._lines.append(line)
        if self._thread is None:
            self._start()
        if hurry:
            self._wanted.set()

    def flush(self) -> None:
        """Wait until what was taken is written, but not for long."""
        if self._thread is not None:
            done = threading.Event()
            self._waiting.append(done)
            self._wanted.set()
            done.wait(PATIENCE_SECONDS)

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()
        atexit.register(self.flush)

    def _run(self) -> None:
        while True:
            self._wanted.wait(FLUSH_SECONDS)
            self._wanted.clear()
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            while self._lines:
                self._put(self._piece())
            for done in waiting:
                done.set()

    def _piece(self) -> list[bytes]:
        """Take a line, and as many more as fit with it."""
        taken = [self._lines.popleft()]
        size = len(taken[0]) + 1
        while self._lines and (size := size + len(self._lines[0]) + 1) <= PIECE_BYTES:
            taken.append(self._lines.popleft())
        return taken

    def _put(self, lines: list[bytes]) -> None:
        try:
            self._write(b"\n".join([*lines, b""]))
        except OSError:
            self.lost += len(lines)


standard_error = Lines()
"""This process's."""


class _Hurried:
    """The file that structlog writes its lines to."""

    def write(self, text: str) -> None:
        standard_error.append(text.rstrip("\n").encode(errors="replace"), hurry=True)

    def flush(self) -> None:
        """Do nothing: the thread writes at once."""


def log_as_json(**known: Any) -> None:
    """Write this process's events to standard error, one JSON document per line.

    Every event has what is `known` as well.
    """
    # gRPC's library would write lines of its own, one for each handshake that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    def add(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {**event, **known}

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            add,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Hurried())),
        cache_logger_on_first_use=True,
    )
