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
from typing import Any, Protocol, TextIO, cast

import structlog
import uvloop

from tidemill.server.app import App
from tidemill.server.connection import Connection
from tidemill.server.listener import BACKLOG, turn_away
from tidemill.server.tls import Certificates
from tidemill.server.traffic import Traffic
from tidemill.settings.serving import ServingSettings

__all__ = ["Beside", "forbid_imports", "log_as_json", "serve"]

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


class _StandardError:
    """Standard error that loses a line rather than the server when its disk is full."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()


def log_as_json() -> None:
    """Write this process's events to standard error, one JSON document per line."""
    # gRPC's library would write lines of its own, one for each handshake that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _StandardError())),
        cache_logger_on_first_use=True,
    )


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
        beside: Beside | None,
    ) -> None:
        self._app = app
        self._bound = bound
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
        if self._beside is not None:
            await self._beside.start()
        listening = await loop.create_server(
            lambda: Connection(self._traffic),
            sock=self._bound,
            backlog=BACKLOG,
            ssl=self._context,
            ssl_handshake_timeout=self._settings.limits.head_seconds if self._context else None,
        )
        self._app.ready = True
        ticking = asyncio.create_task(self._tick())
        await self._ended.wait()
        ticking.cancel()
        listening.close()
        ends = [self._drain()]
        if self._beside is not None:
            ends.append(self._beside.stop(self._settings.drain_seconds))
        await asyncio.gather(*ends)

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
        asyncio.get_running_loop().call_later(notice, self._settle)

    def _settle(self) -> None:
        turn_away(self._bound)
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
    beside: Beside | None = None,
) -> None:
    """Serve until a signal ends it; returns when everything accepted was answered and logged."""
    # A full collection over all that is loaded would stall answers for tens of milliseconds.
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_Server(app, bound, settings, certificates, beside).run())
    finally:
        app.repository.close()
        app.observer.close()
    log.info("stopped")
