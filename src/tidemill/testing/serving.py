"""The server's application in this process, on a bundle and fakes of its ports."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from tidemill.ports.features import OnlineReader
from tidemill.ports.objects import ObjectStore
from tidemill.server import (
    App,
    Repository,
    Served,
    build_app,
    build_served,
    load_model,
    warm_up,
)
from tidemill.server.guard import Doorkeeper
from tidemill.server.messages import Request, Response
from tidemill.server.protocol import NONE, Rejected
from tidemill.settings.serving import ServingSettings
from tidemill.testing.clock import FixedClock

__all__ = ["ask", "make_app", "make_repository"]


def make_repository(
    settings: ServingSettings,
    *,
    reader: OnlineReader,
    objects: ObjectStore,
    moment: datetime,
    folder: Path | None = None,
) -> Repository:
    """Return a repository that loads bundles unverified; none is loaded yet."""

    def load(bundle: Path, version: str, name: str) -> Served:
        model = load_model(bundle, version=version, name=name, threads=1)
        warm_up(model, bundle)
        clock = FixedClock(moment)
        return build_served(model, settings, reader=reader, objects=objects, clock=clock)

    return Repository(
        load,
        folder,
        max_bytes=settings.model_memory_mb * 2**20,
        falls_back="previous" in settings.fallback,
    )


def make_app(
    bundle: Path,
    settings: ServingSettings,
    *,
    reader: OnlineReader,
    objects: ObjectStore,
    moment: datetime,
    keys: Doorkeeper | None = None,
    version: str = "1",
) -> tuple[App, Served]:
    """Return an application that is ready to serve one bundle, and what serves it."""
    repository = make_repository(settings, reader=reader, objects=objects, moment=moment)
    repository.add(bundle, version)
    app = build_app(repository, settings, keys)
    app.ready = True
    (served,) = repository
    return app, served


async def ask(
    app: App,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[bytes, bytes] = NONE,
    *,
    pending: int = 0,
) -> Response:
    """Have a request answered as a connection does, without a socket.

    `headers` are by name in lower case; `pending` requests wait before this one.
    """
    request = Request()
    request.method, request.path, request.body, request.headers = method, path, body, dict(headers)
    request.size = len(body)
    try:
        app.admit(request, pending)
    except Rejected as refusal:
        return app.refuse(request, refusal)
    return await app.answer(request)
