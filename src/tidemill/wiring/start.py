"""How a deployment is started: alone in this process, or by a parent with a worker per core."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from tidemill.workers.listener import listen, listen_together, reserve
from tidemill.workers.place import Place

if TYPE_CHECKING:
    from tidemill.wiring.deployment import Deployment
    from tidemill.wiring.project import Project
    from tidemill.wiring.serving import ServingParts

__all__ = ["run_workers", "serve_alone", "serve_as_worker"]

log = structlog.get_logger()
Announce = Callable[[str], None]
"""Is told each URL that is served."""


def serve_alone(project: ServingParts, wanted: Deployment, announce: Announce) -> None:
    """Serve in this process until a signal ends it; raises what a start is refused for."""
    _serve(project, wanted, announce, lambda: listen(wanted.host, wanted.port))


def serve_as_worker(project: ServingParts, wanted: Deployment, place: Place) -> None:
    """Serve in this process as one of the workers that `run_workers` starts."""
    from tidemill.workers.member import Member

    project.crew = crew = Member(place)
    _serve(project, wanted, lambda _: None, crew.listening)


def run_workers(project: Project, wanted: Deployment, announce: Announce) -> int:
    """Run the workers until a signal ends them, serve nothing here; return the exit status."""
    from tidemill.workers.parent import Parent

    count = project.settings.serving.workers
    if wanted.shadow_port is not None:
        log.warning("mirrored requests are not taken", workers=count, needed=1)
    sockets = listen_together(wanted.host, wanted.port, count)
    port = sockets[0].getsockname()[1]
    secure = "s" if project.settings.serving.tls.cert else ""
    urls = [f"http{secure}://{wanted.host}:{port}"]
    grpc_port = None
    if wanted.grpc_port is not None:
        reserved = reserve(wanted.host, wanted.grpc_port, "--grpc-port")
        grpc_port = reserved.getsockname()[1]
        urls.append(f"grpc{secure}://{wanted.host}:{grpc_port}")
    parent = Parent(
        lambda place: (*_command(project, wanted, port), f"--worker={place}"),
        sockets,
        grpc_port,
        lambda: announce("\n".join(urls)),
    )
    return asyncio.run(parent.run())


def _command(project: Project, wanted: Deployment, port: int) -> tuple[str, ...]:
    """Return the argv of a worker, without its place."""
    kind = "--repository" if wanted.repository else "--bundle"
    words = ["serve", kind, str(wanted.source), "--host", wanted.host, "--port", str(port)]
    words.append("--verify" if wanted.verify else "--no-verify")
    if not wanted.repository:
        words += ["--version", wanted.version, "--name", wanted.name]
    return project.command(*words)


def _serve(
    project: ServingParts,
    wanted: Deployment,
    announce: Announce,
    bind: Callable[[], socket.socket],
) -> None:
    from tidemill import server

    server.forbid_imports()
    settings = project.settings.serving
    server.refuse_exposure(wanted.host, settings)
    certificates = project.certificates
    models = project.repository(wanted.source if wanted.repository else None, verify=wanted.verify)
    if wanted.repository:
        models.fill()
    else:
        models.add(wanted.source, wanted.version, wanted.name)
    bound = bind()
    scheme = "https" if certificates else "http"
    announce("{}://{}:{}".format(scheme, *bound.getsockname()[:2]))
    app = project.server(models)
    crew = project.crew
    grpc_port = crew.grpc_port if crew else wanted.grpc_port
    beside: list[server.Beside] = []
    if grpc_port is not None:
        beside.append(project.grpc(app, (wanted.host, grpc_port), announce))
    if wanted.shadow_port is not None:
        shadows = listen(wanted.host, wanted.shadow_port, "--shadow-port")
        beside.append(server.ShadowListener(app, settings, shadows, certificates, announce))
    server.serve(app, bound, settings, certificates, beside, crew)
