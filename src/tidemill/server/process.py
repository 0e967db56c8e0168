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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Protocol, TextIO, cast

import structlog
import uvicorn
import uvloop

from tidemill.server.app import App
from tidemill.server.connection import Connection
from tidemill.server.listener import BACKLOG, turn_away
from tidemill.server.tls import Certificates
from tidemill.settings.serving import ServingSettings

__all__ = ["Beside", "forbid_imports", "log_as_json", "serve"]

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.25
"""From turning new connections away to closing the socket: longer than a handshake takes."""
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

    pyarrow imports pandas, where it is installed, at the first array: 1.6 CPU seconds and 50 MB.
    """
    sys.meta_path.insert(0, _Forbid())


class _Server(uvicorn.Server):
    """uvicorn with the drain of this module."""

    def __init__(
        self,
        config: uvicorn.Config,
        app: App,
        bound: socket.socket,
        notice_seconds: float,
        reloads: Sequence[Callable[[], None]],
        beside: Beside | None,
    ) -> None:
        super().__init__(config)
        self._app = app
        self._bound = bound
        self._notice_seconds = notice_seconds
        self._reloads = reloads
        self._beside = beside

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and be ready."""
        await super().startup(sockets)
        if self._beside is not None:
            await self._beside.start()
        self._app.ready = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in flight, here and beside, in the same time."""
        ends = [super().shutdown(sockets)]
        if self._beside is not None:
            ends.append(self._beside.stop(self.config.timeout_graceful_shutdown or 0))
        await asyncio.gather(*ends)

    async def on_tick(self, counter: int) -> bool:
        """Once a second, look for files that changed; uvicorn calls this ten times a second."""
        if counter % 10 == 0:
            for reload in self._reloads:
                reload()
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain on the first signal, end on the second."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        yield

    def _stop(self, number: int) -> None:
        if self._app.draining:
            os._exit(128 + number)
        log.info("draining", notice_seconds=self._notice_seconds)
        self._app.draining = True
        asyncio.get_running_loop().call_later(self._notice_seconds, self._settle)

    def _settle(self) -> None:
        turn_away(self._bound)
        asyncio.get_running_loop().call_later(SETTLE_SECONDS, self._end)

    def _end(self) -> None:
        self.should_exit = True


def serve(
    app: App,
    bound: socket.socket,
    settings: ServingSettings,
    certificates: Certificates | None = None,
    beside: Beside | None = None,
) -> None:
    """Serve until a signal ends it; returns when everything accepted was answered and logged."""
    reloads = [part.reload for part in (app.guard.keys, certificates) if part is not None]
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        backlog=BACKLOG,
        server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.drain_seconds,
    )
    if certificates is not None:
        config.load()
        config.ssl = certificates.context
    # A full collection over all that is loaded would stall answers for tens of milliseconds.
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        server = _Server(config, app, bound, settings.notice_seconds, reloads, beside)
        runner.run(server.serve([bound]))
    app.repository.close()
    log.info("stopped")
