"""Flagger asks the judge: a good canary is promoted, a bad one rolled back.

The controller is the maker's program, it weighs an HTTPRoute of the tests' gateway; the payload of
its webhooks has no weight, so the judge reads that from the Canary, under its own role.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.cluster.build import MODULE
from tests.cluster.delivery import (
    FAST,
    SLOW,
    Delivery,
    define,
    module,
    programs,
    running,
    until,
)
from tests.serving import make_project

pytestmark = [pytest.mark.slow, pytest.mark.flagger]


@pytest.fixture(scope="module")
def flagger(cluster, node, gateway, tmp_path_factory) -> Iterator[Delivery]:
    program = programs("flagger", "flagger")
    source = module("github.com/fluxcd/flagger", MODULE / "flagger")
    define(cluster, [source / "artifacts/flagger/crd.yaml"])
    folder = tmp_path_factory.mktemp("flagger")
    namespace = cluster.namespace()
    options = [f"-kubeconfig={cluster.kubeconfig}", f"-namespace={namespace}", "-port=0"]
    options += ["-mesh-provider=gatewayapi:v1", "-control-loop-interval=2s", "-log-level=info"]
    with running(folder, "flagger", program, *options):
        delivery = Delivery(cluster, node, make_project(folder), namespace)
        listener = {"name": "http", "protocol": "HTTP", "port": 8080}
        delivery.apply(
            {
                "apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "Gateway",
                "metadata": {"name": "edge"},
                "spec": {"gatewayClassName": gateway, "listeners": [listener]},
            }
        )
        programmed = ("--for=condition=Programmed", "--timeout=300s")
        delivery.kubectl("wait", "gateway/edge", *programmed)
        yield delivery
    cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def deployment(delivery: Delivery, name: str, slow_ms: str, note: str) -> dict[str, Any]:
    pod = delivery.pod(name, slow_ms)
    pod["metadata"]["annotations"] = {"note": note}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": pod},
    }


def canary(name: str, judge: str) -> dict[str, Any]:
    """Return the Canary of docs/rollout-interop.md."""
    types = ("confirm-traffic-increase", "confirm-promotion", "rollout", "rollback")
    hooks = [
        {"name": f"judge-{kind}", "type": kind, "url": f"{judge}/v1/flagger/{kind}",
         "metadata": {"gate": "slow"}}
        for kind in types
    ]  # fmt: skip
    return {
        "apiVersion": "flagger.app/v1beta1",
        "kind": "Canary",
        "metadata": {"name": name},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "progressDeadlineSeconds": 300,
            "service": {
                "port": 80,
                "targetPort": "http",
                "portName": "http",
                "hosts": [f"{name}.test"],
                "gatewayRefs": [{"name": "edge"}],
            },
            "analysis": {
                "interval": "10s",
                "threshold": 5,
                "maxWeight": 50,
                "stepWeight": 50,
                "webhooks": hooks,
            },
        },
    }


@pytest.mark.parametrize(
    ("name", "stable", "phase"), [("good", SLOW, "Succeeded"), ("bad", FAST, "Failed")]
)
def test_the_judges_word_is_what_flagger_does(flagger, name, stable, phase):
    """Every request to the canary is slow; so it is to one stable version and not to the other."""
    with flagger.judge() as judge:
        flagger.apply(deployment(flagger, name, stable, "first"), canary(name, judge))

        def status() -> dict[str, Any]:
            return flagger.get("canary", name).get("status", {})

        def events() -> str:
            return flagger.kubectl(
                "get", "events", "--field-selector", f"involvedObject.name={name}"
            )

        until(lambda: status().get("phase") == "Initialized", "the first deployment")
        address = flagger.get("gateway", "edge")["status"]["addresses"][0]["value"]
        with flagger.traffic(f"http://{address}:8080", host=f"{name}.test") as answered:
            flagger.apply(deployment(flagger, name, SLOW, "second"))
            until(lambda: status().get("phase") == "Progressing", "the canary")
            until(lambda: status().get("phase") in ("Succeeded", "Failed"), f"{phase}: {events()}")
        assert status()["phase"] == phase, events()
        assert answered.count(200) > 0.9 * len(answered)
        assert set(answered) <= {200, 503}, "it ends a canary before its route is in force"
        if phase == "Failed":
            assert "Rolling back" in events()
