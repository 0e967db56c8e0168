"""ClusterIPs: connections to them go to a ready endpoint, each to the next."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from tests.cluster.node.network import Bridge
from tests.cluster.node.services import Address, Port, Services

CONNECT = 3.0
"""Seconds until an endpoint that does not answer is passed over."""
CHUNK = 1 << 16
"""Bytes read at once."""


class Proxy:
    """One listener for each ClusterIP and port, on addresses of the bridge."""

    def __init__(self, services: Services, bridge: Bridge) -> None:
        self._services, self._bridge = services, bridge
        self._listeners: dict[Address, tuple[Port, asyncio.Server]] = {}
        self.synced = asyncio.Event()
        """Set when it has listened for the first time: names resolve by then, too."""

    async def run(self, changed: asyncio.Event) -> None:
        """Follow the services for ever."""
        while True:
            await changed.wait()
            changed.clear()
            await self._sync()
            self.synced.set()

    async def _sync(self) -> None:
        """Listen on what has a ready endpoint, and on nothing else."""
        wanted = self._services.listening()
        for address, (port, server) in list(self._listeners.items()):
            if wanted.get(address) != port:
                server.close()
                del self._listeners[address]
        for address, port in wanted.items():
            if address not in self._listeners:
                await self._listen(address, port)

    async def _listen(self, address: Address, port: Port) -> None:
        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await _forward(reader, writer, self._services.endpoints(port))

        await self._bridge.add_service(address[0])
        self._listeners[address] = port, await asyncio.start_server(forward, *address)


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, endpoints: Sequence[Address]
) -> None:
    for endpoint in endpoints:
        with contextlib.suppress(OSError, TimeoutError):
            far = await asyncio.wait_for(asyncio.open_connection(*endpoint), CONNECT)
            await asyncio.gather(_pump(reader, far[1]), _pump(far[0], writer))
            far[1].close()
            writer.close()
            return
    writer.transport.abort()  # a reset


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes, and its end."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
