"""What the cluster and Prometheus ask the controller: /healthz, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

__all__ = ["Probes"]

Check = Callable[[], str]
"""Returns what is wrong, empty when nothing is."""


class Probes:
    """Serves the three pages while it is entered."""

    def __init__(
        self, address: tuple[str, int], healthy: Check, ready: Check, registry: CollectorRegistry
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            checks = {"/healthz": healthy, "/readyz": ready}  # noqa: RUF012 - never changed

            def do_GET(self) -> None:
                """Answer a probe or a scrape."""
                if self.path == "/metrics":
                    self._answer(200, generate_latest(registry), CONTENT_TYPE_LATEST)
                elif self.path in self.checks:
                    problem = self.checks[self.path]()
                    self._answer(503 if problem else 200, (problem or "ok").encode())
                else:
                    self._answer(404, b"/healthz, /readyz, /metrics")

            def _answer(self, code: int, body: bytes, kind: str = "text/plain") -> None:
                self.send_response(code)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Say nothing: probes come every few seconds."""

        self._server = ThreadingHTTPServer(address, Handler)
        self._thread = Thread(target=self._server.serve_forever, name="probes", daemon=True)

    @property
    def port(self) -> int:
        """The port that was taken."""
        return self._server.server_port

    def __enter__(self) -> Probes:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
