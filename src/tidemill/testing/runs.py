"""Pipeline runs that end as they are told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.errors import NotFound
from tidemill.ports.runs import RunResult, RunState, Watcher

__all__ = ["MemoryRuns"]


class MemoryRuns:
    """Implements `ports.runs.Runs`: each launch ends in the next of `ends`, then it succeeds."""

    def __init__(self, *ends: RunState | Exception) -> None:
        self.ends = list(ends)
        self.launched: list[tuple[str, Mapping[str, Any], str]] = []
        """Pipeline, parameters and the run resumed, per launch."""
        self._runs: dict[str, RunResult] = {}

    def launch(
        self,
        pipeline: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        resume: str = "",
        dry_run: bool = False,
        watch: Watcher | None = None,
    ) -> RunResult:
        """Return a run that has ended as told; an exception is raised once it has begun."""
        self.launched.append((pipeline, dict(parameters or {}), resume))
        run_id = resume or f"run-{len(self.launched)}"
        begun = RunResult(run_id, pipeline, "running", dict(parameters or {}))
        if watch is not None and not dry_run:
            watch(begun)
        end = self.ends.pop(0) if self.ends else "succeeded"
        if isinstance(end, Exception):
            raise end
        cause = "" if end == "succeeded" else f"it {end}"
        self._runs[run_id] = RunResult(run_id, pipeline, end, begun.parameters, cause=cause)
        return self._runs[run_id]

    def status(self, run_id: str) -> RunResult:
        """Return a run; raises NotFound."""
        if run_id not in self._runs:
            raise NotFound.among("run", run_id, self._runs)
        return self._runs[run_id]

    def log(self, run_id: str, step: str) -> str:
        """Return nothing: these steps print nothing."""
        return f"{self.status(run_id).run_id} {step}"

    def cancel(self, run_id: str) -> None:
        """Do nothing: every run has ended."""
