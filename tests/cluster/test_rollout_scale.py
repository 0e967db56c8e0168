"""Scaling a rollout through its `scale` subresource: by kubectl, by Kubernetes' own autoscaler.

There is no metrics server here. Without one an autoscaler still keeps its target between its
bounds; what one would say of the pods' CPU is played by a custom resource in its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.charts.rendering import controller_rules
from tests.cluster.rollout_plane import PlayedPlane
from tests.cluster.rollouts import (
    attached,
    attachment,
    eventually,
    manifest,
)
from tests.cluster.test_rollout_controller import (
    FAST,
    NAME,
    grant,
    running,
    stable,
    status,
    want,
)

from tidemill.adapters.kubernetes.client import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    PODS,
    ROLLOUTS,
    KubeClient,
    Resource,
)
from tidemill.adapters.kubernetes.owned import ROLLOUT

pytestmark = pytest.mark.usefixtures("controllers")

HELD = FAST | {
    "strategy__steps": [{"name": "c50", "weight": 5000, "minEvents": 300, "approval": True}]
}
"""A canary that has half of the requests until somebody approves."""
METRICS = Resource("metrics.k8s.io/v1beta1", "PodMetrics", "pods")
METRICS_CRD = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "pods.metrics.k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, in the place of its server"},
    },
    "spec": {
        "group": "metrics.k8s.io",
        "names": {"kind": METRICS.kind, "plural": METRICS.plural},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1beta1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "x-kubernetes-preserve-unknown-fields": True,
                    }
                },
            }
        ],
    },
}


@pytest.fixture
def account(cluster, api, namespace, programs) -> Any:
    return grant(cluster, namespace, controller_rules())


def scale(cluster: Any, namespace: str, replicas: int) -> None:
    """Scale as a person does."""
    cluster.kubectl("scale", f"mro/{NAME}", f"--replicas={replicas}", "-n", namespace)


def seen(cluster: Any, namespace: str) -> dict[str, Any]:
    """Return what an autoscaler reads."""
    path = f"/apis/serving.tidemill.dev/v1alpha1/namespaces/{namespace}/modelrollouts/{NAME}/scale"
    return dict(json.loads(cluster.kubectl("get", "--raw", path)))


def servers(api: KubeClient, namespace: str) -> list[int]:
    """Return the number of available servers of each revision."""
    found = api.select(DEPLOYMENTS, namespace, {ROLLOUT: NAME})
    return [one.get("status", {}).get("availableReplicas", 0) for one in found]


def held(api: KubeClient, namespace: str) -> dict[str, Any]:
    """Return the status once the canary waits for an approval and for nothing else."""

    def look() -> dict[str, Any] | None:
        found = status(api, namespace)
        known = {one["type"]: one["reason"] for one in found.get("conditions", [])}
        return found if known.get("Progressing") == "WaitingApproval" else None

    return eventually(look, 90)


def approve(cluster: Any, namespace: str, revision: str) -> None:
    control = {"id": "1", "action": "Approve", "forRevision": revision}
    patch = json.dumps({"spec": {"control": control}})
    cluster.kubectl("patch", "mro", NAME, "-n", namespace, "--type=merge", "-p", patch)


@pytest.mark.slow
def test_a_canary_goes_on_while_it_is_scaled(cluster, api, namespace, account):
    with PlayedPlane(api, namespace, NAME) as plane, running(account, namespace, plane):
        api.create(ROLLOUTS, manifest(namespace, **HELD))
        first = stable(api, namespace, "1")["stable"]["revision"]
        scale(cluster, namespace, 2)
        eventually(lambda: servers(api, namespace) == [2])
        eventually(lambda: seen(cluster, namespace)["status"]["replicas"] == 2)
        want(cluster, namespace, 2)
        before = held(api, namespace)
        scale(cluster, namespace, 3)
        eventually(lambda: servers(api, namespace) == [3, 3], 60)
        eventually(lambda: seen(cluster, namespace)["status"]["replicas"] == 6)
        after = held(api, namespace)
        second = after["canary"]["revision"]
        for same in ("attempt", "canary", "stable", "step", "weight", "decisions"):
            assert after[same] == before[same], same
        assert sorted(_revisions(seen(cluster, namespace))) == sorted([first, second])
        approve(cluster, namespace, second)
        found = stable(api, namespace, "2")
        assert [one["action"] for one in found["decisions"]].count("begin") == 1
        assert plane.unanswered == 0
        eventually(lambda: seen(cluster, namespace)["status"]["replicas"] == 3)
        assert _revisions(seen(cluster, namespace)) == [second]


def _revisions(found: dict[str, Any]) -> list[str]:
    rollout, _, revisions = found["status"]["selector"].partition(",")
    assert rollout == f"{ROLLOUT}={NAME}"
    return str(revisions.partition("(")[2].rstrip(")")).split(",")


@pytest.mark.slow
def test_kubernetes_autoscaler_finds_and_scales_it(cluster, api, namespace, account):
    with PlayedPlane(api, namespace, NAME) as plane, running(account, namespace, plane):
        api.create(ROLLOUTS, manifest(namespace, **HELD))
        stable(api, namespace, "1")
        want(cluster, namespace, 2)
        before = held(api, namespace)
        options = (f"mro/{NAME}", "--min=2", "--max=4", "--cpu-percent=80", "-n", namespace)
        cluster.kubectl("autoscale", *options)
        eventually(lambda: servers(api, namespace) == [2, 2], 90)
        hpa = eventually(lambda: _able(cluster, namespace), 60)
        assert hpa["AbleToScale"] in ("SucceededRescale", "SucceededGetScale", "ReadyForNewScale")
        assert hpa["ScalingActive"] == "FailedGetResourceMetric", "there is no metrics API here"
        after = held(api, namespace)
        for same in ("attempt", "canary", "stable", "step", "weight", "decisions"):
            assert after[same] == before[same], same
        events = cluster.kubectl("get", "events", "-n", namespace, "-o", "json")
        said = [one.get("message", "") for one in json.loads(events)["items"]]
        assert any("New size: 2; reason: Current number of replicas below" in m for m in said)
        scale(cluster, namespace, 9)
        eventually(lambda: servers(api, namespace) == [4, 4], 90)


def _able(cluster: Any, namespace: str) -> dict[str, str] | None:
    """Return the conditions of the autoscaler by type, once it has looked for metrics."""
    found = json.loads(cluster.kubectl("get", "hpa", NAME, "-n", namespace, "-o", "json"))
    reasons = {one["type"]: one["reason"] for one in found["status"].get("conditions", [])}
    return reasons if "ScalingActive" in reasons else None


@pytest.fixture
def metrics(cluster) -> Iterator[None]:
    """Let PodMetrics be objects that a test writes."""
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(METRICS_CRD))
    name = METRICS_CRD["metadata"]["name"]
    cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=300s")
    yield
    cluster.kubectl("delete", "crd", name)


def spread(api: KubeClient, namespace: str, millicores: int) -> None:
    """Say that the pods use so much together, each the same."""
    pods = api.select(PODS, namespace, {ROLLOUT: NAME})
    for pod in pods:
        body = {
            "apiVersion": METRICS.api,
            "kind": METRICS.kind,
            "metadata": {k: pod["metadata"][k] for k in ("name", "namespace", "labels")},
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "window": "1s",
            "containers": [{"name": "server", "usage": {"cpu": f"{millicores / len(pods):.0f}m"}}],
        }
        api.apply(METRICS, body, force=True)


@pytest.mark.slow
def test_an_autoscaler_gives_each_arm_what_the_whole_load_needs(
    cluster, api, namespace, account, metrics
):
    """220 millicores at 80 for a server: three of each, whoever has the requests at present.

    The mean over stable alone, 55 of 80 at half of the requests, would keep two; that over one arm
    that has all of them, 110 of 80, is three as well.
    """
    resources = {"requests": {"cpu": "100m"}}
    settings = HELD | {"runtime__replicas": 2, "runtime__resources": resources}
    with PlayedPlane(api, namespace, NAME) as plane, running(account, namespace, plane):
        api.create(ROLLOUTS, manifest(namespace, **settings))
        stable(api, namespace, "1")
        want(cluster, namespace, 2)
        before = held(api, namespace)
        options = (f"mro/{NAME}", "--min=1", "--max=9", "--cpu-percent=80", "-n", namespace)
        cluster.kubectl("autoscale", *options)

        def scaled() -> bool:
            spread(api, namespace, 220)
            return servers(api, namespace) == [3, 3]

        eventually(scaled, 120)
        approve(cluster, namespace, before["canary"]["revision"])
        stable(api, namespace, "2")
        spread(api, namespace, 220)
        found = json.loads(cluster.kubectl("get", "hpa", NAME, "-n", namespace, "-o", "json"))
        assert found["status"]["desiredReplicas"] == 3
        eventually(lambda: servers(api, namespace) == [3])


@pytest.mark.slow
def test_on_a_route_of_others_it_scales_the_same(cluster, api, namespace, account):
    """The route is somebody else's there; the servers are the rollout's as ever."""
    api.create(HTTP_ROUTES, attachment(namespace))
    with PlayedPlane(api, namespace, "api") as plane, running(account, namespace, plane):
        api.create(ROLLOUTS, manifest(namespace, **attached(HELD)))
        stable(api, namespace, "1")
        scale(cluster, namespace, 3)
        eventually(lambda: servers(api, namespace) == [3], 60)
        eventually(lambda: seen(cluster, namespace)["status"]["replicas"] == 3)


def test_a_number_below_one_is_refused(cluster, api, namespace):
    api.create(ROLLOUTS, manifest(namespace))
    command = ("scale", f"mro/{NAME}", "--replicas=0", "-n", namespace)
    said = cluster.kubectl(*command, check=False)
    assert "spec.runtime.replicas" in said
    assert api.get(ROLLOUTS, namespace, NAME)["spec"]["runtime"]["replicas"] == 2
