"""Runs on a Kubeflow Pipelines backend, through its generated API client.

Not through `kfp.Client`: that reads a context file in the home directory, falls back to a
kubeconfig or localhost when the host is missing, prints links, takes 2 s to import, and its waiting
knows no cancelled run. What it adds to the generated client is a dozen lines.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import kfp_server_api as api
from google.protobuf.json_format import MessageToDict
from urllib3.exceptions import HTTPError

from tidemill.adapters.kfp.compile import compile_pipeline, step_names
from tidemill.adapters.kfp.lint import refuse
from tidemill.adapters.kfp.parameters import bind, context
from tidemill.errors import ConfigError, NotFound, TidemillError, Unavailable, UsageError
from tidemill.ports.clock import Clock
from tidemill.ports.runs import RunResult, RunState, StepResult, StepState, Watcher
from tidemill.settings.execution import ExecutionSettings

__all__ = ["KfpRuns"]

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
LOG = "/apis/v1alpha1/runs/{run_id}/nodes/{node_id}/log"
"""Served by the API server outside the described API; the node is the step's pod."""


@dataclass
class KfpRuns:
    """The runs of one project on a backend."""

    root: Path
    execution: ExecutionSettings
    token: str
    publish_settings: Callable[[str], str]
    """Stores the resolved settings under a name where pods can read them; returns the URL."""
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
        """Submit a pipeline and wait for its end; see `tidemill.ports.runs.Runs`.

        An interrupted wait leaves the run going on. After `execution.timeout_seconds` the run is
        terminated. A refused gate shows as `failed`: the backend does not tell the two apart.
        """
        if resume and dry_run:
            raise UsageError(
                "a resumed run cannot be a dry run",
                hint=f"leave --dry-run out, or see where it stands: tidemill watch {resume}",
            )
        if dry_run:
            return self._plan(pipeline, parameters or {})
        if resume:
            self._retry(resume, pipeline, parameters or {})
        return self._wait(resume or self.submit(pipeline, parameters or {}), watch)

    def submit(self, pipeline: str, parameters: Mapping[str, Any]) -> str:
        """Start a run and return its id, without waiting."""
        definition = compile_pipeline(self.root, pipeline, self.execution, "kfp")
        refuse(pipeline, definition.ir)
        name = f"{pipeline}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}"
        known = context(self.root, self.publish_settings(name), self.clock.now(), name)
        arguments = bind(pipeline, definition.ir, parameters, known)
        spec = {
            "pipeline_spec": definition.ir,
            "platform_spec": MessageToDict(definition.graph.platform_spec),
        }
        settings = self.execution.kfp
        body = api.V2beta1Run(
            experiment_id=self._experiment(),
            display_name=name,
            pipeline_spec=spec,
            runtime_config=api.V2beta1RuntimeConfig(
                parameters=arguments, pipeline_root=settings.pipeline_root or None
            ),
            service_account=settings.service_account,
        )
        with self._explained():
            run_id: str = self._runs.run_service_create_run(run=body).run_id
        return run_id

    def status(self, run_id: str) -> RunResult:
        """Return a run as it is now; raises NotFound."""
        with self._explained(run_id):
            return _result(self._runs.run_service_get_run(run_id=run_id))

    def cancel(self, run_id: str) -> None:
        """Terminate a run; KFP 2.17 then reports it as failed."""
        with self._explained(run_id):
            self._runs.run_service_terminate_run(run_id=run_id)

    def log(self, run_id: str, step: str) -> str:
        """Return what a step printed, as long as its pod or the archive of its log exists."""
        with self._explained(run_id):
            details = self._runs.run_service_get_run(run_id=run_id).run_details
            tasks = {t.display_name: t for t in details.task_details or []}
            if step not in tasks:
                raise NotFound.among("step", step, filter(None, tasks))
            pods = [child.pod_name for child in tasks[step].child_tasks or []]
            return "".join(self._pod_log(run_id, pod) for pod in pods if pod)

    def _pod_log(self, run_id: str, pod: str) -> str:
        text, _, _ = self._client.call_api(
            LOG,
            "GET",
            path_params={"run_id": run_id, "node_id": pod},
            header_params={"Accept": "text/plain"},
            response_type="str",
            auth_settings=["Bearer"],
        )
        return str(text)

    def _plan(self, pipeline: str, parameters: Mapping[str, Any]) -> RunResult:
        definition = compile_pipeline(self.root, pipeline, self.execution, "kfp")
        refuse(pipeline, definition.ir)
        known = context(self.root, "", self.clock.now(), "")
        arguments = bind(pipeline, definition.ir, parameters, known)
        steps = tuple(StepResult(name) for name in step_names(definition.ir))
        return RunResult("", pipeline, "planned", arguments, steps=steps)

    def _retry(self, run_id: str, pipeline: str, parameters: Mapping[str, Any]) -> None:
        found = self.status(run_id)
        changed = any(str(found.parameters.get(n)) != str(v) for n, v in parameters.items())
        if found.pipeline != pipeline or changed or found.state == "succeeded":
            raise UsageError(
                f"{run_id} is a run of '{found.pipeline}', {found.state}: it is resumed as it was "
                "started, unless it has succeeded",
                hint="start a new run: leave --resume out",
            )
        if found.state == "running":  # only its launcher died: it is waited for
            return
        with self._explained(run_id):
            self._runs.run_service_retry_run(run_id=run_id)

    def _wait(self, run_id: str, watch: Watcher | None) -> RunResult:
        deadline = time.monotonic() + self.execution.timeout_seconds
        seen: RunResult | None = None
        while True:
            run = self.status(run_id)
            if run != seen and watch:
                watch(run)
            # A run turns terminal before its last steps are reported: look once more.
            if run.state != "running" and seen and seen.state == run.state:
                return run
            seen = run
            if time.monotonic() > deadline:
                self.cancel(run_id)
                cause = f"not done after {self.execution.timeout_seconds:g} s"
                return RunResult(run_id, run.pipeline, "timed_out", cause=cause, steps=run.steps)
            time.sleep(self.execution.kfp.poll_seconds)

    def _experiment(self) -> str:
        settings = self.execution.kfp
        service = api.ExperimentServiceApi(self._client)
        place = {"namespace": settings.namespace} if settings.namespace else {}
        # 1 is EQUALS in the API's filter language.
        predicate = {"operation": 1, "key": "display_name", "stringValue": settings.experiment}
        with self._explained():
            found = service.experiment_service_list_experiments(
                filter=json.dumps({"predicates": [predicate]}), **place
            ).experiments
            if found:
                return str(found[0].experiment_id)
            body = api.V2beta1Experiment(display_name=settings.experiment, **place)
            created = service.experiment_service_create_experiment(experiment=body)
        return str(created.experiment_id)

    @cached_property
    def _client(self) -> Any:
        host = self.execution.kfp.host
        if not host:
            raise ConfigError(
                "execution.kfp.host is empty: which Kubeflow Pipelines API?",
                hint="set it in configs/<env>.yaml, e.g. https://kubeflow.example.org/pipeline",
            )
        configuration = api.Configuration(host=host.rstrip("/"))
        if self.token:
            configuration.api_key = {"authorization": self.token}
            configuration.api_key_prefix = {"authorization": "Bearer"}
        return api.ApiClient(configuration)

    @cached_property
    def _runs(self) -> Any:
        return api.RunServiceApi(self._client)

    @contextlib.contextmanager
    def _explained(self, run_id: str = "") -> Iterator[None]:
        host = self.execution.kfp.host
        try:
            yield
        except api.ApiException as error:
            raise _explain(error, host, run_id) from error
        except (HTTPError, OSError) as error:
            raise Unavailable(
                f"the Kubeflow Pipelines API at {host} does not answer: {error}",
                hint="check execution.kfp.host; does it include the path of the API?",
            ) from error


def _explain(error: Any, host: str, run_id: str) -> TidemillError:
    said = f"{error.status} {error.reason}: {_message(error.body)}"
    if error.status == 404 and run_id:
        return NotFound(f"{host} knows no run {run_id}", hint="tidemill logs and watch take its id")
    if error.status in (401, 403):
        return ConfigError(
            f"the Kubeflow Pipelines API at {host} refused: {said}",
            hint="check execution.kfp.token and the rights of its owner in the namespace",
        )
    return Unavailable(f"the Kubeflow Pipelines API at {host} said {said}")


def _message(body: object) -> str:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        return str(json.loads(str(body))["message"])
    return str(body)[:200]


def _result(run: Any) -> RunResult:
    spec = run.pipeline_spec or {}
    ir = spec.get("pipeline_spec", spec)
    tasks = {t.display_name: t for t in (run.run_details and run.run_details.task_details) or []}
    steps = tuple(_step(name, tasks.get(name)) for name in (step_names(ir) if ir else tasks))
    state = RUN_STATES.get(run.state, "running")
    failed = [step for step in steps if step.state == "failed"]
    cause = failed[0].cause if failed else (run.error.message if run.error else "")
    return RunResult(
        run.run_id,
        ir.get("pipelineInfo", {}).get("name", run.display_name),
        state,
        parameters=(run.runtime_config and run.runtime_config.parameters) or {},
        started_at=run.created_at.isoformat() if run.created_at else "",
        wall_seconds=_seconds(run.created_at, run.finished_at),
        steps=steps,
        cause=(cause or run.state) if state in ("failed", "cancelled") else "",
    )


def _step(name: str, task: Any) -> StepResult:
    if task is None:
        return StepResult(name)
    state = STEP_STATES.get(task.state, "running")
    said = task.error.message if task.error else f"see its log: tidemill logs {task.run_id} {name}"
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
