"""The folder of one local run: what was asked, what happened, what came out.

request.json    pipeline, parameters, execution settings
settings.json   the resolved settings that every step opens
pipeline.yaml   the compiled definition
events.jsonl    what happened, appended by the runner and its child; all else is derived
run.json        the final result
run.log         everything that was printed; logs/<step>.log the same by step
artifacts/      what the steps wrote
memo/           what finished steps had read and written, for `--resume`
lock            held by the runner and its child: free means that neither is alive
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.errors import Conflict, Unavailable
from tidemill.files import replace as replace_file
from tidemill.ports.runs import RunResult, StepResult

__all__ = ["RunFolder"]

GONE = "its process is gone: it was killed, or the machine restarted"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run's folder."""

    path: Path

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.path.name

    def file(self, name: str) -> Path:
        """Return the path of one of the files above."""
        return self.path / name

    def request(self) -> dict[str, Any]:
        """Return what was asked."""
        body: dict[str, Any] = json.loads(self.file("request.json").read_text())
        return body

    def write_request(self, body: Mapping[str, Any]) -> None:
        """Keep what was asked."""
        content = (json.dumps(body, indent=1) + "\n").encode()
        with self._writing():
            replace_file(self.file("request.json"), content)

    def append(self, event: str, **fields: Any) -> None:
        """Record what happened; a line is written whole or not at all. Raises Unavailable."""
        body = json.dumps({"event": event, "at": time.time(), **fields}, default=str)
        line = f"{body}\n".encode()
        with self._writing(), self.file("events.jsonl").open("ab", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # nobody appends behind a line that is taken back
            end = os.fstat(file.fileno()).st_size
            if file.write(line) < len(line):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def events(self) -> list[dict[str, Any]]:
        """Return what happened so far; a line without its end is still being written."""
        try:
            text = self.file("events.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"the run's folder {self.path} cannot be written: {error.strerror}",
                hint="make room there; the run continues with --resume",
            ) from error

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the run; yields the descriptor that the child inherits. Raises Conflict."""
        descriptor = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise Conflict(
                f"the run {self.run_id} is still running",
                hint=f"tidemill watch {self.run_id}, or tidemill cancel {self.run_id}",
            ) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def alive(self) -> bool:
        """Tell whether the runner or its child lives."""
        try:
            with self.locked():
                return False
        except Conflict:
            return True

    def save(self, result: RunResult) -> None:
        """Write the final result; raises Unavailable."""
        body = asdict(result) | {"work_seconds": result.work_seconds}
        content = (json.dumps(body, indent=1, default=str) + "\n").encode()
        with self._writing():
            replace_file(self.file("run.json"), content)

    def result(self) -> RunResult:
        """Derive the run from what happened in its last attempt."""
        request = self.request()
        run = RunResult(self.run_id, request["pipeline"], "running", request["parameters"])
        started = 0.0
        steps: dict[str, StepResult] = {}
        for event in self.events():
            match event["event"]:
                case "attempt":
                    started, steps = event["at"], {}
                    run = replace(run, state="running", cause="", started_at=_iso(started))
                case "planned":
                    steps = {name: StepResult(name) for name in event["steps"]}
                    run = replace(run, parameters=event["parameters"])
                case "step":
                    fields = {k: v for k, v in event.items() if k not in ("event", "at")}
                    steps[event["name"]] = StepResult(**fields)
                case "ended":
                    if event["state"] != "planned":
                        steps = {
                            n: _closed(s, event["cause"], event["at"]) for n, s in steps.items()
                        }
                    run = replace(
                        run,
                        state=event["state"],
                        cause=event["cause"],
                        outputs=event.get("outputs", {}),
                        wall_seconds=round(event["at"] - started, 3),
                    )
        if run.state == "running" and not self.alive():
            run = replace(run, state="failed", cause=GONE)
            steps = {n: _closed(s, GONE, time.time()) for n, s in steps.items()}
        return replace(run, steps=tuple(steps.values()))


def _closed(step: StepResult, cause: str, at: float) -> StepResult:
    if step.state == "running":
        began = datetime.fromisoformat(step.started_at).timestamp()
        return replace(step, state="failed", cause=cause, wall_seconds=round(at - began, 3))
    return replace(step, state="skipped") if step.state == "pending" else step


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
