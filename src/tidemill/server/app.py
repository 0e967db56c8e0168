"""HTTP: who may come in, which route answers, what an error looks like. Raw ASGI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from tidemill.errors import TidemillError
from tidemill.server import body as bodies
from tidemill.server.body import Gone, Receive
from tidemill.server.guard import Guard
from tidemill.server.metrics import Metrics
from tidemill.server.observer import Observer
from tidemill.server.protocol import Rejected
from tidemill.server.repository import Repository
from tidemill.server.routes import JSON, Call, Reply, Routes
from tidemill.server.trail import Trail

__all__ = ["App"]

log = structlog.get_logger(__name__)

Scope = Mapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

CLOSE = (b"connection", b"close")
CLOSING = frozenset({413, 431})
"""The rest of such a request is not read."""
GONE = 499
"""Status, in the access log alone, of a client that did not wait."""


class App:
    """The server's HTTP interface; `ready` and `draining` are set by the process around it."""

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        guard: Guard,
        observer: Observer,
        *,
        max_body_bytes: int,
    ) -> None:
        self.repository = repository
        self.guard = guard
        self.observer = observer
        self.ready = False
        self.draining = False
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._routes = Routes(
            repository, metrics, guard, observer, lambda: self.ready and not self.draining
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI's entry point."""
        close = False
        trail = Trail(scope["method"], scope["path"])
        try:
            reply = await self._respond(scope, receive, trail)
        except Rejected as refusal:
            self.count(refusal)
            reply = _refusal(refusal, trail)
            close = refusal.status in CLOSING
        except Gone:
            self.observer.end(trail, GONE, 0)
            return
        except TidemillError as error:
            log.error("request failed", reason=str(error))
            reply = _refusal(Rejected("unavailable", "the server cannot answer now", 503), trail)
        except Exception:
            log.exception("request failed")
            reply = _refusal(
                Rejected("internal", "the server failed; its log says why", 500), trail
            )
        self.observer.end(trail, reply.status, len(reply.body))
        headers = [*reply.headers, *trail.headers, (b"content-length", b"%d" % len(reply.body))]
        if self.draining or close:
            headers.append(CLOSE)
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": reply.body})

    def count(self, refusal: Rejected) -> None:
        """Count a refusal whose reason is not in the request's content."""
        if refusal.code in self._metrics.refused:
            self._metrics.refused[refusal.code] += 1

    async def _respond(self, scope: Scope, receive: Receive, trail: Trail) -> Reply:
        headers = dict(scope["headers"])
        path, method = scope["path"], scope["method"]
        found = self._routes.find(path)
        try:
            trail.key = self.guard.admit(scope, headers, found[0].need if found else "infer")
        except Rejected as refusal:
            if found and refusal.code == "overloaded":
                self._routes.turn_away(**found[1])
            if not await bodies.linger(receive, self._max_body_bytes):
                refusal.headers = {**refusal.headers, b"connection": b"close"}
            raise
        if found is None:
            raise Rejected("not_found", f"there is nothing at {path:.200}", 404)
        route, names = found
        if method != route.method:
            raise Rejected(
                "method_not_allowed",
                f"{path:.200} answers {route.method}, not {method}",
                405,
                {b"allow": route.method.encode()},
            )
        if method == "GET":
            return await route.answer(Call(headers, b"", trail, **names))
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Rejected("unsupported_encoding", "compressed bodies are not supported", 415)
        body = await bodies.read(receive, self._max_body_bytes)
        trail.received = len(body)
        async with self.guard.slots:
            return await route.answer(Call(headers, body, trail, **names))


def _refusal(refusal: Rejected, trail: Trail) -> Reply:
    trail.code = refusal.code
    return Reply(refusal.body(), (JSON, *refusal.headers.items()), refusal.status)
