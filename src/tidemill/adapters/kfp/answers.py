"""What a Kubeflow Pipelines API answers, in tidemill's words."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from tidemill.adapters.kfp.compile import step_names
from tidemill.errors import ConfigError, NotFound, TidemillError, Unavailable
from tidemill.ports.runs import RunResult, RunState, StepResult, StepState

__all__ = ["PLACE", "explain", "result"]

RUN_STATES: dict[str, RunState] = {
    "SUCCEEDED": "succeeded",
    "SKIPPED": "succeeded",
    "FAILED": "failed",
    "CANCELED": "cancelled",
}
STEP_STATES: dict[str, StepState] = {
    "PENDING": "pending",
    "SUCCEEDED": "succeeded",
    "SKIPPED": "skipped",
    "FAILED": "failed",
    "CANCELED": "failed",
}
PLACE = (
    "check execution.kfp.host; it ends before /apis, as in https://kubeflow.example.org/pipeline"
)


def explain(error: Any, host: str, run_id: str) -> TidemillError:
    """Return what an ApiException of the API at `host` means, asked about a run if there is one."""
    said = f"{error.status} {error.reason}: {_message(error.body)}"
    if error.status == 404 and run_id:
        return NotFound(f"{host} knows no run {run_id}", hint="tidemill logs and watch take its id")
    if error.status in (401, 403):
        return ConfigError(
            f"the Kubeflow Pipelines API at {host} refused: {said}",
            hint="check execution.kfp.token and the rights of its owner in the namespace",
        )
    if error.status == 404:
        return ConfigError(f"there is no Kubeflow Pipelines API at {host}: {said}", hint=PLACE)
    if error.status < 500 and error.status != 429:
        return ConfigError(
            f"the Kubeflow Pipelines API at {host} does not take it: {said}",
            hint="its version is 2.17 or later? what was sent: tidemill compile",
        )
    return Unavailable(f"the Kubeflow Pipelines API at {host} said {said}")


def _message(body: object) -> str:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return str(json.loads(str(body))["message"])
    said = str(body).strip()
    return "a web page" if said.startswith("<") else said[:200]


def result(run: Any) -> RunResult:
    """Return a run of the API."""
    spec = run.pipeline_spec or {}
    ir = spec.get("pipeline_spec", spec)
    tasks = {t.display_name: t for t in (run.run_details and run.run_details.task_details) or []}
    state = RUN_STATES.get(run.state, "running")
    unknown: StepState = "pending" if state == "running" else "skipped"
    steps = tuple(
        _step(name, tasks[name]) if name in tasks else StepResult(name, unknown)
        for name in (step_names(ir) if ir else tasks)
    )
    # A terminated run ends as failed; its history tells the two apart.
    if state == "failed" and any(h.state == "CANCELING" for h in run.state_history or []):
        state = "cancelled"
    failed = [step for step in steps if step.state == "failed"]
    said = failed[0].cause if failed else (run.error.message if run.error else "")
    ends = {"failed": said or "no step failed", "cancelled": "it was terminated"}
    return RunResult(
        run.run_id,
        # KFP writes batch-scoring for the pipeline in batch_scoring.py.
        ir.get("pipelineInfo", {}).get("name", run.display_name).replace("-", "_"),
        state,
        parameters=(run.runtime_config and run.runtime_config.parameters) or {},
        started_at=run.created_at.isoformat() if run.created_at else "",
        wall_seconds=_seconds(run.created_at, run.finished_at),
        steps=steps,
        cause=ends.get(state, ""),
    )


def _step(name: str, task: Any) -> StepResult:
    # What a failure, or a condition, leaves out has times, but no state.
    state = STEP_STATES.get(task.state, "running") if task.state else "skipped"
    look = f"see its log: tidemill logs {task.run_id} {name} --on kfp"
    said = task.error.message if task.error else look
    return StepResult(
        name,
        state,
        started_at=task.start_time.isoformat() if task.start_time else "",
        wall_seconds=_seconds(task.start_time, task.end_time),
        cause=f"{name}: {said}" if state == "failed" else "",
    )


def _seconds(start: Any, end: Any) -> float:
    # Unfinished tasks end in the year 1.
    return (end - start).total_seconds() if start and end and end > start else 0.0
