"""The application: which route answers, what it needs, what an error looks like."""

from __future__ import annotations

import structlog

from tidemill.errors import TidemillError
from tidemill.server.guard import Guard
from tidemill.server.messages import Request, Response
from tidemill.server.metrics import Metrics
from tidemill.server.observer import Observer
from tidemill.server.orders import Orders
from tidemill.server.protocol import Rejected
from tidemill.server.repository import Repository
from tidemill.server.routes import Call, Routes
from tidemill.server.trail import GONE

__all__ = ["App"]

log = structlog.get_logger(__name__)


class App:
    """The server's HTTP interface; `ready` and `draining` are set by the process around it."""

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        guard: Guard,
        observer: Observer,
        orders: Orders,
        routes: Routes | None = None,
    ) -> None:
        """`routes` are by default all that a client may ask."""
        self.repository = repository
        self.orders = orders
        self.guard = guard
        self.observer = observer
        self.ready = False
        self.draining = False
        self._metrics = metrics
        self._routes = routes or Routes(
            repository, orders, metrics, guard, observer, lambda: self.ready and not self.draining
        )

    def admit(self, request: Request, pending: int) -> bool:
        """Judge a request by its head, return whether its body is wanted; raises Rejected."""
        found = self._routes.find(request.path)
        try:
            request.trail.key = self.guard.admit(
                request, pending, found[0].need if found else "infer"
            )
        except Rejected as refusal:
            if found and refusal.code == "overloaded":
                self._routes.turn_away(**found[1])
            raise
        return found is not None and request.method == found[0].method == "POST"

    async def answer(self, request: Request) -> Response:
        """Answer a request that was admitted and is whole."""
        try:
            return self._end(request, await self._answer(request))
        except Rejected as refusal:
            return self.refuse(request, refusal)
        except TidemillError as error:
            log.error("request failed", reason=str(error))
            return self.refuse(
                request, Rejected("unavailable", "the server cannot answer now", 503)
            )
        except Exception:  # a fault of ours: the client gets an answer, and nothing of the fault
            log.exception("request failed")
            return self.refuse(
                request, Rejected("internal", "the server failed; its log says why", 500)
            )

    def refuse(self, request: Request, refusal: Rejected) -> Response:
        """Return how a refusal is told; it is counted if its reason is not in a request's body."""
        self.count(refusal)
        request.trail.code = refusal.code
        told = Response(refusal.status, refusal.body(), headers=refusal.headers)
        return self._end(request, told)

    def cut(self, request: Request) -> None:
        """Note a request that will have no answer, as the process ends."""
        request.trail.code = "draining"
        self._end(request, Response(GONE, b""))

    def turn_away(self) -> None:
        """Count a connection that is closed at once, as too many are held."""
        self._metrics.turned_away += 1

    def count(self, refusal: Rejected) -> None:
        """Count a refusal whose reason is not in a request's body."""
        if refusal.code in self._metrics.refused:
            self._metrics.refused[refusal.code] += 1

    def _end(self, request: Request, response: Response) -> Response:
        trail = request.trail
        trail.method, trail.path, trail.received = request.method, request.path, request.size
        self.observer.end(trail, response.status, len(response.body))
        if trail.headers:
            return response._replace(headers={**response.headers, **trail.headers})
        return response

    async def _answer(self, request: Request) -> Response:
        path, method, headers = request.path, request.method, request.headers
        found = self._routes.find(path)
        if found is None:
            raise Rejected("not_found", f"there is nothing at {path:.200}", 404)
        route, names = found
        allowed = ("GET", "HEAD") if route.method == "GET" else (route.method,)
        if method not in allowed:
            answers = ", ".join(allowed)
            message = f"{path:.200} answers {answers}, not {method}"
            raise Rejected("method_not_allowed", message, 405, {b"allow": answers.encode()})
        if route.method == "GET":
            return await route.answer(Call(headers, b"", request.trail, **names))
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Rejected("unsupported_encoding", "compressed bodies are not supported", 415)
        trail = request.trail
        try:
            with self.guard.in_time(route.need, trail):
                async with self.guard.slots:
                    return await route.answer(Call(headers, bytes(request.body), trail, **names))
        except Rejected:
            if trail.late and not trail.model:
                self._routes.turn_away(**names)
            raise
