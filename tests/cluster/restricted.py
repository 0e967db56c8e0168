"""Pods as the chart and the controller make them, run to their end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.cluster.access import Cluster
from tests.cluster.endings import story, succeeds


def pod(
    name: str,
    image: str,
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    claims: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a pod under Pod Security `restricted` with a read-only root.

    `claims` are PersistentVolumeClaims by the folder where they are mounted.
    """
    folders = {"/project/.tidemill": "state", "/tmp": "tmp", **(claims or {})}
    empty = [{"name": one, "emptyDir": {}} for one in ("state", "tmp")]
    claimed = [
        {"name": one, "persistentVolumeClaim": {"claimName": one}}
        for one in (claims or {}).values()
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "restartPolicy": "Never",
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": list(command),
                    "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": volume, "mountPath": folder} for folder, volume in folders.items()
                    ],
                }
            ],
            "volumes": [*empty, *claimed],
        },
    }


def run(cluster: Cluster, namespace: str, made: dict[str, Any]) -> str:
    """Run a pod to its end and return what it printed; fails with its story otherwise."""
    inside = ("--namespace", namespace)
    name = made["metadata"]["name"]
    cluster.kubectl("apply", "-f", "-", *inside, stdin=json.dumps(made))
    assert succeeds(cluster, namespace, f"pod/{name}"), story(cluster, namespace)
    said = cluster.kubectl("logs", name, *inside)
    cluster.kubectl("delete", "pod", name, "--wait=false", *inside)
    return said
