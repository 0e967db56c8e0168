"""The folder through which processes are declared and observed.

    declared/<name>.json   a ProcessSpec: what should run
    running/<name>.json    pid, start time and specification of what was started
    status.json            what the supervisor last saw
    supervisor.lock        held by the one supervisor

Files are replaced whole, so a reader sees an old or a new one. A pid counts only together with
its start time: a number that the kernel gave to someone else is nobody of ours.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from tidemill.errors import UsageError
from tidemill.files import replace
from tidemill.ports.processes import ProcessSpec, ProcessStatus

__all__ = ["PlatformFolder", "Running"]


@dataclass(frozen=True, slots=True)
class Running:
    """A process that was started, recognisable after its starter is gone."""

    pid: int
    created: float
    """Start time of the process, seconds since the epoch."""
    spec: ProcessSpec

    def process(self) -> psutil.Process | None:
        """Return the live process, or None when it ended or its pid belongs to another."""
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.created) < 0.01
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


class PlatformFolder:
    """Declared, running and observed processes; implements `ports.processes.Processes`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("declared", "running"):
            (folder / name).mkdir(parents=True, exist_ok=True)

    def declare(self, spec: ProcessSpec) -> None:
        """Make `spec` run from now on."""
        if not spec.name.replace("-", "").isalnum():
            raise UsageError(f"'{spec.name}' is no process name: use letters, digits and '-'")
        _write(self.folder / "declared" / f"{spec.name}.json", asdict(spec))

    def withdraw(self, name: str) -> None:
        """Let the process end; an unknown name is no error."""
        (self.folder / "declared" / f"{name}.json").unlink(missing_ok=True)

    def statuses(self) -> dict[str, ProcessStatus]:
        """Return what the supervisor last saw; a declared process it has not seen is starting."""
        seen = {name: ProcessStatus(**body) for name, body in _read(self.status).items()}
        for name in self.declared():
            seen.setdefault(name, ProcessStatus(name, "starting", 0, 0, ""))
        return seen

    @property
    def status(self) -> Path:
        """The supervisor's status file."""
        return self.folder / "status.json"

    @property
    def lock(self) -> Path:
        """The file that the one supervisor holds locked; contains its pid."""
        return self.folder / "supervisor.lock"

    def declared(self) -> dict[str, ProcessSpec]:
        """Return what should run."""
        bodies = (_read(path) for path in sorted((self.folder / "declared").glob("*.json")))
        return {body["name"]: _spec(body) for body in bodies if body}

    def changed(self) -> int:
        """Return when something was last declared or withdrawn, nanoseconds since the epoch.

        Two changes within one tick of the file system's clock return the same.
        """
        return (self.folder / "declared").stat().st_mtime_ns

    def running(self) -> dict[str, Running]:
        """Return what was started and not yet seen to end."""
        bodies = (_read(path) for path in sorted((self.folder / "running").glob("*.json")))
        found = [Running(b["pid"], b["created"], _spec(b["spec"])) for b in bodies if b]
        return {record.spec.name: record for record in found}

    def record(self, running: Running) -> None:
        """Remember a started process."""
        _write(self.folder / "running" / f"{running.spec.name}.json", asdict(running))

    def forget(self, name: str) -> None:
        """Forget a process that ended."""
        (self.folder / "running" / f"{name}.json").unlink(missing_ok=True)

    def publish(self, statuses: dict[str, ProcessStatus]) -> None:
        """Write what was seen."""
        _write(self.status, {name: asdict(status) for name, status in statuses.items()})


def _write(path: Path, body: dict[str, Any]) -> None:
    replace(path, json.dumps(body).encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return body


def _spec(body: dict[str, Any]) -> ProcessSpec:
    return ProcessSpec(**{**body, "argv": tuple(body["argv"])})
