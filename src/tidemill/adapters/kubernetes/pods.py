"""The pod that serves a revision: under Pod Security `restricted`, read-only, without a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.adapters.kubernetes.runtime import Runtime
from tidemill.domain.rollout.model import Revision

__all__ = ["GRPC_PORT", "PORT", "SHADOW_PORT", "server_pod"]

PORT = 8080
GRPC_PORT = 8081
"""Where the servers of a rollout with a GRPCRoute listen, too."""
SHADOW_PORT = 8082
"""Where a server takes mirrored requests; no route leads a client there."""
USER = 10001
"""User of the images; see infra/images/Dockerfile."""
PROBE_SECONDS = 5
SAME = {
    "service_account_name",
    "image_pull_secrets",
    "priority_class_name",
    "node_selector",
    "tolerations",
}
"""Fields of a runtime that a pod has under the same name."""


def server_pod(
    revision: Revision, chosen: Mapping[str, str], *, grpc: bool = False
) -> dict[str, Any]:
    """Return the specification of a pod; `chosen` are the labels of all servers of the revision.

    With `grpc` it listens on GRPC_PORT beside PORT.
    """
    runtime = Runtime.model_validate(revision.runtime)
    claim = runtime.bundles
    models = (
        {"persistentVolumeClaim": {"claimName": claim.claim_name, "readOnly": True}}
        if claim
        else {"emptyDir": {}}
    )
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationGracePeriodSeconds": runtime.termination_grace_seconds,
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(chosen)},
            }
        ],
        "containers": [_server(revision, runtime, grpc=grpc)],
        "volumes": [
            {"name": "models", **models},
            {"name": "state", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if runtime.fetch_image:
        spec["initContainers"] = [_fetch(revision, runtime, runtime.fetch_image)]
    return spec | runtime.model_dump(
        mode="json", by_alias=True, exclude_defaults=True, include=SAME
    )


def _server(revision: Revision, runtime: Runtime, *, grpc: bool) -> dict[str, Any]:
    arguments = ("serve", "--bundle", revision.bundle, "--version", revision.version)
    listening: tuple[str, ...] = (
        *("--name", revision.model),
        *("--host", "0.0.0.0", "--port", str(PORT)),  # noqa: S104
        *("--shadow-port", str(SHADOW_PORT)),
    )
    ports = [
        {"name": "http", "containerPort": PORT, "protocol": "TCP"},
        {"name": "shadow", "containerPort": SHADOW_PORT, "protocol": "TCP"},
    ]
    if grpc:
        listening = (*listening, "--grpc-port", str(GRPC_PORT))
        ports.append({"name": "grpc", "containerPort": GRPC_PORT, "protocol": "TCP"})
    return {
        **_container("server", runtime.image, [*arguments, *listening], runtime),
        "ports": ports,
        "startupProbe": _probe("/v2/health/live", 1, failures=120),
        "readinessProbe": _probe("/v2/health/ready", PROBE_SECONDS, failures=2),
        "livenessProbe": _probe("/v2/health/live", 2 * PROBE_SECONDS, failures=3),
    }


def _fetch(revision: Revision, runtime: Runtime, image: str) -> dict[str, Any]:
    """Fetch the bundle from the registry, digest and signature checked."""
    reference = f"{revision.model}/{revision.version}"
    arguments = ["registry", "fetch", reference, revision.bundle]
    return _container("fetch", image, arguments, runtime)


def _container(name: str, image: str, arguments: list[str], runtime: Runtime) -> dict[str, Any]:
    sources = []
    if runtime.config_map:
        sources.append({"configMapRef": {"name": runtime.config_map.name}})
    if runtime.secret:
        sources.append({"secretRef": {"name": runtime.secret.name}})
    read_only = name == "server"
    return {
        "name": name,
        "image": image,
        "command": ["tidemill"],
        "args": arguments,
        "envFrom": sources,
        "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108 - the pod's own
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        # Of the init container, too: a quota refuses a pod with a container that requests nothing,
        # and what a pod takes is the larger of the two, not their sum.
        "resources": runtime.resources.model_dump(exclude_defaults=True),
        # Why it refuses to start is the last that it says; the controller reads it from the status.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", "readOnly": read_only},
            {"name": "state", "mountPath": "/project/.tidemill"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ],
    }


def _probe(path: str, seconds: int, *, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": "http", "scheme": "HTTP"},
        "periodSeconds": seconds,
        "timeoutSeconds": 3,
        "failureThreshold": failures,
    }
