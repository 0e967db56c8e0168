"""ModelRollouts for the tests: the CRDs installed, a resource that is valid, a client."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster import sources

from tidemill.adapters.kubernetes.access import connect
from tidemill.adapters.kubernetes.client import (
    HTTP_ROUTES,
    PODS,
    ROLLOUTS,
    KubeClient,
    Manifest,
    Resource,
)
from tidemill.adapters.kubernetes.owned import Owner
from tidemill.errors import Conflict

T = TypeVar("T")

ROOT = Path(__file__).parents[2]
CRDS = ROOT / "charts/tidemill/crds"
IMAGE = "registry.test/tidemill/serve@sha256:" + "1" * 64

MIRRORS = ("HTTPRouteRequestMirror", "HTTPRouteRequestPercentageMirror")
"""Features of a GatewayClass that a shadow step needs."""

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


def install(cluster: Any) -> None:
    """Install our CRDs and the Gateway API's; twice is no error. Raises NoCluster."""
    named = [part for file in sorted(CRDS.glob("*.yaml")) for part in ("-f", file)]
    cluster.kubectl("apply", "--server-side", "--force-conflicts", *named)
    sources.install_gateway_api(cluster)
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=300s")


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


def gateway(cluster: Any, namespace: str, *features: str) -> str:
    """Make a Gateway of a class of its own that says it has `features`; return the class."""
    group, kind = "gateway.networking.k8s.io", f"class-{namespace}"
    listener = {"name": "http", "port": 80, "protocol": "HTTP"}
    bodies = [
        {
            "apiVersion": f"{group}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": kind},
            "spec": {"controllerName": "tests.tidemill.dev/gateway"},
        },
        {
            "apiVersion": f"{group}/v1",
            "kind": "Gateway",
            "metadata": {"name": "gateway", "namespace": namespace},
            "spec": {"gatewayClassName": kind, "listeners": [listener]},
        },
    ]
    for body in bodies:
        cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    status = {"status": {"supportedFeatures": [{"name": name} for name in sorted(features)]}}
    cluster.kubectl(
        *("patch", "gatewayclass", kind, "--subresource=status", "--type=merge"),
        *("-p", json.dumps(status)),
    )
    return kind


def bind(cluster: Any, namespace: str, account: str, rules: list[dict[str, Any]]) -> None:
    """Let an account do exactly this, by a role of its own name."""
    meta = {"name": account, "namespace": namespace}
    group = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": meta, "rules": rules}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "RoleBinding",
        "metadata": meta,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", **meta}],
    }
    body = {"apiVersion": "v1", "kind": "List", "items": [role, binding]}
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body))


ATTACH = {"mode": "Attach", "routeRef": {"name": "api", "rule": "infer"}, "settleSeconds": 0}
"""Traffic of a rollout that is attached to the route that `attachment` makes."""


def attached(settings: dict[str, Any]) -> dict[str, Any]:
    """Return changes to a specification with its traffic attached to that route."""
    return {k: v for k, v in settings.items() if not k.startswith("traffic")} | {"traffic": ATTACH}


def attachment(namespace: str) -> Manifest:
    """Return somebody's route, with a rule for a rollout and a backend of its own."""
    rule = {"name": "infer", "backendRefs": [{"name": "legacy", "port": 80, "weight": 0}]}
    return {
        "apiVersion": HTTP_ROUTES.api,
        "kind": HTTP_ROUTES.kind,
        "metadata": {"name": "api", "namespace": namespace},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [rule]},
    }


def owner(api: KubeClient, namespace: str, **changes: Any) -> Owner:
    """Create a ModelRollout and return it as an owner."""
    made = api.create(ROLLOUTS, manifest(namespace, **changes))
    return Owner(namespace, made["metadata"]["name"], made["metadata"]["uid"])


def set_status(api: KubeClient, resource: Resource, name: str, namespace: str, status: Any) -> None:
    """Say what a gateway or a kubelet would say, at the object's present generation."""
    for _ in range(20):
        found = api.get(resource, namespace, name)
        try:
            api.replace(resource, found | {"status": found.get("status", {}) | status}, "status")
        except Conflict:
            continue
        return
    raise AssertionError(f"{name} never comes to rest")


def accept(api: KubeClient, resource: Resource, name: str, namespace: str, **says: str) -> None:
    """Play the Gateway: take the route up, or say why not."""
    found = api.get(resource, namespace, name)
    moment = "2026-01-01T00:00:00Z"
    conditions = [
        {
            "type": kind,
            "status": "False" if kind in says else "True",
            "reason": says.get(kind, kind),
            "message": "",
            "lastTransitionTime": moment,
            "observedGeneration": found["metadata"]["generation"],
        }
        for kind in ("Accepted", "ResolvedRefs")
    ]
    parents = [
        {"parentRef": ref, "controllerName": "tests.tidemill.dev/gateway", "conditions": conditions}
        for ref in found["spec"]["parentRefs"]
    ]
    set_status(api, resource, name, namespace, {"parents": parents})


def run_pods(api: KubeClient, namespace: str, labels: dict[str, str], count: int) -> None:
    """Play the kubelet: wait for `count` pods and let them be ready."""
    pods = eventually(lambda: _exactly(api.select(PODS, namespace, labels), count))
    for number, pod in enumerate(pods):
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        address = f"10.9.0.{number + 1}"
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [ready],
        }
        set_status(api, PODS, pod["metadata"]["name"], namespace, status)


def _exactly(found: list[Any], count: int) -> list[Any]:
    return found if len(found) == count else []


def eventually(
    look: Callable[[], T], seconds: float = 120, tell: Callable[[], str] = lambda: "never"
) -> T:
    """Return what `look` finds, as soon as it finds anything; `tell` says why it never did."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found or time.monotonic() > deadline:
            assert found, f"within {seconds:g} s: {tell()}"
            return found
        time.sleep(0.1)
