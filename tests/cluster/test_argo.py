"""Argo Rollouts asks the judge: a good canary is promoted, a bad one aborted.

The controller is the maker's program, its Rollouts run real model servers, traffic flows through a
Service; the judge runs under its own role.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.cluster.build import MODULE
from tests.cluster.delivery import FAST, SLOW, Delivery, define, module, programs, running, until
from tests.servers import free_port
from tests.serving import make_project

pytestmark = [pytest.mark.slow, pytest.mark.argo]


@pytest.fixture(scope="module")
def argo(cluster, node, tmp_path_factory) -> Iterator[Delivery]:
    program = programs("argo", "rollouts-controller")
    source = module("github.com/argoproj/argo-rollouts", MODULE / "argo")
    define(cluster, sorted((source / "manifests/crds").glob("*-crd.yaml")))
    folder = tmp_path_factory.mktemp("argo")
    project = make_project(folder)
    namespace = cluster.namespace()
    options = ["--namespaced", "--namespace", namespace, "--leader-elect=false"]
    options += ["--kubeconfig", str(cluster.kubeconfig), "--rollout-resync", "5"]
    options += ["--metricsPort", str(free_port()), "--healthzPort", str(free_port())]
    with running(folder, "argo-rollouts", program, *options):
        yield Delivery(cluster, node, project, namespace)
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def analysis(name: str, judge: str, namespace: str) -> dict[str, Any]:
    """Return the template of docs/rollout-interop.md for a Rollout of this name."""
    asked = {
        "attempt": f"{namespace}/{name}/{{{{args.canary-hash}}}}",
        "stable": f"{namespace}/{name}-stable",
        "canary": f"{namespace}/{name}-canary",
        "weight": "{{args.weight}}",
        "gate": "slow",
    }
    web = {
        "method": "POST",
        "url": f"{judge}/v1/judge",
        "headers": [{"key": "Authorization", "value": "Bearer unused"}],
        "jsonBody": asked,
        "jsonPath": "{$.verdict}",
    }
    metric = {
        "name": "judge",
        "interval": "2s",
        "count": 1000,
        "successCondition": 'result == "pass"',
        "failureCondition": 'result == "harm"',
        "consecutiveSuccessLimit": 1,
        "failureLimit": 0,
        "inconclusiveLimit": 1000,
        "provider": {"web": web},
    }
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "AnalysisTemplate",
        "metadata": {"name": name},
        "spec": {"args": [{"name": "canary-hash"}, {"name": "weight"}], "metrics": [metric]},
    }


def rollout(delivery: Delivery, name: str, slow_ms: str, note: str) -> dict[str, Any]:
    latest = {"podTemplateHashValue": "Latest"}
    arguments = [
        {"name": "canary-hash", "valueFrom": latest},
        {"name": "weight", "value": "50"},
    ]
    step = {"templates": [{"templateName": name}], "args": arguments}
    pod = delivery.pod(name, slow_ms)
    pod["metadata"]["annotations"] = {"note": note}
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Rollout",
        "metadata": {"name": name},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": pod,
            "strategy": {
                "canary": {
                    "stableService": f"{name}-stable",
                    "canaryService": f"{name}-canary",
                    "steps": [{"setWeight": 50}, {"analysis": step}],
                }
            },
        },
    }


@pytest.mark.parametrize(
    ("name", "stable", "phase", "ended"),
    [("good", SLOW, "Healthy", "Successful"), ("bad", FAST, "Degraded", "Failed")],
)
def test_the_judges_word_is_what_argo_does(argo, name, stable, phase, ended):
    """Every request to the canary is slow; so it is to one stable version and not to the other."""
    with argo.judge() as judge:
        argo.apply(
            analysis(name, judge, argo.namespace),
            *[argo.service(f"{name}{part}", name) for part in ("", "-stable", "-canary")],
            rollout(argo, name, stable, "first"),
        )

        def status() -> dict[str, Any]:
            return argo.get("rollout", name).get("status", {})

        until(lambda: status().get("phase") == "Healthy", "the first deployment")
        first = status()["stableRS"]
        with argo.traffic(argo.address(name)) as answered:
            argo.apply(rollout(argo, name, SLOW, "second"))
            until(lambda: status().get("currentPodHash") != first, "the canary")
            until(lambda: status().get("phase") == phase, f"{phase}: {status()}")
        second = status()["currentPodHash"]
        assert (status()["stableRS"] == second) == (phase == "Healthy")
        assert bool(status().get("abort")) == (phase == "Degraded")
        (run,) = argo.get("analysisruns", f"--selector=rollouts-pod-template-hash={second}")[
            "items"
        ]
        (metric,) = run["status"]["metricResults"]
        assert (run["status"]["phase"], metric["phase"]) == (ended, ended)
        assert metric.get("inconclusive", 0) > 0, "undecided is neither"
        assert "error" not in metric
        assert answered
        assert set(answered) <= {200}


def test_without_its_role_the_judge_knows_nothing(argo):
    """What the good canary's test was granted, verb by verb; what is not known is missing."""
    with argo.judge() as judge:
        arms = {arm: f"{argo.namespace}/good-{arm}" for arm in ("stable", "canary")}
        asked = {"attempt": "role", "weight": 50, "gate": "slow", **arms}
        assert "forbidden" not in httpx.post(f"{judge}/v1/judge", json=asked).text
        argo.grant([])

        def refused() -> bool:
            found = httpx.post(f"{judge}/v1/judge", json=asked | {"attempt": "role 2"}).json()
            return found["verdict"] == "missing" and "forbidden" in found["reason"]

        until(refused, "the refusal")
