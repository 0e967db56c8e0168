"""Shadows: mirrored copies of requests, answered for comparison alone.

They come to a port of their own, to which a gateway mirrors and sends no client: the port makes a
request a shadow, no header could, so no client can pass its own requests off as shadows. A shadow
is answered by the same model through the same checks and lookups. It has no side effect: it is in
no prediction log, trace or access log, fills no cache, counts for no quota and in none of the
counters that clients' requests are counted in. Its caller is still asked for its key.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tidemill.server.answers import Page, identify
from tidemill.server.app import App
from tidemill.server.connection import Connection
from tidemill.server.guard import Doorkeeper, Guard
from tidemill.server.inference import UNMARKED
from tidemill.server.keys import Permission
from tidemill.server.messages import Response
from tidemill.server.metrics import Metrics
from tidemill.server.observer import Observer
from tidemill.server.operations import Operation
from tidemill.server.protocol import Rejected, encode
from tidemill.server.routes import Call, Choice, Route, Routes, make_route
from tidemill.server.tls import Certificates
from tidemill.server.traffic import Traffic
from tidemill.settings.serving import ServingSettings
from tidemill.workers.listener import BACKLOG

__all__ = ["ShadowListener", "build_shadow_app"]

ANSWERS = Operation("answers", "Tell what was answered lately.", Page)
PATH = "/v2/models/{name}/versions/{version}/answers/{side}/{after}"
POLL_SECONDS = 0.05
"""Between two looks at what is still in flight at the end."""


class ShadowRoutes(Routes):
    """The work that a client may ask for, done as a shadow's, and what was answered."""

    def _table(self) -> list[Route]:
        work = [route for route in super()._table() if route.told.traced]
        return [*work, make_route(PATH, "GET", "admin", self._tell, ANSWERS)]

    def turn_away(self, name: str = "", version: str = "") -> None:
        """Count a shadow that was refused unread."""
        served = self._repository.find(name, version)
        if served is not None:
            served.shadow.counters.turned_away()

    async def _choose(self, name: str, call: Call) -> Choice:
        served = await self._repository.get(name, call.version)
        call.trail.identity = identify(call.headers, call.body)
        return Choice(served, served.shadow.inference, UNMARKED)

    async def _tell(self, call: Call) -> Response:
        served = self._repository.loaded(call.name, call.version)
        sides = {"clients": served.answers, "shadows": served.shadow.answers}
        if call.side not in sides or not call.after.isdecimal():
            message = "expected answers/clients/NUMBER or answers/shadows/NUMBER"
            raise Rejected("not_found", message, 404)
        return Response(200, encode(sides[call.side].page(int(call.after[:18]))))


class Uncounted:
    """Asks for keys as the door it stands before does, and counts nothing."""

    def __init__(self, keys: Doorkeeper) -> None:
        self._keys = keys

    def admit(self, authorization: bytes, needed: Permission) -> str:
        """Let a request with this header pass; raises Rejected."""
        return self._keys.recognise(authorization, needed)

    def recognise(self, authorization: bytes, needed: Permission) -> str:
        """Do the same."""
        return self._keys.recognise(authorization, needed)

    def reload(self) -> None:
        """Leave that to the door itself."""


def build_shadow_app(app: App, settings: ServingSettings) -> App:
    """Return the application of the port for shadows, on the models of `app`."""
    keys = app.guard.keys
    guard = Guard(settings.limits, Uncounted(keys) if keys else None)
    observer = Observer()
    metrics = Metrics(app.repository, observer)
    routes = ShadowRoutes(app.repository, app.orders, metrics, guard, observer, lambda: True)
    return App(app.repository, metrics, guard, observer, app.orders, routes)


class ShadowListener:
    """Implements `process.Beside`: the port for shadows, drained with the one for clients."""

    def __init__(
        self,
        app: App,
        settings: ServingSettings,
        bound: socket.socket,
        certificates: Certificates | None,
        announce: Callable[[str], None],
    ) -> None:
        """`app` is that of the clients; `announce` is told the URL once shadows are taken."""
        self._app = build_shadow_app(app, settings)
        self._traffic = Traffic(self._app, settings)
        self._bound = bound
        self._context = certificates.context if certificates else None
        self._announce = announce

    async def start(self) -> None:
        """Take shadows."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(
            lambda: Connection(self._traffic), sock=self._bound, backlog=BACKLOG, ssl=self._context
        )
        self._ticking = asyncio.create_task(self._tick())
        scheme = "https" if self._context else "http"
        host, port = self._bound.getsockname()[:2]
        self._announce(f"shadows: {scheme}://{host}:{port}")

    async def stop(self, seconds: float) -> None:
        """Take no more; nobody waits for what is under way."""
        self._app.draining = True
        self._ticking.cancel()
        self._listening.close()
        for connection in tuple(self._traffic.connections):
            connection.shutdown()
        rounds = int(seconds / POLL_SECONDS)
        while self._traffic.pending and (rounds := rounds - 1) > 0:
            await asyncio.sleep(POLL_SECONDS)
        for connection in tuple(self._traffic.connections):
            connection.abort()

    async def _tick(self) -> None:
        while True:
            self._traffic.tick()
            await asyncio.sleep(1)
