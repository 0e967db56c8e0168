"""The pod that serves a revision: under Pod Security `restricted`, read-only, without a token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tidemill.domain.rollout.model import Revision

__all__ = ["PORT", "server_pod"]

PORT = 8080
USER = 10001
"""User of the images; see infra/Dockerfile."""
PROBE_SECONDS = 5


def server_pod(revision: Revision, chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return the specification of a pod; `chosen` are the labels of all servers of the revision."""
    runtime = revision.runtime
    claim = runtime.get("bundles")
    models = (
        {"persistentVolumeClaim": {"claimName": claim["claimName"], "readOnly": True}}
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
        "terminationGracePeriodSeconds": runtime["terminationGraceSeconds"],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": dict(chosen)},
            }
        ],
        "containers": [_server(revision)],
        "volumes": [
            {"name": "models", **models},
            {"name": "state", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if "serviceAccountName" in runtime:
        spec["serviceAccountName"] = runtime["serviceAccountName"]
    if not claim:
        spec["initContainers"] = [_fetch(revision)]
    return spec


def _server(revision: Revision) -> dict[str, Any]:
    arguments = ("serve", "--bundle", revision.bundle, "--version", revision.version)
    listening = ("--name", revision.model, "--host", "0.0.0.0", "--port", str(PORT))  # noqa: S104
    return {
        **_container("server", revision.runtime["image"], [*arguments, *listening], revision),
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": _probe("/v2/health/live", 1, failures=120),
        "readinessProbe": _probe("/v2/health/ready", PROBE_SECONDS, failures=2),
        "livenessProbe": _probe("/v2/health/live", 2 * PROBE_SECONDS, failures=3),
        "resources": {k: v for k, v in revision.runtime["resources"].items() if v},
    }


def _fetch(revision: Revision) -> dict[str, Any]:
    """Fetch the bundle from the registry, digest and signature checked."""
    reference = f"{revision.model}/{revision.version}"
    arguments = ["registry", "fetch", reference, revision.bundle]
    return _container("fetch", revision.runtime["fetchImage"], arguments, revision)


def _container(name: str, image: str, arguments: list[str], revision: Revision) -> dict[str, Any]:
    runtime = revision.runtime
    sources = []
    if "configMap" in runtime:
        sources.append({"configMapRef": {"name": runtime["configMap"]["name"]}})
    if "secret" in runtime:
        sources.append({"secretRef": {"name": runtime["secret"]["name"]}})
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
