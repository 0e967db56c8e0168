"""OpenTelemetry traces: a span per request, below it the lookup and the prediction.

Spans are exported over OTLP/HTTP by a thread, from a bounded queue: a collector that is slow or
down costs spans, which are counted, and no request. The SDK is imported only when traces are on.
https://opentelemetry.io/docs/specs/otlp/, https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tidemill import __version__
from tidemill.server.trail import Trail
from tidemill.settings.serving import TraceSettings

__all__ = ["Traces"]

log = structlog.get_logger(__name__)

BATCH_SPANS = 512
"""Spans in one request to the collector."""


class Traces:
    """Begins and ends the spans of requests."""

    def __init__(self, settings: TraceSettings) -> None:
        # The exporter's own messages would be lines that are no JSON; `_Queue` says what matters.
        logging.getLogger("opentelemetry").propagate = False
        exporter = OTLPSpanExporter(settings.endpoint, timeout=settings.timeout_seconds)
        self._queue = _Queue(exporter, settings)
        self._ratio = settings.ratio
        self._timeout = settings.timeout_seconds
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": "tidemill", "service.version": __version__}),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(self._queue)
        self._tracer = self._provider.get_tracer("tidemill")
        self._propagator = TraceContextTextMapPropagator()

    def begin(
        self, trail: Trail, headers: Mapping[bytes, bytes], name: str, decided: bool | None
    ) -> None:
        """Begin a request's span of this name, below the caller's if the request names it.

        `decided` says whether the caller samples the request, None that this is left to the server.
        """
        if not (random.random() < self._ratio if decided is None else decided):  # noqa: S311
            self._pass_on(trail)
            return
        carrier = {
            key: headers[key.encode()].decode("latin-1")
            for key in ("traceparent", "tracestate")
            if key.encode() in headers
        }
        parent = self._propagator.extract(carrier)
        trail.span = self._tracer.start_span(name, parent, SpanKind.SERVER)
        context = set_span_in_context(trail.span)
        found = trail.span.get_span_context()
        trail.trace_id = format_trace_id(found.trace_id)
        trail.headers = _header(found.trace_id, found.span_id, found.trace_flags)
        trail.steps = partial(self._step, context)

    def _pass_on(self, trail: Trail) -> None:
        """Give a request that is not traced its ids; the SDK alone costs 49 µs for that."""
        own = random.getrandbits(128) if trail.trace_id is None else int(trail.trace_id, 16)
        trail.trace_id = format_trace_id(own)
        trail.headers = _header(own, random.getrandbits(64), 0)

    @contextmanager
    def _step(self, context: Context, name: str, trail: Trail) -> Iterator[None]:
        span = self._tracer.start_span(name, context, attributes=_known(trail))
        try:
            yield
        except BaseException as error:
            span.set_status(StatusCode.ERROR, type(error).__name__)
            raise
        finally:
            span.end()

    def end(self, trail: Trail, status: int) -> None:
        """End a request's span with what became of it."""
        span = trail.span
        span.set_attributes(
            {
                "http.request.method": trail.method,
                "url.path": trail.path,
                "http.response.status_code": status,
                "tidemill.outcome": trail.code or "ok",
                **_known(trail),
            }
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR, trail.code)
        span.end()

    def counts(self) -> tuple[int, int]:
        """Return how many spans the collector took, and how many were lost."""
        return self._queue.exported, self._queue.lost

    def close(self) -> None:
        """Export what is left, for at most the exporter's timeout; the rest is lost."""
        # The SDK's own shutdown waits for 30 s.
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(self._timeout)
        self._queue.abandon()


def _header(trace_id: int, span_id: int, flags: int) -> dict[bytes, bytes]:
    """Return the context that the answer carries."""
    return {b"traceparent": b"00-%032x-%016x-%02x" % (trace_id, span_id, flags)}


def _known(trail: Trail) -> dict[str, str | int]:
    return {
        "tidemill.model": trail.model,
        "tidemill.version": trail.version,
        "tidemill.revision": trail.revision,
        "tidemill.rows": trail.rows,
    }


class _Queue(SpanProcessor):
    """The SDK's batches, bounded and counted: it does not tell how many spans it dropped."""

    def __init__(self, exporter: SpanExporter, settings: TraceSettings) -> None:
        self.exported = 0
        self.lost = 0
        self._waiting = 0
        self._most = settings.queue_spans
        self._failing = False
        self._changed = threading.Lock()
        self._exporter = exporter
        self._batches = BatchSpanProcessor(
            _Counted(self),
            max_queue_size=settings.queue_spans,
            schedule_delay_millis=settings.flush_seconds * 1000,
            max_export_batch_size=min(BATCH_SPANS, settings.queue_spans),
        )

    def on_end(self, span: ReadableSpan) -> None:
        """Take a span, or count it as lost; never waits."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        with self._changed:
            if self._waiting >= self._most:
                self.lost += 1
                return
            self._waiting += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Export what is left."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def abandon(self) -> None:
        """Count what was not exported as lost."""
        with self._changed:
            self.lost += self._waiting
            self._waiting = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; in the exporting thread."""
        result = self._exporter.export(spans)
        taken = result is SpanExportResult.SUCCESS
        with self._changed:
            self._waiting -= len(spans)
            if taken:
                self.exported += len(spans)
            else:
                self.lost += len(spans)
        self._report(failing=not taken)
        return result

    def close(self) -> None:
        self._exporter.shutdown()

    def _report(self, *, failing: bool) -> None:
        """Log when the collector begins to refuse and when it takes spans again."""
        if failing and not self._failing:
            log.warning("the collector takes no spans, they are dropped and counted")
        elif self._failing and not failing:
            log.info("the collector takes spans again")
        self._failing = failing


class _Counted(SpanExporter):
    """The exporter, through the queue that counts."""

    def __init__(self, queue: _Queue) -> None:
        self._queue = queue

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        return self._queue.export(spans)

    def shutdown(self) -> None:
        """Close the connection."""
        self._queue.close()
