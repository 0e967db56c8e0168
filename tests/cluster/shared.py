"""One daemon for all processes of a test run: started by the first, gone after the last.

Each holder has a shared lock on the folder's `lease`; the daemon waits for the exclusive one. The
kernel releases the lock of a process that was killed, so nobody has to count.
"""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
START = 120.0
"""Seconds that a daemon may take until it is ready."""
STOP = 15.0
"""Seconds that the last holder waits for the end of the daemon."""


@contextmanager
def held(folder: Path, module: str, arguments: Sequence[str | Path]) -> Iterator[dict[str, Any]]:
    """Run `python -m module folder arguments...` if nobody does, and yield what it said when ready.

    Raises:
        RuntimeError: It ended before that; its log's end is in the message.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ready = folder / "ready.json"
    with (folder / "lease").open("a") as lease:
        with (folder / "gate").open("a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(lease, fcntl.LOCK_SH)  # waits while a daemon is stopping
            if not ready.exists():
                _start(folder, ready, module, arguments)
        yield json.loads(ready.read_text())
        last = _alone(lease)
    deadline = time.monotonic() + STOP
    while last and ready.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def _alone(lease: IO[str]) -> bool:
    """Return whether no other process holds the lease."""
    try:
        fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(folder: Path, ready: Path, module: str, arguments: Sequence[str | Path]) -> None:
    log = folder / "daemon.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", module, folder, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C is for the holders: it outlives the last of them
        )
    deadline = time.monotonic() + START
    while not ready.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise RuntimeError(f"{module} never got ready:\n{log.read_text()[-4000:]}")
        time.sleep(0.05)
    # Not this process's to wait for: another holder may be the last. Else Popen would complain.
    process.returncode = 0


def serve(folder: Path, running: AbstractContextManager[dict[str, Any]]) -> None:
    """In the daemon: enter `running`, tell the holders what it yields, leave it after the last."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ready = folder / "ready.json"
    with (folder / "lease").open("a") as lease:
        try:
            with running as said:
                fresh = ready.with_suffix(".new")
                fresh.write_text(json.dumps(said, default=str))
                fresh.replace(ready)
                fcntl.flock(lease, fcntl.LOCK_EX)
        finally:
            ready.unlink(missing_ok=True)  # before the lock goes: who waits for it starts anew
