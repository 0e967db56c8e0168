"""Who sees a request pass: its trace and its line in the access log, where they are on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tidemill.server.access import AccessLog
from tidemill.server.trail import Trail
from tidemill.settings.serving import ServingSettings
from tidemill.workers.lines import standard_error

if TYPE_CHECKING:
    from tidemill.server.traces import Traces

__all__ = ["Observer"]

TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-([0-9a-f]{2})")
"""W3C `traceparent`: https://www.w3.org/TR/trace-context/."""
NO_TRACE = b"0" * 32
SAMPLED = 1


class Observer:
    """A transport tells it of each request twice: `trace` before the work, `end` after it."""

    def __init__(self, traces: Traces | None = None, access: AccessLog | None = None) -> None:
        self.traces = traces
        self.access = access

    @classmethod
    def of(cls, settings: ServingSettings) -> Observer:
        """Return what the settings switch on; imports OpenTelemetry only then."""
        traces = access = None
        if settings.traces.endpoint:
            from tidemill.server.traces import Traces

            traces = Traces(settings.traces)
        if settings.access_log.on:
            access = AccessLog(settings.access_log)
        return cls(traces, access)

    def trace(self, trail: Trail, headers: Mapping[bytes, bytes], name: str) -> None:
        """Begin the request's span of this name, or keep the trace id that the caller sent."""
        decided = None
        if (found := TRACE.fullmatch(headers.get(b"traceparent", b""))) and found[1] != NO_TRACE:
            trail.trace_id = found[1].decode()
            decided = bool(int(found[2], 16) & SAMPLED)
        if self.traces is not None:
            self.traces.begin(trail, headers, name, decided)

    def end(self, trail: Trail, status: int, sent: int) -> None:
        """Note the answer, of `sent` bytes."""
        if trail.span is not None and self.traces is not None:
            self.traces.end(trail, status)
        if self.access is not None:
            self.access.append(trail, status, sent)

    def close(self) -> None:
        """Write and export what is left."""
        if self.traces is not None:
            self.traces.close()
        standard_error.flush()
