"""`grpc.health.v1.Health`: the server, its service, and each model under its name.

grpcio-health-checking's own servicer keeps what it was last told, and forgets all who watch a
service when one of them leaves; this one looks at the server whenever it answers.
https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer

from tidemill.server.orders import Orders
from tidemill.server.protocol import Rejected
from tidemill.server.rpc.schema import SERVICE

__all__ = ["Health"]

WATCH_SECONDS = 0.1
"""Between two looks at what somebody watches: a fraction of `serving.notice_seconds`."""


class Health(HealthServicer):
    """Tells what serves; watches end with `ended`, or they would hold the drain to its limit."""

    def __init__(self, orders: Orders, ready: Callable[[], bool]) -> None:
        self.ended = False
        self._orders = orders
        self._ready = ready

    async def Check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:  # noqa: N802
        """Answer once; NOT_FOUND for a service that is not known."""
        status = await self._status(request.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            what = f"there is no service '{request.service:.80}'"
            await context.abort(grpc.StatusCode.NOT_FOUND, what)
        return HealthCheckResponse(status=status)

    async def Watch(self, request: HealthCheckRequest, context: Any) -> None:  # noqa: N802
        """Answer now, and whenever it changes."""
        told = None
        while not self.ended:
            status = await self._status(request.service)
            if status != told:
                await context.write(HealthCheckResponse(status=status))
                told = status
            await asyncio.sleep(WATCH_SECONDS)

    async def _status(self, service: str) -> Any:
        """Return a ServingStatus."""
        try:
            ready = service in ("", SERVICE) or await self._orders.ready(service)
        except Rejected:
            return HealthCheckResponse.SERVICE_UNKNOWN
        if ready and self._ready():
            return HealthCheckResponse.SERVING
        return HealthCheckResponse.NOT_SERVING
