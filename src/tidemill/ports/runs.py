"""Pipeline runs: started, watched and stopped the same way on one machine and on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

__all__ = ["RunResult", "RunState", "Runs", "StepResult", "StepState", "Watcher"]

RunState = Literal["planned", "running", "succeeded", "failed", "refused", "timed_out", "cancelled"]
"""`planned`: a dry run. `refused`: a rule said no about the model (a gate). Others are `failed`."""
StepState = Literal["pending", "running", "succeeded", "reused", "failed", "skipped"]
"""`reused`: finished in an earlier attempt of the same run, with the same inputs and code."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step of a run."""

    name: str
    state: StepState = "pending"
    started_at: str = ""
    """ISO 8601, UTC, wall clock."""
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    """User and system time of the step's processes; 0 where the platform does not tell."""
    cause: str = ""
    """What failed: the step's last exception."""
    log: str = ""
    """File with what it printed, on one machine."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """Values it returned, on one machine; a single one is called `Output`."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run as last seen."""

    run_id: str
    pipeline: str
    state: RunState
    parameters: Mapping[str, Any] = field(default_factory=dict)
    started_at: str = ""
    wall_seconds: float = 0.0
    steps: tuple[StepResult, ...] = ()
    """In the order in which they run."""
    outputs: Mapping[str, Any] = field(default_factory=dict)
    """The pipeline's outputs; an artifact is its URI."""
    cause: str = ""
    """Why the run did not succeed: the failed step and its last exception."""

    def step(self, name: str) -> StepResult:
        """Return the step `name`; raises KeyError."""
        return {step.name: step for step in self.steps}[name]

    @property
    def work_seconds(self) -> float:
        """Wall time in which a step was at work; the rest of `wall_seconds` is orchestration."""
        spans = [
            (datetime.fromisoformat(step.started_at).timestamp(), step.wall_seconds)
            for step in self.steps
            if step.started_at and step.state != "reused"
        ]
        total = until = 0.0
        for begin, seconds in sorted(spans):  # steps may run side by side
            total += max(0.0, begin + seconds - max(begin, until))
            until = max(until, begin + seconds)
        return round(total, 3)


Watcher = Callable[[RunResult], None]
"""Called with the run whenever something about it changed."""


class Runs(Protocol):
    """Where pipelines run."""

    def launch(
        self,
        pipeline: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        resume: str = "",
        dry_run: bool = False,
        watch: Watcher | None = None,
    ) -> RunResult:
        """Run a pipeline to its end and return how it ended; a failed run is no exception.

        `resume` is the id of a run that did not succeed: its finished steps are not run again.
        `dry_run` compiles, checks and returns the steps, and runs none.
        Raises UsageError for an unknown pipeline or parameter, NotFound for an unknown run,
        ConfigError when the definition holds something that KFP would silently get wrong.
        """
        ...

    def status(self, run_id: str) -> RunResult:
        """Return a run as it is now; raises NotFound."""
        ...

    def log(self, run_id: str, step: str) -> str:
        """Return what a step printed; raises NotFound."""
        ...

    def cancel(self, run_id: str) -> None:
        """Stop a run and everything it started; a run that has ended is left as it is."""
        ...
