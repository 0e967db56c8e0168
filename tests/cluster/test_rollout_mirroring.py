"""A shadow step where the Gateway cannot mirror, or does not say that it can, is refused."""

from __future__ import annotations

from typing import Any

import pytest
from tests.cluster.rollouts import MIRRORS, gateway, manifest
from tests.unit.rollout_world import START

from tidemill.adapters.kubernetes import mirroring
from tidemill.adapters.kubernetes.client import GATEWAY_CLASSES, HTTP_ROUTES, ROLLOUTS
from tidemill.adapters.kubernetes.mirroring import Mirroring
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
from tidemill.errors import DataError, Unavailable

NAME = "flight-delay"


def shadowed(namespace: str, percent: int = 20, **changes: Any) -> dict[str, Any]:
    body = manifest(namespace, **changes)
    body["spec"]["strategy"]["steps"].insert(0, {"name": "try", "shadow": {"percent": percent}})
    return body


def spec(namespace: str, percent: int = 20, **changes: Any) -> ModelRolloutSpec:
    return ModelRolloutSpec.model_validate(shadowed(namespace, percent, **changes)["spec"])


def test_the_status_says_what_the_gateway_lacks(cluster, api, namespace):
    kind = gateway(cluster, namespace, "HTTPRouteRequestMirror")
    api.create(ROLLOUTS, shadowed(namespace))
    rollouts = ResourceRollouts(api, namespace, lambda: START)
    assert rollouts.spec(NAME) is None
    rollouts.acknowledge(NAME)
    (said,) = api.get(ROLLOUTS, namespace, NAME)["status"]["conditions"]
    assert (said["type"], said["status"], said["reason"]) == ("SpecValid", "False", "InvalidPlan")
    assert said["message"] == (
        f"strategy.steps try: GatewayClass {kind} of Gateway gateway does not list "
        "HTTPRouteRequestPercentageMirror in status.supportedFeatures: it may not mirror"
    )


def test_what_is_listed_is_enough(cluster, api, namespace):
    gateway(cluster, namespace, *MIRRORS)
    api.create(ROLLOUTS, shadowed(namespace))
    found = ResourceRollouts(api, namespace, lambda: START).spec(NAME)
    assert found
    assert found.plan.steps[0].mirror == 2000


def test_all_requests_need_no_share(cluster, api, namespace):
    gateway(cluster, namespace, "HTTPRouteRequestMirror")
    Mirroring(api, namespace).check(spec(namespace, 100))
    with pytest.raises(DataError, match="PercentageMirror"):
        Mirroring(api, namespace).check(spec(namespace, 99))


def test_a_class_that_says_nothing_is_refused(cluster, api, namespace):
    gateway(cluster, namespace)
    with pytest.raises(DataError, match="HTTPRouteRequestMirror, HTTPRouteRequestPercentageMirror"):
        Mirroring(api, namespace).check(spec(namespace))


def test_a_gateway_that_is_not_there_is_named(api, namespace):
    with pytest.raises(DataError, match='"gateway" not found'):
        Mirroring(api, namespace).check(spec(namespace))


def test_a_rollout_without_a_shadow_asks_for_no_gateway(namespace):
    class Nobody:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    plain = ModelRolloutSpec.model_validate(manifest(namespace)["spec"])
    Mirroring(Nobody(), namespace).check(plain)


def test_an_attached_route_tells_its_gateways(cluster, api, namespace):
    gateway(cluster, namespace, *MIRRORS)
    reference = {"name": "api", "rule": "infer"}
    attached = spec(namespace, traffic={"mode": "Attach", "routeRef": reference})
    with pytest.raises(DataError, match='"api" not found'):
        Mirroring(api, namespace).check(attached)
    body = {
        "apiVersion": HTTP_ROUTES.api,
        "kind": HTTP_ROUTES.kind,
        "metadata": {"name": "api", "namespace": namespace},
        "spec": {"parentRefs": [{"name": "gateway"}], "rules": [{"name": "infer"}]},
    }
    api.create(HTTP_ROUTES, body)
    Mirroring(api, namespace).check(attached)


def test_an_api_server_that_is_away_leaves_what_was_known(cluster, api, namespace, monkeypatch):
    gateway(cluster, namespace, *MIRRORS)

    class Away:
        away = False

        def get(self, *arguments: Any) -> Any:
            if self.away:
                raise Unavailable("no answer")
            return api.get(*arguments)

    objects = Away()
    asked = Mirroring(objects, namespace)
    asked.check(spec(namespace))
    objects.away = True
    monkeypatch.setattr(mirroring, "monotonic", lambda: 1e12)
    asked.check(spec(namespace))
    with pytest.raises(DataError, match="no answer"):
        Mirroring(objects, namespace).check(spec(namespace))
    assert api.get(GATEWAY_CLASSES, "", f"class-{namespace}")["status"]["supportedFeatures"]
