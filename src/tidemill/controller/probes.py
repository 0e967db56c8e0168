"""What the cluster and Prometheus ask: /healthz, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from tidemill.controller.listening import Answer

__all__ = ["PROBES", "Check", "Probes"]

PROBES = ("/healthz", "/readyz", "/metrics")

Check = Callable[[], str]
"""Returns what is wrong, empty when nothing is."""


@dataclass(frozen=True, slots=True)
class Probes:
    """Answers the three pages, which need no key and tell nothing that one is for."""

    healthy: Check
    ready: Check
    registry: CollectorRegistry

    def answer(self, path: str) -> Answer:
        """Answer a GET of one of `PROBES`."""
        if path == "/metrics":
            body = generate_latest(self.registry)
            return Answer(200, body, {"content-type": CONTENT_TYPE_LATEST})
        problem = (self.healthy if path == "/healthz" else self.ready)()
        return Answer(503 if problem else 200, (problem or "ok").encode())

    def respond(self, method: str, target: str, _authorization: str, _body: bytes) -> Answer:
        """Answer any request, where nothing else is served."""
        if method == "GET" and target in PROBES:
            return self.answer(target)
        return Answer(404, f"known: GET {', '.join(PROBES)}\n".encode())
