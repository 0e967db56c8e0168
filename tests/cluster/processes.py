"""Child processes with a log each, which end with this process however it ends."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL: what they hold is thrown away with the folder."""


class Processes:
    """Started one after the other, stopped together; NAME.log in `folder` keeps what each said."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, argv: Sequence[str | Path]) -> None:
        """Start a program; the kernel kills it when this process's main thread is gone."""
        tether = [setpriv, "--pdeathsig", "KILL"] if (setpriv := shutil.which("setpriv")) else []
        with self.log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                [*tether, *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                cwd=self._folder, start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> Path:
        """Return where a program's output is."""
        return self._folder / f"{name}.log"

    def check(self) -> None:
        """Raise with the end of its log if any has ended."""
        for name, process in self._running.items():
            if process.poll() is not None:
                tail = self.log(name).read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} ended with {process.returncode}:\n{tail}")

    def stop(self) -> None:
        """Stop all, the last started first."""
        for process in reversed(self._running.values()):
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
            process.kill()
            process.wait()
        self._running.clear()
