"""The process: listen, serve, drain.

After SIGTERM the server is no longer ready and tells every client to close its connection, but goes
on accepting for a while, so that a gateway sees it first. Then it turns new connections away, takes
those that already wait, stops listening, finishes what is in flight, writes the prediction log and
ends. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any, Protocol

import msgspec
import structlog
import uvloop

from tidemill.server.app import App
from tidemill.server.connection import Connection
from tidemill.server.crew import Crew
from tidemill.server.tls import Certificates
from tidemill.server.traffic import Traffic
from tidemill.settings.serving import ServingSettings
from tidemill.workers.listener import BACKLOG, turn_away

__all__ = ["Beside", "forbid_imports", "serve"]

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.25
"""From turning new connections away to closing the socket: longer than a handshake takes."""
POLL_SECONDS = 0.05
"""Between two looks at what is still in flight while it drains."""
SWITCH_SECONDS = 0.0005
"""An answer waits so long, not Python's 5 ms, for a log's thread that holds the interpreter."""
FORBIDDEN = frozenset({"torch", "mlflow", "feast", "kfp", "evidently", "pandas"})


class Beside(Protocol):
    """What listens beside HTTP and is drained with it."""

    async def start(self) -> None:
        """Take requests."""
        ...

    async def stop(self, seconds: float) -> None:
        """Take no more; those in flight get this long."""
        ...


class _Forbid(MetaPathFinder):
    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - importlib's signature
        target: ModuleType | None = None,  # noqa: ARG002 - importlib's signature
    ) -> None:
        """Refuse a module of the training side."""
        if fullname.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"the server's process does not load {fullname}")


def forbid_imports() -> None:
    """Keep the training side's libraries out of this process for good.

    Some import each other where they are installed: pandas is 1.6 CPU seconds and 50 MB.
    """
    sys.meta_path.insert(0, _Forbid())


class _Server:
    """Accepts connections until a signal, and drains them."""

    def __init__(
        self,
        app: App,
        bound: socket.socket,
        settings: ServingSettings,
        certificates: Certificates | None,
        beside: Sequence[Beside],
        crew: Crew | None,
    ) -> None:
        self._app = app
        self._bound = bound
        self._crew = crew
        self._inherited: dict[int, tuple[socket.socket, asyncio.Server]] = {}
        """Listening sockets of workers that are down, which this one accepts from."""
        self._settings = settings
        self._beside = beside
        self._context = certificates.context if certificates else None
        self._reloads = [part.reload for part in (app.guard.keys, certificates) if part is not None]
        self._traffic = Traffic(app, settings)

    async def run(self) -> None:
        """Serve; returns when a signal ended it and nothing more is under way."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report)
        self._ended = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        if self._crew is not None:
            self._parent = await self._crew.connect(self._answer)
            self._parent.add_done_callback(lambda _: self._orphaned())
        for part in self._beside:
            await part.start()
        listening = await self._listen(self._bound)
        starting = asyncio.create_task(self._begin())
        ticking = asyncio.create_task(self._tick())
        await self._ended.wait()
        for task in (starting, ticking):
            task.cancel()
        listening.close()
        for _, server in self._inherited.values():
            server.close()
        seconds = self._settings.drain_seconds
        await asyncio.gather(self._drain(), *(part.stop(seconds) for part in self._beside))

    async def _listen(self, bound: socket.socket) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            lambda: Connection(self._traffic),
            sock=bound,
            backlog=BACKLOG,
            ssl=self._context,
            ssl_handshake_timeout=self._settings.limits.head_seconds if self._context else None,
        )

    async def _begin(self) -> None:
        """Be ready, once all other workers are up as well."""
        if self._crew is not None:
            await self._crew.up()
        self._app.ready = True

    async def _answer(self, call: str, body: bytes) -> bytes:
        """Answer the parent of the workers."""
        if call == "accept" and not self._app.draining:
            assert self._crew is not None
            number = msgspec.msgpack.decode(body, type=int)
            bound = self._crew.listening(number)
            self._inherited[number] = bound, await self._listen(bound)
        elif call == "release":
            _, server = self._inherited.pop(msgspec.msgpack.decode(body, type=int))
            server.close()
        else:
            return await self._app.orders.answer(call, body)
        return b""

    def _orphaned(self) -> None:
        """Drain when the parent has died; a signal of it would come first."""
        if not self._app.draining:
            log.error("the parent of the workers is gone, this one ends")
            self._stop(signal.SIGTERM)

    async def _tick(self) -> None:
        """Once a second, tell the time and look for files that changed."""
        while True:
            self._traffic.tick()
            for reload in self._reloads:
                try:
                    reload()
                except Exception:  # else none would be read again, and nobody would notice
                    log.exception("a reload failed, what was in force stays")
            await asyncio.sleep(1)

    def _stop(self, number: int) -> None:
        """Drain on the first signal, end on the second."""
        if self._app.draining:
            os._exit(128 + number)
        notice = self._settings.notice_seconds
        log.info("draining", notice_seconds=notice)
        self._app.draining = True
        if self._crew is not None:
            self._crew.let_go()
        asyncio.get_running_loop().call_later(notice, self._settle)

    def _settle(self) -> None:
        for bound in (self._bound, *(inherited for inherited, _ in self._inherited.values())):
            turn_away(bound)
        asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._ended.set)

    async def _drain(self) -> None:
        """Let what is in flight be answered, for a while."""
        for connection in tuple(self._traffic.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_seconds):
                while not self._traffic.idle:
                    await asyncio.sleep(POLL_SECONDS)
        if late := len(self._traffic.connections):
            log.error("connections were cut at the end", connections=late)
        for connection in tuple(self._traffic.connections):
            connection.abort()


def _report(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    log.error("event loop: " + str(context.get("message")), exc_info=context.get("exception"))


def serve(
    app: App,
    bound: socket.socket,
    settings: ServingSettings,
    certificates: Certificates | None = None,
    beside: Sequence[Beside] = (),
    crew: Crew | None = None,
) -> None:
    """Serve until a signal ends it; returns when everything accepted was answered and logged.

    With a `crew` this is one of its workers, and `bound` its own listening socket.
    """
    # A full collection over all that is loaded would stall answers for tens of milliseconds.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Server(app, bound, settings, certificates, beside, crew).run())
    finally:
        app.repository.close()
        app.observer.close()
    log.info("stopped")
