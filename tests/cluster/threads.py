"""Asynchronous work in a thread, while the main thread waits for the last holder."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any

START = 60.0
"""Seconds until the work must have entered its context."""


@contextmanager
def in_thread(work: AbstractAsyncContextManager[None]) -> Iterator[dict[str, Any]]:
    """Enter `work` in a thread with a loop of its own; its failure ends this process."""
    started: Future[Callable[[], Any]] = Future()
    thread = threading.Thread(target=_run, args=(work, started))
    thread.start()
    stop = started.result(START)
    try:
        yield {}
    finally:
        stop()
        thread.join()


def _run(work: AbstractAsyncContextManager[None], started: Future[Callable[[], Any]]) -> None:
    try:
        asyncio.run(_keep(work, started))
    except Exception as error:  # noqa: BLE001 - without its work this process has no use
        traceback.print_exc()
        if not started.done():
            started.set_exception(error)
        os.kill(os.getpid(), signal.SIGTERM)


async def _keep(
    work: AbstractAsyncContextManager[None], started: Future[Callable[[], Any]]
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    async with work:
        started.set_result(lambda: loop.is_closed() or loop.call_soon_threadsafe(stop.set))
        await stop.wait()
