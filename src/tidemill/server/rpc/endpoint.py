"""The listening end: limits, TLS, health, reflection, start and stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection, reflection_pb2

from tidemill.errors import Unavailable
from tidemill.server.app import App
from tidemill.server.rpc.calls import Calls
from tidemill.server.rpc.health import Health
from tidemill.server.rpc.schema import SERVICE, pool
from tidemill.server.rpc.service import Service
from tidemill.server.tls import Certificates, Pem
from tidemill.settings.serving import ServingSettings

__all__ = ["Endpoint"]

CLOSING_SECONDS = 0.25
"""From refusing calls to stopping gRPC, which cancels those that come in that moment: a client
hears a reason to go elsewhere first."""
SWEEP_SECONDS = 1.0
"""Between two looks for calls whose message is late."""


class Endpoint:
    """gRPC beside HTTP, on the same event loop: the same models, guard and counters."""

    def __init__(
        self,
        app: App,
        settings: ServingSettings,
        address: tuple[str, int],
        certificates: Certificates | None,
        announce: Callable[[str], None],
        *,
        shared: bool = False,
    ) -> None:
        """`announce` is told the URL once calls are taken; port 0 takes a free one.

        A `shared` port is one that other workers listen on as well.
        """
        self._settings = settings
        self._address = address
        self._certificates = certificates
        self._announce = announce
        self._shared = shared
        ready = lambda: app.ready and not app.draining  # noqa: E731
        self._calls = Calls(Service(app.repository, app.orders, ready).methods, app)
        self._health = Health(app.orders, ready)

    async def start(self) -> None:
        """Take calls; raises Unavailable when the port is taken."""
        self._server = grpc.aio.server(
            handlers=[self._calls], options=_options(self._settings, self._shared)
        )
        add_HealthServicer_to_server(self._health, self._server)
        _reflect(self._server)
        host, port = self._address
        shown = f"[{host}]" if ":" in host else host
        try:
            port = self._bind(f"{shown}:{port}")
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on {shown}:{port} for gRPC",
                hint="choose another port with --grpc-port; 0 takes a free one",
            ) from error
        await self._server.start()
        self._sweeping = asyncio.create_task(self._sweep())
        self._announce(f"{'grpcs' if self._certificates else 'grpc'}://{shown}:{port}")

    async def stop(self, seconds: float) -> None:
        """Take no more calls; those in flight get this long."""
        self._calls.closing = True
        await asyncio.sleep(CLOSING_SECONDS)
        self._health.ended = True
        await self._server.stop(seconds)
        self._sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._sweeping

    def _bind(self, address: str) -> int:
        if self._certificates is None:
            return self._server.add_insecure_port(address)
        return self._server.add_secure_port(address, _credentials(self._certificates))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self._calls.expire()


def _options(settings: ServingSettings, shared: bool) -> list[tuple[str, int]]:
    """Return gRPC's channel arguments for the limits that HTTP has.

    https://grpc.github.io/grpc/core/group__grpc__arg__keys.html
    """
    limits = settings.limits
    idle = settings.keep_alive_seconds * 1000
    return [
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_metadata_size", limits.max_head_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_head_bytes),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_concurrent_streams", limits.max_in_flight + limits.max_waiting),
        ("grpc.server_handshake_timeout_ms", int(limits.head_seconds * 1000)),
        ("grpc.max_connection_idle_ms", idle),
        # A client that vanished without a word is noticed, and its calls end.
        ("grpc.keepalive_time_ms", idle),
        # Identity alone: what a compressed message becomes is not known before it is unpacked.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Otherwise a second server would share a taken port without a word.
        ("grpc.so_reuseport", int(shared)),
    ]


def _reflect(server: grpc.aio.Server) -> None:
    services = [SERVICE]
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
        services += [service.full_name for service in file.services_by_name.values()]
    reflection.enable_server_reflection(services, server, pool)


def _credentials(certificates: Certificates) -> grpc.ServerCredentials:
    """Return credentials that take up a renewed certificate at the next handshake."""
    used = certificates.pem

    def fetch() -> Any:  # typeshed leaves out that None stands for no change
        nonlocal used
        if certificates.pem is used:
            return None
        used = certificates.pem
        return _configuration(used)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used), fetch, require_client_authentication=used.client_ca is not None
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], pem.client_ca)
