"""The parent: starts the workers, starts those that ended again, and speaks for all of them.

The first worker is started alone: what it is refused for is told once, and ends the server. Then
come the others, and once all were up, none is ready before, whatever ends is started again after a
pause. It holds a listening socket for each worker; that of one which is down is accepted from by
another, so that no connection waits or is reset.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from asyncio.subprocess import Process
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

import msgspec
import structlog

from tidemill.workers.cells import make_file
from tidemill.workers.place import Place
from tidemill.workers.totals import Family, Totals
from tidemill.workers.wire import Gone, Wire

__all__ = ["Parent"]

log = structlog.get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Before a worker that ended is started again, in seconds; doubled each time."""
HEALTHY_SECONDS = 30.0
"""After this long a worker's next pause is the first again."""
COUNT_SECONDS = 1.0
"""Between two looks at the counters: a worker that is killed takes with it what it counted since.
Also the longest wait for one that is busy, of which the last look is shown."""
SILENT_SECONDS = 30.0
"""A worker whose event loop answers nothing for this long hangs, and is killed."""
ORDERS = ("load", "unload")
"""Calls that all workers carry out in the same order."""

_encode = msgspec.msgpack.encode
_families = msgspec.msgpack.Decoder(list[Family]).decode


@dataclass(slots=True)
class Worker:
    """A worker's process that runs."""

    number: int
    process: Process
    wire: Wire = field(init=False)
    up: bool = False
    heard: float = 0.0
    """When it last answered, seconds of the monotonic clock."""


class Parent:
    """Runs `len(sockets)` workers until a signal ends them."""

    def __init__(
        self,
        command: Callable[[Place], Sequence[str]],
        sockets: Sequence[socket.socket],
        grpc_port: int | None,
        announce: Callable[[], None],
    ) -> None:
        """`command` is the argv of a worker; `announce` is called when all of them are up."""
        self._command = command
        self._sockets = sockets
        self._grpc_port = grpc_port
        self._announce = announce
        self._cells = make_file()
        self._workers: dict[int, Worker] = {}
        self._heirs: dict[int, Worker] = {}
        """Who accepts from the socket of a worker that is down."""
        self._totals = Totals()
        self._orders = asyncio.Lock()
        self._handing = asyncio.Lock()
        self._proved = asyncio.Event()
        self._complete = asyncio.Event()
        self._over = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Return the exit status, when every worker has ended."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        watching = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._keep(number) for number in range(len(self._sockets))))
        watching.cancel()
        return self._code

    def _stop(self, number: int) -> None:
        """Have all workers drain on the first signal, end at once on the second."""
        again = self._over.is_set()
        self._end(number)
        if again:
            os._exit(128 + number)

    def _end(self, number: int) -> None:
        """Start none any more, and signal those that run."""
        self._over.set()
        self._proved.set()
        self._complete.set()
        for bound in self._sockets:
            bound.close()
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.process.send_signal(number)

    async def _keep(self, number: int) -> None:
        """Keep one worker running."""
        if number:
            await self._proved.wait()
        pause = FIRST_PAUSE
        while not self._over.is_set():
            began = monotonic()
            status = await self._outlive(number)
            if self._over.is_set():
                self._code = self._code or max(0, status)
            elif not self._complete.is_set():
                self._code = status if status > 0 else 128 - status
                self._end(signal.SIGTERM)
            else:
                pause = FIRST_PAUSE if monotonic() - began > HEALTHY_SECONDS else pause
                log.error("a worker ended", worker=number, status=status, again_in_seconds=pause)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._over.wait(), pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    async def _outlive(self, number: int) -> int:
        """Run a worker to its end; returns its exit status, negative for a signal."""
        worker = await self._start(number)
        self._workers[number] = worker
        if self._over.is_set():
            worker.process.terminate()
        reading = asyncio.create_task(worker.wire.run())
        status = await worker.process.wait()
        await reading
        worker.up = False
        del self._workers[number]
        self._totals.retire(number)
        await self._hand_over()
        return status

    async def _start(self, number: int) -> Worker:
        ours, theirs = socket.socketpair()
        files = tuple(bound.fileno() for bound in self._sockets)
        place = Place(number, theirs.fileno(), self._cells, files, self._grpc_port)
        with theirs:
            # In a session of its own: the terminal's signals come from the parent, and once.
            process = await asyncio.create_subprocess_exec(
                *self._command(place), pass_fds=place.inherited, start_new_session=True
            )
        worker = Worker(number, process)
        worker.wire = await Wire.over(ours, lambda call, body: self._answer(worker, call, body))
        return worker

    async def _answer(self, worker: Worker, call: str, body: bytes) -> bytes:
        """Answer a worker's call; what is not for the parent is for all workers."""
        if call == "up":
            await self._welcome(worker)
            await self._complete.wait()
            return b""
        if call == "totals":
            await self._count()
            return _encode(self._totals.merged())
        if call not in ORDERS:
            return _encode(await self._everyone(call, body))
        async with self._orders:
            return _encode(await self._everyone(call, body))

    async def _welcome(self, worker: Worker) -> None:
        """Tell a worker what stands of the orders that the others carried out, and count it in."""
        async with self._orders:
            for told in await self._everyone("withdrawn", b""):
                await worker.wire.ask("withdraw", told)
            worker.up, worker.heard = True, monotonic()
        await self._hand_over()
        self._proved.set()
        if len(self._up()) == len(self._sockets) and not self._complete.is_set():
            self._complete.set()
            self._announce()

    def _up(self) -> list[Worker]:
        return [worker for worker in self._workers.values() if worker.up]

    async def _everyone(self, call: str, body: bytes) -> list[bytes]:
        """Return the answers of all that are up; who ends meanwhile has none."""
        asked = (worker.wire.ask(call, body) for worker in self._up())
        found = await asyncio.gather(*asked, return_exceptions=True)
        return [answer for answer in found if isinstance(answer, bytes)]

    async def _hand_over(self) -> None:
        """Have each socket accepted from: by its own worker, or by another while that is down."""
        async with self._handing:
            up = {worker.number: worker for worker in self._up()}
            for number in range(len(self._sockets)):
                former = self._heirs.get(number)
                if number in up or self._over.is_set() or not self._complete.is_set():
                    self._heirs.pop(number, None)
                    if former and former.up:
                        await self._ask(former, "release", number)
                elif up and not (former and former.up):
                    self._heirs[number] = heir = next(iter(up.values()))
                    await self._ask(heir, "accept", number)

    async def _ask(self, worker: Worker, call: str, number: int) -> None:
        with suppress(Gone):
            await worker.wire.ask(call, _encode(number))

    async def _count(self) -> None:
        await asyncio.gather(*(self._look(worker) for worker in self._up()))

    async def _look(self, worker: Worker) -> None:
        with suppress(TimeoutError, Gone):
            async with asyncio.timeout(COUNT_SECONDS):
                found = _families(await worker.wire.ask("counters"))
            if worker.up:
                self._totals.take(worker.number, found)
                worker.heard = monotonic()

    async def _watch(self) -> None:
        """Now and then, note what the workers counted, and end those that hang."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            await self._count()
            for worker in self._up():
                if (silent := monotonic() - worker.heard) > SILENT_SECONDS:
                    log.error("a worker hangs and is killed", worker=worker.number, seconds=silent)
                    worker.process.kill()
