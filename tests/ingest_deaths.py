"""Ingests that are killed at any of their effects: `python -m tests.ingest_deaths`.

Each line `ROOT INSTANT N` of the input is a fork, which ingests and validates the project at ROOT
as known at INSTANT, and is killed when it is about to begin effect N; 0 lets it live. A line
answers it: the fork's exit code, and the number of effects it began. An effect is a call that
touches a file or the database; between two of them nothing changes that outlives the process.
"""

from __future__ import annotations

import io
import os
import signal
import sqlite3
import sys
import traceback
from datetime import datetime
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from tidemill.adapters import files as _files  # noqa: F401 - once here, not in every fork
from tidemill.adapters.store import engine as _engine  # noqa: F401
from tidemill.steps.ingest import ingest
from tidemill.steps.validate import validate
from tidemill.wiring import Project

MONTHS = ["2024-01", "2024-02"]
FILES = {"open", "write", "flush", "fsync", "mkdir", "replace", "rename", "unlink", "rmdir"}
STORE = {"execute", "commit", "rollback"}


class Effects:
    """A profiler that counts effects, and kills the process before the one it dies at."""

    def __init__(self, dies_at: int) -> None:
        self.begun = 0
        self._dies_at = dies_at

    def __call__(self, _frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call" or not _is_effect(called):
            return
        self.begun += 1
        if self.begun == self._dies_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _is_effect(called: Any) -> bool:
    name, owner = called.__name__, getattr(called, "__self__", None)
    if isinstance(owner, sqlite3.Cursor | sqlite3.Connection):
        return name in STORE
    of_files = isinstance(owner, ModuleType) and owner.__name__ in {"posix", "io", "_io"}
    return name in FILES and (of_files or isinstance(owner, io.IOBase))


def _ingest(root: Path, as_of: datetime) -> None:
    project = Project.load(root)
    ingest(project.source, project.partitions, project.objects, months=MONTHS, as_of=as_of)
    validate(
        project.partitions,
        project.objects,
        project.contract,
        months=MONTHS,
        as_of=as_of,
        folder=project.paths.raw,
    ).require_valid()


def _fork(root: str, as_of: str, dies_at: str) -> tuple[int, int]:
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # answers are the parent's alone
        try:
            effects = Effects(int(dies_at))
            sys.setprofile(effects)
            _ingest(Path(root), datetime.fromisoformat(as_of))
            sys.setprofile(None)
            os.write(writer, str(effects.begun).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001 - it must not go on as its parent
            traceback.print_exc()
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as answer:
        begun = int(answer.read() or dies_at)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), begun


def main() -> None:
    """Fork for each line of the input."""
    for line in sys.stdin:
        print(*_fork(*line.split()), flush=True)


if __name__ == "__main__":
    main()
