"""Steps of the training pipeline as a pipeline backend runs them: the compiled command and executor
input, each in its image. What stands between two steps is a volume, in place of an object store.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.access import Cluster
from tests.cluster.restricted import pod, run

from tidemill.adapters.kfp.compile import compile_pipeline
from tidemill.settings.execution import ExecutionSettings

CLAIM = "artifacts"
SIZE = "1Gi"


@dataclass(frozen=True)
class Steps:
    """The pipeline's steps in a namespace; artifacts lie in `folder`, at /s3 in the pods."""

    cluster: Cluster
    namespace: str
    folder: Path
    ir: dict[str, Any]
    secrets: dict[str, str]
    """Environment variables that a backend takes from `execution.kfp.secrets`."""

    @classmethod
    @contextmanager
    def compiled(
        cls,
        cluster: Cluster,
        namespace: str,
        folder: Path,
        *,
        root: Path,
        execution: ExecutionSettings,
        secrets: dict[str, str],
    ) -> Iterator[Steps]:
        """Compile the pipeline of the project at `root` and lend a volume for its artifacts."""
        steps = cls(
            cluster,
            namespace,
            folder,
            compile_pipeline(root, "training", execution, "kfp").ir,
            secrets,
        )
        steps._make_volume()
        try:
            yield steps
        finally:
            cluster.kubectl("delete", "persistentvolume", namespace, "--wait=false")

    def run(self, step: str, **given: Any) -> dict[str, Any]:
        """Run a step with parameters and artifacts; return its outputs, artifacts as KFP has them.

        Raises AssertionError with the pod's story when it fails, or does not end.
        """
        component = self.ir["components"][f"comp-{step.replace('_', '-')}"]
        container = self.ir["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        message = self._executor_input(step, component, given)
        arguments = [part.replace("{{$}}", json.dumps(message)) for part in container["args"]]
        env = {one["name"]: one["value"] for one in container.get("env", [])}
        made = pod(
            step.replace("_", "-"),
            container["image"],
            [*container["command"], *arguments],
            env={**env, **self.secrets},
            claims={"/s3": CLAIM},
        )
        run(self.cluster, self.namespace, made)
        return self._outputs(step, message)

    def _executor_input(
        self, step: str, component: dict[str, Any], given: dict[str, Any]
    ) -> dict[str, Any]:
        wanted = component.get("outputDefinitions", {})
        artifacts = component.get("inputDefinitions", {}).get("artifacts", {})
        return {
            "inputs": {
                "parameterValues": {k: v for k, v in given.items() if k not in artifacts},
                "artifacts": {name: {"artifacts": [given[name]]} for name in artifacts},
            },
            "outputs": {
                "parameters": {
                    name: {"outputFile": f"/s3/{step}/{name}"}
                    for name in wanted.get("parameters", {})
                },
                "artifacts": {
                    name: {"artifacts": [_artifact(step, name, one["artifactType"])]}
                    for name, one in wanted.get("artifacts", {}).items()
                },
                "outputFile": f"/s3/{step}/executor_output.json",
            },
        }

    def _outputs(self, step: str, message: dict[str, Any]) -> dict[str, Any]:
        path = self.folder / step / "executor_output.json"
        said = json.loads(path.read_text()) if path.exists() else {}
        made = {name: one["artifacts"][0] for name, one in said.get("artifacts", {}).items()}
        return {**said.get("parameterValues", {}), **made}

    def _make_volume(self) -> None:
        self.folder.mkdir(parents=True)
        modes = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
        volume = {"capacity": {"storage": SIZE}, "hostPath": {"path": str(self.folder)}}
        claim = {"volumeName": self.namespace, "resources": {"requests": {"storage": SIZE}}}
        for kind, name, spec in (
            ("PersistentVolume", self.namespace, volume),
            ("PersistentVolumeClaim", CLAIM, claim),
        ):
            body = {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}
            text = json.dumps(body | {"spec": modes | spec})
            self.cluster.kubectl("apply", "-f", "-", "--namespace", self.namespace, stdin=text)
        bound = ("--for=jsonpath={.status.phase}=Bound", "--timeout=300s")
        self.cluster.kubectl("wait", f"pvc/{CLAIM}", *bound, "--namespace", self.namespace)


def _artifact(step: str, name: str, kind: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "uri": f"s3://{step}/{name}", "type": kind, "metadata": {}}
