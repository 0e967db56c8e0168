"""Servers of a rollout: per revision one Deployment and one Service that never change again.

The specification that a revision was made with is kept on its Deployment and applied from there. So
a newer controller, with another idea of a pod, restarts no stable server.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tidemill.adapters.kubernetes.client import DEPLOYMENTS, PODS, SERVICES, Manifest, Objects
from tidemill.adapters.kubernetes.owned import REVISION, ROLLOUT, Applied, Owner
from tidemill.adapters.kubernetes.pods import GRPC_PORT, PORT, SHADOW_PORT, server_pod
from tidemill.adapters.kubernetes.runtime import Runtime
from tidemill.domain.rollout.model import Revision, Workload
from tidemill.errors import NotFound, Refused, Unavailable, last_error

__all__ = ["DeploymentWorkloads"]

KEPT = "serving.tidemill.dev/spec"
"""Annotation: the specification that a revision was made with. Name and namespace are never read
from it: who may write it could reach further by us than by himself."""

GROWN = "serving.tidemill.dev/grown-from"
"""Annotation: how many servers there were when more were asked for, until those are available."""


class DeploymentWorkloads:
    """Implements `ports.rollout.Workloads` for one rollout."""

    def __init__(
        self, objects: Objects, owner: Owner, replicas: int, *, grpc: bool = False
    ) -> None:
        """With `grpc` the servers offer gRPC, too: a route of the rollout's leads there."""
        self._objects = objects
        self._owner = owner
        self._grpc = grpc
        self._applied = Applied(objects)
        self._refused: dict[str, str] = {}
        self.replicas = replicas
        """Servers per revision; may be changed while the rollout runs."""

    def ensure(self, revision: Revision) -> None:
        """Make the servers of a revision run; raises Unavailable with what the cluster refuses."""
        live = self._live(revision)
        spec = _kept(live) or _spec(self._owner, revision, grpc=self._grpc)
        notes = {KEPT: json.dumps(spec, sort_keys=True)}
        if before := _grown_from(live, self.replicas):
            notes[GROWN] = str(before)
        manifest = _deployment(self._owner, revision, spec | {"replicas": self.replicas}, notes)
        try:
            self._applied.apply(SERVICES, _service(self._owner, revision, grpc=self._grpc))
            self._applied.apply(DEPLOYMENTS, manifest)
        except Refused as error:
            self._refused[revision.revision] = error.message
            raise Unavailable(error.message) from error
        self._refused.pop(revision.revision, None)

    def remove(self, revision: str) -> None:
        """Delete what serves a revision."""
        name = self._owner.object_name(revision)
        self._refused.pop(revision, None)
        for resource in (DEPLOYMENTS, SERVICES):
            self._objects.delete(resource, self._owner.namespace, name)

    def observe(self) -> Mapping[str, Workload]:
        """Return what is seen of every revision; one that is being deleted is gone already."""
        mine = {ROLLOUT: self._owner.name}
        namespace = self._owner.namespace
        pods: dict[str, list[Manifest]] = {}
        for pod in self._objects.select(PODS, namespace, mine):
            pods.setdefault(pod["metadata"]["labels"].get(REVISION, ""), []).append(pod)
        refused = {
            revision: Workload(0, self.replicas, self._address(revision), why)
            for revision, why in self._refused.items()
        }
        return refused | {
            revision: self._workload(revision, deployment, pods.get(revision, []))
            for deployment in self._objects.select(DEPLOYMENTS, namespace, mine)
            if "deletionTimestamp" not in deployment["metadata"]
            and (revision := deployment["metadata"]["labels"].get(REVISION))
        }

    def _live(self, revision: Revision) -> Manifest:
        """Return the Deployment as it is; empty when there is none."""
        name = self._owner.object_name(revision.revision)
        try:
            return self._objects.get(DEPLOYMENTS, self._owner.namespace, name)
        except NotFound:
            return {}

    def _address(self, revision: str) -> str:
        name = self._owner.object_name(revision)
        return f"{name}.{self._owner.namespace}.svc:{PORT}"

    def _workload(self, revision: str, deployment: Manifest, pods: list[Manifest]) -> Workload:
        status, metadata = deployment.get("status", {}), deployment["metadata"]
        own = [pod for pod in pods if _made_by(pod, deployment)]
        refusal = next(filter(None, map(_refusal, own)), "")
        current = status.get("observedGeneration", 0) >= metadata["generation"]
        return Workload(
            # Of an older generation, too: only the number of servers makes another one.
            ready=status.get("availableReplicas", 0),
            desired=deployment["spec"]["replicas"],
            address=self._address(revision),
            detail=refusal or ("" if current and not _waiting(status) else _detail(status, own)),
            servers={pod["metadata"]["uid"]: _host(pod) for pod in pods if _answers(pod)},
            shadows={
                pod["metadata"]["uid"]: _host(pod, SHADOW_PORT) for pod in pods if _answers(pod)
            },
            grown_from=_grown_from(deployment, deployment["spec"]["replicas"]),
            refused=bool(refusal),
        )


def _deployment(
    owner: Owner, revision: Revision, spec: Manifest, notes: dict[str, str]
) -> Manifest:
    metadata = owner.metadata(owner.object_name(revision.revision), revision.revision)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata | {"annotations": notes},
        "spec": spec,
    }


def _note(live: Manifest, name: str) -> str:
    text: str = live.get("metadata", {}).get("annotations", {}).get(name, "")
    return text


def _kept(live: Manifest) -> Manifest:
    """Return the specification that a Deployment was made with; empty when it is not readable."""
    try:
        found = json.loads(_note(live, KEPT))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _grown_from(live: Manifest, replicas: int) -> int:
    """Return how many servers a Deployment had before it was to have more, now `replicas`.

    0 when it has them all, or fewer are wanted. It is on the Deployment because a controller that
    starts anew must not take servers that were never there for lost ones.
    """
    if not live:
        return 0
    wanted, noted = live["spec"]["replicas"], _note(live, GROWN)
    before = int(noted) if noted.isdecimal() else 0
    if replicas > wanted:
        before = before or int(wanted)
    elif live.get("status", {}).get("availableReplicas", 0) >= wanted:
        return 0
    return before if before < replicas else 0


def _spec(owner: Owner, revision: Revision, *, grpc: bool) -> Manifest:
    chosen = {ROLLOUT: owner.name, REVISION: revision.revision}
    ready_seconds = Runtime.model_validate(revision.runtime).min_ready_seconds
    return {
        "selector": {"matchLabels": chosen},
        "minReadySeconds": ready_seconds,
        "progressDeadlineSeconds": 600 + ready_seconds,
        "revisionHistoryLimit": 0,
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1},
        },
        "template": {
            "metadata": {"labels": owner.labels | chosen},
            "spec": server_pod(revision, chosen, grpc=grpc),
        },
    }


def _service(owner: Owner, revision: Revision, *, grpc: bool) -> Manifest:
    ports = [
        {"name": "http", "port": PORT, "targetPort": "http", "appProtocol": "http"},
        {"name": "shadow", "port": SHADOW_PORT, "targetPort": "shadow", "appProtocol": "http"},
    ]
    if grpc:
        kind = "kubernetes.io/h2c"
        ports.append({"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "appProtocol": kind})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owner.metadata(owner.object_name(revision.revision), revision.revision),
        "spec": {
            "selector": {ROLLOUT: owner.name, REVISION: revision.revision},
            "ports": ports,
        },
    }


def _waiting(status: Mapping[str, Any]) -> bool:
    return bool(status.get("availableReplicas", 0) < status.get("replicas", 1))


def _made_by(pod: Manifest, deployment: Manifest) -> bool:
    """Whether a pod is this Deployment's, and stays: one of the same name may have been deleted.

    Its pods are collected some seconds later; what they refused is no news. Times are in UTC to the
    second, so their texts compare.
    """
    metadata, since = pod["metadata"], deployment["metadata"]["creationTimestamp"]
    return "deletionTimestamp" not in metadata and bool(metadata["creationTimestamp"] >= since)


def _containers(pod: Manifest) -> list[Manifest]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def _refusal(pod: Manifest) -> str:
    """Say what a pod's container refused to go on for the last time it ended; empty if nothing."""
    for container in _containers(pod):
        state = container.get("state", {})
        ended = state.get("terminated") or container.get("lastState", {}).get("terminated", {})
        if not container.get("ready") and ended.get("exitCode") == Refused.exit_code:
            why = last_error(ended.get("message", "")) or "the pod's log says why"
            return f"ended with exit code {Refused.exit_code}: {why}"
    return ""


def _detail(status: Mapping[str, Any], pods: list[Manifest]) -> str:
    """Say why servers are missing: a pod's own reason, else the Deployment's."""
    for pod in pods:
        found = pod.get("status", {})
        for container in _containers(pod):
            waiting = container.get("state", {}).get("waiting", {})
            if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
                return f"{waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
        for condition in found.get("conditions", []):
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return f"{condition.get('reason')}: {condition.get('message', '')}"
    for condition in status.get("conditions", []):
        failed = condition["type"] == "ReplicaFailure" and condition["status"] == "True"
        if failed or condition.get("reason") == "ProgressDeadlineExceeded":
            return f"{condition['reason']}: {condition.get('message', '')}"
    return f"{status.get('availableReplicas', 0)} of {status.get('replicas', 0)} are available"


def _answers(pod: Manifest) -> bool:
    """Whether a pod is ready and stays: only such a one is sent requests."""
    status = pod.get("status", {})
    if status.get("phase") != "Running" or not status.get("podIP"):
        return False
    if "deletionTimestamp" in pod["metadata"]:
        return False
    ready = {c["type"]: c["status"] for c in status.get("conditions", [])}
    return ready.get("Ready") == "True"


def _host(pod: Manifest, port: int = PORT) -> str:
    address = pod["status"]["podIP"]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
