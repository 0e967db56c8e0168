"""Runs on this machine: KFP's local runner in a child process, without Docker or a cluster."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill import errors
from tidemill.adapters.kfp.parameters import context
from tidemill.adapters.kfp.record import RunFolder
from tidemill.errors import NotFound, TidemillError, UsageError
from tidemill.ports.clock import Clock
from tidemill.ports.runs import RunResult, Watcher
from tidemill.settings.execution import ExecutionSettings

__all__ = ["LocalRuns"]

LOOK_SECONDS = 0.1
"""Time between two looks at the child."""
GRACE_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL when a run is stopped."""


@dataclass(frozen=True, slots=True)
class LocalRuns:
    """The runs of one project on this machine, one folder each."""

    root: Path
    folder: Path
    execution: ExecutionSettings
    save_settings: Callable[[Path], Path]
    clock: Clock

    def launch(
        self,
        pipeline: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        resume: str = "",
        dry_run: bool = False,
        watch: Watcher | None = None,
    ) -> RunResult:
        """Run a pipeline to its end; see `tidemill.ports.runs.Runs`.

        A resumed run may get other parameters: the steps that read them run again, and no others.
        Parameters named `config`, `as_of`, `correlation_id` and `git_commit` that are not given are
        the resolved settings, the clock's instant, the run's id and the project's commit.
        """
        if resume and dry_run:
            raise UsageError(
                "a resumed run cannot be a dry run",
                hint=f"leave --dry-run out, or see where it stands: tidemill watch {resume}",
            )
        if resume:
            run = self._reopen(resume, pipeline, parameters or {})
        else:
            run = self._create(pipeline, parameters or {}, dry_run)
        with run.locked() as lock:
            try:
                self._attend(run, lock, watch or _unwatched)
            finally:
                run.save(result := run.result())
            error = _error(run)
            if dry_run or (error and not resume):
                shutil.rmtree(run.path)
        if error:
            raise error
        return result

    def status(self, run_id: str) -> RunResult:
        """Return a run as it is now; raises NotFound."""
        return self._find(run_id).result()

    def log(self, run_id: str, step: str) -> str:
        """Return what a step printed, over all attempts; raises NotFound."""
        logs = {s.name: s.log for s in self.status(run_id).steps if s.log}
        if step not in logs or not Path(logs[step]).exists():
            raise NotFound.among(f"step of {run_id} with a log", step, logs)
        return Path(logs[step]).read_text(errors="replace")

    def cancel(self, run_id: str) -> None:
        """Stop a run, whoever launched it; its launcher records the end."""
        run = self._find(run_id)
        if run.alive():
            leader = [event["pid"] for event in run.events() if event["event"] == "spawned"][-1]
            _stop(leader, lambda: not run.alive())

    def _find(self, run_id: str) -> RunFolder:
        known = [path.name for path in self.folder.glob("*/") if (path / "request.json").exists()]
        if run_id not in known:
            raise NotFound.among("run", run_id, known)
        return RunFolder(self.folder / run_id)

    def _create(self, pipeline: str, parameters: Mapping[str, Any], dry_run: bool) -> RunFolder:
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        run = RunFolder(self.folder / f"{pipeline}-{stamp}-{secrets.token_hex(2)}")
        run.path.mkdir(parents=True)
        config = self.save_settings(run.file("settings.json"))
        request = {
            "pipeline": pipeline,
            "parameters": dict(parameters),
            "context": context(self.root, str(config), self.clock.now(), run.run_id),
            "root": str(self.root),
            "execution": self.execution.model_dump(mode="json"),
            "dry_run": dry_run,
        }
        run.write_request(request)
        return run

    def _reopen(self, run_id: str, pipeline: str, parameters: Mapping[str, Any]) -> RunFolder:
        run = self._find(run_id)
        result = run.result()
        if result.pipeline != pipeline:
            raise UsageError(
                f"{run_id} is a run of '{result.pipeline}', not of '{pipeline}'",
                hint=f"tidemill run {result.pipeline} --resume {run_id}",
            )
        if result.state == "succeeded":
            raise UsageError(
                f"{run_id} has succeeded: nothing is left to resume",
                hint="start a new run: leave --resume out",
            )
        request = run.request()
        request["parameters"] |= parameters
        run.write_request(request)
        return run

    def _attend(self, run: RunFolder, lock: int, watch: Watcher) -> None:
        run.append("attempt")
        child = _spawn(run, self.root, lock)
        run.append("spawned", pid=child.pid)
        deadline = time.monotonic() + self.execution.timeout_seconds
        try:
            seen = 0
            while child.poll() is None:
                time.sleep(LOOK_SECONDS)
                size = run.file("events.jsonl").stat().st_size
                if size != seen:
                    seen = size
                    watch(run.result())
                if time.monotonic() > deadline:
                    _stop(child.pid, lambda: child.poll() is not None)
                    limit = f"{self.execution.timeout_seconds:g} s"
                    run.append("ended", state="timed_out", cause=f"not done after {limit}")
        except BaseException:
            _stop(child.pid, lambda: child.poll() is not None)
            run.append("ended", state="cancelled", cause="interrupted")
            watch(run.result())
            raise
        finally:
            _kill(child.pid, signal.SIGKILL)
            child.communicate()
            for name in ("tmp", "workspace"):
                shutil.rmtree(run.file(name), ignore_errors=True)
        if run.result().state == "running":
            run.append("ended", **_death(run, child.returncode))
        watch(run.result())


def _unwatched(_: RunResult) -> None:
    return


def _spawn(run: RunFolder, root: Path, lock: int) -> subprocess.Popen[bytes]:
    temporary = run.file("tmp")
    temporary.mkdir(exist_ok=True)
    with run.file("run.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tidemill.adapters.kfp.child", str(run.path)],
            cwd=root,
            env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock,),
        )


def _stop(leader: int, ended: Callable[[], bool]) -> None:
    """End the session of `leader`, first asking."""
    _kill(leader, signal.SIGTERM)
    limit = time.monotonic() + GRACE_SECONDS
    while not ended() and time.monotonic() < limit:
        time.sleep(LOOK_SECONDS)
    _kill(leader, signal.SIGKILL)


def _kill(leader: int, number: signal.Signals) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return


def _death(run: RunFolder, code: int) -> dict[str, str]:
    if code == -signal.SIGTERM:
        return {"state": "cancelled", "cause": "cancelled"}
    how = f"killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    last = [line for line in run.file("run.log").read_text().splitlines() if line.strip()][-1:]
    return {"state": "failed", "cause": ": ".join([f"the runner was {how}", *last])}


def _error(run: RunFolder) -> TidemillError | None:
    """Return the mistake because of which the last attempt ran no step."""
    body = run.events()[-1].get("error")
    if body is None:
        return None
    kind: type[TidemillError] = getattr(errors, body["type"])
    if issubclass(kind, errors.MissingExtra):
        return TidemillError(body["message"], hint=body["hint"])
    return kind(body["message"], hint=body["hint"])
