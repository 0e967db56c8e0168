"""Runs on a Kubeflow Pipelines backend, through its generated API client.

Not through `kfp.Client`: that reads a context file in the home directory, falls back to a
kubeconfig or localhost when the host is missing, prints links, takes 2 s to import, and its waiting
knows no cancelled run. What it adds to the generated client is a dozen lines.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import kfp_server_api as api
from google.protobuf.json_format import MessageToDict
from urllib3.exceptions import HTTPError

from tidemill.adapters.kfp.answers import PLACE, explain, result
from tidemill.adapters.kfp.compile import compile_pipeline, step_names
from tidemill.adapters.kfp.lint import refuse
from tidemill.adapters.kfp.parameters import bind, context
from tidemill.adapters.kfp.printed import is_refusal, last_words, without_noise
from tidemill.errors import ConfigError, NotFound, TidemillError, Unavailable, UsageError
from tidemill.ports.clock import Clock
from tidemill.ports.runs import RunResult, StepResult, Watcher
from tidemill.settings.execution import ExecutionSettings

__all__ = ["KfpRuns"]

LOG = "/apis/v1alpha1/runs/{run_id}/nodes/{node_id}/log"
"""Served by the API server outside the described API; the children of a step that began are
its attempts, a node each. What cannot be read is told with status 200, as an object with
`error_message`."""

TIMEOUT = (5.0, 60.0)
"""Seconds to connect to the API, and between two bytes of its answer."""


class Client(api.ApiClient):  # type: ignore[misc]
    """The generated client, which would wait for an answer for ever."""

    def call_api(self, *args: Any, _request_timeout: Any = None, **kwargs: Any) -> Any:
        """Call the API; raises urllib3's errors and ApiException."""
        timeout = _request_timeout or TIMEOUT
        return super().call_api(*args, _request_timeout=timeout, **kwargs)


@dataclass
class KfpRuns:
    """The runs of one project on a backend."""

    root: Path
    execution: ExecutionSettings
    token: str
    check_settings: Callable[[], None]
    """Raises ConfigError for settings with which a run's pods cannot work."""
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
        terminated.
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
        known = context(self.root, "", self.clock.now(), name)
        arguments = bind(pipeline, definition.ir, parameters, known)
        needs_settings = "config" in arguments and not arguments["config"]
        # Nothing is stored, here or there, for a run that is refused.
        if needs_settings:
            self.check_settings()
        experiment = self._experiment()
        if needs_settings:
            arguments["config"] = self.publish_settings(name)
        spec = {
            "pipeline_spec": definition.ir,
            "platform_spec": MessageToDict(definition.graph.platform_spec),
        }
        settings = self.execution.kfp
        body = api.V2beta1Run(
            experiment_id=experiment,
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
        """Return a run as it is now; raises NotFound.

        What a step failed of is read in its log: the backend says only that it did.
        """
        with self._explained(run_id):
            run = result(self._runs.run_service_get_run(run_id=run_id))
        if run.state != "failed":
            return run
        if not any(step.state == "failed" for step in run.steps):
            return replace(run, cause=f"{run.cause}; {self._look(run_id)}")
        steps = tuple(self._with_cause(run_id, step) for step in run.steps)
        cause = next((one.cause for one in steps if one.state == "failed"), run.cause)
        refused = is_refusal(cause.partition(": ")[2])
        return replace(run, state="refused" if refused else "failed", steps=steps, cause=cause)

    def _with_cause(self, run_id: str, step: StepResult) -> StepResult:
        if step.state != "failed":
            return step
        try:
            cause = last_words(self.log(run_id, step.name).splitlines())
        except NotFound:  # its pod never started, or was killed
            cause = f"it left no log; {self._look(run_id)}"
        except TidemillError as error:  # the run has ended all the same
            cause = f"its log cannot be read: {error.message}"
        return replace(step, cause=f"{step.name}: {cause}") if cause else step

    def _look(self, run_id: str) -> str:
        place = f"--namespace {self._namespace} --selector pipeline/runid={run_id}"
        return f"why: kubectl describe workflow {place}"

    def cancel(self, run_id: str) -> None:
        """Terminate a run, which takes some seconds: its exit handler still runs."""
        with self._explained(run_id):
            self._runs.run_service_terminate_run(run_id=run_id)

    def log(self, run_id: str, step: str) -> str:
        """Return what a finished step printed, without what KFP says of itself.

        All its attempts, in order. It comes from the archive of logs; a single-user backend finds
        none of a running pod's. Raises NotFound when no attempt left one, Unavailable when one
        cannot be read.
        """
        with self._explained(run_id):
            details = self._runs.run_service_get_run(run_id=run_id).run_details
            tasks = {t.display_name: t for t in details.task_details or []}
            if step not in tasks:
                raise NotFound.among("step", step, filter(None, tasks))
            nodes = [child.pod_name for child in tasks[step].child_tasks or [] if child.pod_name]
            text = self._attempts(run_id, nodes, step)
        return "".join(without_noise(text.splitlines(keepends=True)))

    def _attempts(self, run_id: str, nodes: list[str], step: str) -> str:
        logs, missing = [], None
        for node in nodes:
            try:
                logs.append(self._node_log(run_id, node, step))
            except NotFound as error:
                missing = error
        if missing and not logs:
            raise missing
        return "".join(logs)

    def _node_log(self, run_id: str, node: str, step: str) -> str:
        self._client.call_api(
            LOG, "GET", path_params={"run_id": run_id, "node_id": node}, auth_settings=["Bearer"]
        )
        text = str(self._client.last_response.data)
        if not text.startswith('{"error_message":'):
            return text
        said = json.loads(text)["error_message"].rpartition(", ")[2]
        gone = re.search("NotFound|not found", text)  # the archive's code, Kubernetes' words
        raise (NotFound if gone else Unavailable)(
            f"the backend gives no log of {step}: {said}",
            hint=f"while its pod is there: kubectl logs --namespace {self._namespace} --container "
            f"main --prefix --tail -1 --selector pipeline/runid={run_id}",
        )

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

    @property
    def _namespace(self) -> str:
        """Return where the pods of runs are; a single-user backend has its own there."""
        return self.execution.kfp.namespace or "kubeflow"

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
        return Client(configuration)

    @cached_property
    def _runs(self) -> Any:
        return api.RunServiceApi(self._client)

    @contextlib.contextmanager
    def _explained(self, run_id: str = "") -> Iterator[None]:
        host = self.execution.kfp.host
        try:
            yield
        except api.ApiException as error:
            raise explain(error, host, run_id) from error
        except (HTTPError, OSError) as error:
            # Of urllib3's nested errors the inner one, without the pool that it names.
            reason = re.sub(r"^\w+\(.*?\): ", "", str(getattr(error, "reason", error)))
            raise Unavailable(
                f"the Kubeflow Pipelines API at {host} does not answer: {reason}", hint=PLACE
            ) from error
