"""The daemon that keeps a node: `python -m tests.cluster.node FOLDER PLANE`.

PLANE is the `ready.json` of the control plane.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.cluster import build, shared
from tests.cluster.addresses import Addresses
from tests.cluster.controlplane import NODE
from tests.cluster.node.node import Plane, running
from tests.cluster.pki import Pair

START = 60.0
"""Seconds until the node must be ready."""


@contextmanager
def in_thread(plane: Plane, folder: Path) -> Iterator[dict[str, Any]]:
    """Run a node in a thread: the main thread waits for the last holder."""
    started: Future[Callable[[], Any]] = Future()
    thread = threading.Thread(target=_run, args=(plane, folder, started))
    thread.start()
    stop = started.result(START)
    try:
        yield {}
    finally:
        stop()
        thread.join()


def _run(plane: Plane, folder: Path, started: Future[Callable[[], Any]]) -> None:
    try:
        asyncio.run(_keep(plane, folder, started))
    except Exception as error:  # noqa: BLE001 - without a node this process has no use
        traceback.print_exc()
        if not started.done():
            started.set_exception(error)
        os.kill(os.getpid(), signal.SIGTERM)


async def _keep(plane: Plane, folder: Path, started: Future[Callable[[], Any]]) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    async with running(NODE, plane, folder):
        started.set_result(lambda: loop.is_closed() or loop.call_soon_threadsafe(stop.set))
        await stop.wait()


def main(folder: Path, ready: Path) -> None:
    """Keep a node of the control plane that wrote `ready`."""
    said = json.loads(ready.read_text())
    pairs = {
        kind: Pair(Path(said[kind]["certificate"]), Path(said[kind]["key"]))
        for kind in ("node", "kubelet", "proxy")
    }
    plane = Plane(
        server=said["server"],
        authority=Path(said["authority"]),
        addresses=Addresses(said["number"]),
        version=build.version("k8s.io/kubernetes"),
        **pairs,
    )
    shared.serve(folder, in_thread(plane, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
