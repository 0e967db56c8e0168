"""The kubelet's own port, which the API server asks for logs."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from aiohttp import web
from tests.cluster.node.container import Container
from tests.cluster.node.kubelet import Kubelet
from tests.cluster.pki import Pair

POLL = 0.1
"""Seconds between looks at a log that somebody follows."""


async def serve_logs(
    kubelet: Kubelet, address: tuple[str, int], authority: Path, identity: Pair
) -> web.AppRunner:
    """Serve `kubectl logs` to who has a certificate of the cluster's authority."""

    async def logs(request: web.Request) -> web.StreamResponse:
        found = request.match_info
        pod = kubelet.find(found["namespace"], found["pod"])
        container = pod.find(found["container"]) if pod else None
        if container is None:
            raise web.HTTPNotFound(text="no such container on this node")
        return await _answer(request, container)

    trust = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority))
    trust.load_cert_chain(identity.certificate, identity.key)
    trust.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", logs)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, *address, ssl_context=trust, shutdown_timeout=0).start()
    return runner


async def _answer(request: web.Request, container: Container) -> web.StreamResponse:
    log = container.log(previous=request.query.get("previous") == "true")
    if not log.exists():
        raise web.HTTPNotFound(text="the container has not run yet")
    answer = web.StreamResponse()
    await answer.prepare(request)
    with log.open("rb") as stream:
        lines = stream.readlines()
        wanted = int(request.query.get("tailLines", len(lines)))
        await answer.write(b"".join(lines[max(len(lines) - wanted, 0) :]))
        ended = request.query.get("follow") != "true"
        while not ended:
            ended = container.log() != log or container.ended
            await answer.write(stream.read())
            await asyncio.sleep(POLL)
    return answer
