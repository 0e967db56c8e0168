"""The access log: a JSON line per answered request, sampled; never what was asked or answered.

Lines are kept in a bounded buffer and written by a thread: a reader of standard error that stalls,
or a full disk behind it, costs lines, which are counted, and no request.
"""

from __future__ import annotations

import random
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from time import perf_counter

from msgspec import Struct

from tidemill.server.protocol import encode
from tidemill.server.trail import Trail
from tidemill.settings.serving import AccessLogSettings

__all__ = ["AccessLog"]

BUFFER_LINES = 10_000
"""Some 4 MB."""
NEVER = 1000
"""Above every status."""
FLUSH_SECONDS = 0.2
"""A crash loses the lines of this long."""


class Line(Struct, omit_defaults=True):
    """One line; what is not known is left out."""

    event: str
    timestamp: datetime
    method: str
    path: str
    status: int
    ms: float
    bytes_in: int
    bytes_out: int
    code: str = ""
    request_id: str = ""
    trace_id: str | None = None
    key: str = ""
    model: str = ""
    version: str = ""
    rows: int = 0


def _standard_error(text: str) -> None:
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


class AccessLog:
    """Takes requests that were answered; `write` gets whole lines."""

    def __init__(
        self, settings: AccessLogSettings, write: Callable[[str], None] = _standard_error
    ) -> None:
        self.lost = 0
        self._sample = settings.sample
        self._always = settings.always_from or NEVER
        self._write = write
        self._lines: deque[bytes] = deque()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def append(self, trail: Trail, status: int, sent: int) -> None:
        """Take one request, if its status or the sample says so; never waits."""
        if status < self._always and random.random() >= self._sample:  # noqa: S311 - a sample
            return
        if len(self._lines) >= BUFFER_LINES:
            self.lost += 1
            return
        line = Line(
            "request",
            datetime.now(UTC),
            trail.method,
            trail.path[:200],
            status,
            round((perf_counter() - trail.started) * 1000, 3),
            trail.received,
            sent,
            trail.code,
            trail.request_id,
            trail.trace_id,
            trail.key,
            trail.model,
            trail.version,
            trail.rows,
        )
        self._lines.append(encode(line))

    def close(self) -> None:
        """Write what is left."""
        self._closed.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        if self._lines:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            self._write(b"\n".join([*lines, b""]).decode())
