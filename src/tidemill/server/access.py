"""The access log: a JSON line per answered request, sampled; never what was asked or answered."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from time import perf_counter

from msgspec import Struct

from tidemill.server.protocol import encode
from tidemill.server.trail import Trail
from tidemill.settings.serving import AccessLogSettings
from tidemill.workers.lines import Lines, standard_error

__all__ = ["AccessLog"]

NEVER = 1000
"""Above every status."""


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


class AccessLog:
    """Takes requests that were answered."""

    def __init__(self, settings: AccessLogSettings, lines: Lines = standard_error) -> None:
        self._sample = settings.sample
        self._always = settings.always_from or NEVER
        self._lines = lines

    def append(self, trail: Trail, status: int, sent: int) -> None:
        """Take one request, if its status or the sample says so; never waits."""
        if status < self._always and random.random() >= self._sample:  # noqa: S311 - a sample
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
