"""A collector of traces: OTLP over HTTP as the protocol has it, kept in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass
class Span:
    name: str
    trace: str
    id: str
    parent: str
    kind: int
    failed: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]
    seconds: float


@dataclass
class Collector:
    url: str = ""
    spans: list[Span] = field(default_factory=list)
    status: int = 200
    open: threading.Event = field(default_factory=threading.Event)
    """Set while it answers."""

    def take(self, content: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(content)
        for part in request.resource_spans:
            resource = values(part.resource.attributes)
            for scope in part.scope_spans:
                for s in scope.spans:
                    seconds = (s.end_time_unix_nano - s.start_time_unix_nano) / 1e9
                    found = (s.trace_id.hex(), s.span_id.hex(), s.parent_span_id.hex())
                    attributes = values(s.attributes)
                    failed = s.status.code == 2
                    self.spans.append(
                        Span(s.name, *found, s.kind, failed, attributes, resource, seconds)
                    )


def values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in attributes}


@contextmanager
def collector() -> Iterator[Collector]:
    """Run a collector on a free port."""
    made = Collector()
    made.open.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["content-length"]))
            made.open.wait(30)
            if made.status == 200:
                assert self.path == "/v1/traces"
                assert self.headers["content-type"] == "application/x-protobuf"
                made.take(content)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(made.status)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_address[1]}/v1/traces"
    try:
        yield made
    finally:
        made.open.set()
        server.shutdown()
        thread.join()
        server.server_close()
