"""ModelRollouts for the tests: the CRDs installed, a resource that is valid, a client."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from tidemill.adapters.kubernetes.access import connect
from tidemill.adapters.kubernetes.client import KubeClient

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "charts/tidemill/crds"
GATEWAY_API = "sigs.k8s.io/gateway-api@v1.4.1"
IMAGE = "registry.test/tidemill/serve@sha256:" + "1" * 64

SPEC: dict[str, Any] = {
    "model": {
        "name": "flight-delay",
        "version": "1",
        "digest": "sha256:" + "a" * 64,
        "threshold": "0.25",
        "scoreTails": {"low": "0.1", "high": "0.3"},
    },
    "runtime": {"image": IMAGE, "replicas": 2, "bundles": {"claimName": "bundles"}},
    "traffic": {"parentRefs": [{"name": "gateway"}], "settleSeconds": 1},
    "strategy": {
        "steps": [
            {"name": "c5", "weight": 500, "minEvents": 300, "maxSeconds": 3600},
            {"name": "c50", "weight": 5000, "gate": ["errors"], "minEvents": 600},
        ],
        "scaleDownDelaySeconds": 5,
        "intervalSeconds": 1,
    },
    "analysis": {
        "inline": {
            "metrics": [
                {"name": "errors", "event": "error", "passRatio": "2", "maxRate": "0.2",
                 "alphaShare": 60},
                {"name": "slow", "event": "slow", "alphaShare": 20},
            ]
        }
    },
}  # fmt: skip


@cache
def gateway_crds() -> list[Path]:
    """Return the CRDs of HTTPRoute and GRPCRoute, out of the Gateway API's Go module."""
    made = subprocess.run(
        ["go", "mod", "download", "-json", GATEWAY_API],
        capture_output=True, text=True, check=True, cwd="/",
    )  # fmt: skip
    folder = Path(json.loads(made.stdout)["Dir"]) / "config/crd/standard"
    return [
        folder / f"gateway.networking.k8s.io_{kind}.yaml" for kind in ("httproutes", "grpcroutes")
    ]


def install(cluster: Any) -> None:
    """Install our CRDs and the Gateway API's; twice is no error."""
    files = [*sorted(CRDS.glob("*.yaml")), *gateway_crds()]
    named = [part for file in files for part in ("-f", str(file))]
    cluster.kubectl("apply", "--server-side", "--force-conflicts", *named)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")


@contextmanager
def client(access: Any) -> Iterator[KubeClient]:
    """Lend our client as the identity of a kubeconfig."""
    with connect(Path(access.kubeconfig)) as http:
        yield KubeClient(http)


def manifest(namespace: str, name: str = "flight-delay", **changes: Any) -> dict[str, Any]:
    """Return a ModelRollout; `changes` are dotted paths with `__` for the dot."""
    spec = copy.deepcopy(SPEC)
    for path, value in changes.items():
        change(spec, path.replace("__", "."), value)
    return {
        "apiVersion": "serving.tidemill.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def change(body: Any, path: str, value: Any) -> None:
    """Set the field at a dotted path, numbers are places in a list; None takes it away."""
    *parents, last = path.split(".")
    for part in parents:
        body = body[int(part)] if isinstance(body, list) else body.setdefault(part, {})
    if isinstance(body, list):
        body[int(last)] = value
    elif value is None:
        body.pop(last, None)
    else:
        body[last] = value
