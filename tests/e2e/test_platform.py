"""`tidemill up`, `status`, `down` on a new project: every real process, killed and back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.servers import free_port

from tidemill.adapters.reference import copy_reference
from tidemill.local.supervisor import MARK

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from tidemill.cli import main; main()"]
PROCESSES = {"mlflow", "gateway", "controller", "features", "labels", "monitor", "retrain"}


@dataclass(frozen=True, slots=True)
class Place:
    """A project whose platform listens on ports of its own."""

    root: Path
    options: tuple[str, ...]
    ports: dict[str, int]
    """Of the processes that serve one."""

    def tidemill(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [*COMMAND, *words, "--project", str(self.root), *self.options]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240)

    def status(self) -> tuple[int, dict[str, Any]]:
        done = self.tidemill("status", "--json")
        return done.returncode, json.loads(done.stdout)

    def pids(self) -> dict[str, int]:
        """Return process → pid, 0 while it is not ready."""
        seen = json.loads((self.root / ".tidemill" / "platform" / "status.json").read_text())
        return {n: s["pid"] if s["state"] == "ready" else 0 for n, s in seen.items()}

    def processes(self) -> list[int]:
        """Return every process of this project, the supervisor too, however it was started."""
        return [process.pid for process in psutil.process_iter() if self.owns(process)]

    def owns(self, process: psutil.Process) -> bool:
        folder = str(self.root / ".tidemill" / "platform")
        try:
            return process.environ().get(MARK) == folder or folder in process.cmdline()
        except psutil.Error:
            return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    root = tmp_path / "late-flights"
    copy_reference(root)
    ports = {"mlflow": free_port(), "gateway": free_port()}
    values = {
        "registry.uri": f"http://127.0.0.1:{ports['mlflow']}",
        "gateway.port": ports["gateway"],
        "gateway.admin_port": free_port(),
    }
    made = Place(root, tuple(f"--set={key}={value}" for key, value in values.items()), ports)
    yield made
    for pid in made.processes():
        os.kill(pid, signal.SIGKILL)


def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.2)


def test_everything_comes_back_and_everything_ends(place: Place) -> None:
    up = place.tidemill("up")
    assert up.returncode == 0, up.stdout + up.stderr
    code, seen = place.status()
    assert code == 0
    assert set(seen["processes"]) == PROCESSES
    assert all(Path(process["log"]).exists() for process in seen["processes"].values())
    ports = {name: process["port"] for name, process in seen["processes"].items()}
    assert ports == dict.fromkeys(PROCESSES, 0) | place.ports

    first = place.pids()
    for pid in first.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: all(pid not in (0, first[name]) for name, pid in place.pids().items()))

    os.kill(seen["supervisor"], signal.SIGKILL)
    until(lambda: not psutil.pid_exists(seen["supervisor"]))
    assert place.status()[0] == 1
    second = place.pids()
    up = place.tidemill("up")
    assert up.returncode == 0, up.stdout + up.stderr
    assert place.pids() == second, "a new supervisor adopts what runs"

    code, seen = place.status()
    assert code == 0
    assert {process["pid"] for process in seen["processes"].values()} < set(place.processes())
    assert place.tidemill("up").returncode == 0
    assert place.status()[1]["supervisor"] == seen["supervisor"]
    assert place.pids() == second

    down = place.tidemill("down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert place.processes() == []
    assert place.status()[0] == 1
