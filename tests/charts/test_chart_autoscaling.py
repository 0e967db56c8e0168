"""Autoscalers: one per model that wants one, of its ModelRollout, by metrics that exist."""

from __future__ import annotations

from typing import Any

import pytest
from tests.charts.profiles import HPA, KEDA, MODEL, ONE_MODEL, ROLLOUT
from tests.charts.rendering import Object, Refused, render, template
from tests.charts.test_chart_dashboard import test_a_query_is_of_series_and_labels_that_exist

KINDS = ("HorizontalPodAutoscaler", "ScaledObject")
NO_REQUEST: dict[str, Any] = {"servers": {"resources": {"requests": {"cpu": None}}}}


def values(autoscaling: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return values with one model that is scaled."""
    return ONE_MODEL | {"models": [MODEL | {"autoscaling": autoscaling}]} | changes


def autoscaler(autoscaling: dict[str, Any], **changes: Any) -> Object:
    """Return the one autoscaler that is made."""
    made = render(values(autoscaling, **changes))
    (found,) = [one for one in made if one["kind"] in KINDS]
    return found


@pytest.mark.parametrize(("autoscaling", "kind"), [(HPA, KINDS[0]), (KEDA, KINDS[1])])
def test_it_scales_the_rollout(autoscaling: dict[str, Any], kind: str) -> None:
    found = autoscaler(autoscaling)
    assert found["kind"] == kind
    assert found["spec"]["scaleTargetRef"] == {
        "apiVersion": "serving.tidemill.dev/v1alpha1",
        "kind": "ModelRollout",
        "name": "churn",
    }


def test_by_cpu_at_kubernetes_own_default() -> None:
    assert utilisation(autoscaler(HPA)) == 80
    assert utilisation(autoscaler(HPA | {"targetCPU": 60})) == 60


def utilisation(found: Object) -> int:
    (metric,) = found["spec"]["metrics"]
    assert metric["resource"]["name"] == "cpu"
    return int(metric["resource"]["target"]["averageUtilization"])


def test_keda_counts_the_requests_of_all_arms() -> None:
    (trigger,) = autoscaler(KEDA)["spec"]["triggers"]
    query = trigger["metadata"]["query"]
    test_a_query_is_of_series_and_labels_that_exist(query)
    assert 'namespace="ml", model="Churn"' in query
    assert "revision" not in query, "what one revision must be able to take alone"
    assert trigger["metricType"] == "AverageValue"


def test_keda_by_a_query_of_ones_own_and_by_cpu() -> None:
    keda = KEDA["keda"] | {"query": "sum(up)", "threshold": 0.5}
    prometheus, cpu = autoscaler(KEDA | {"keda": keda, "targetCPU": 70})["spec"]["triggers"]
    assert prometheus["metadata"]["query"] == "sum(up)"
    assert prometheus["metadata"]["threshold"] == "0.5"
    assert (cpu["type"], cpu["metricType"]) == ("cpu", "Utilization")
    assert cpu["metadata"] == {"value": "70"}


def test_the_number_of_servers_is_left_to_the_autoscaler() -> None:
    runtime = {key: value for key, value in ROLLOUT["runtime"].items() if key != "replicas"}
    model = MODEL | {"rollout": ROLLOUT | {"runtime": runtime}, "autoscaling": HPA}
    (made,) = [
        one for one in render(ONE_MODEL | {"models": [model]}) if one["kind"] == "ModelRollout"
    ]
    assert "replicas" not in made["spec"]["runtime"]


def test_a_rollout_that_others_apply_is_scaled_too() -> None:
    found = autoscaler(HPA, models=[{"name": "upsell", "autoscaling": HPA}])
    assert found["spec"]["scaleTargetRef"]["name"] == "upsell"


REFUSED: list[tuple[dict[str, Any], str]] = [
    (values({"minReplicas": 2}), "maxReplicas"),
    (values(HPA | {"minReplicas": 0}), "minReplicas"),
    (values(HPA | {"minReplicas": 7}), "models[churn].autoscaling.minReplicas is above"),
    (values(HPA | {"targetMemory": 80}), "'targetMemory' not allowed"),
    (values(HPA | {"keda": {"threshold": 1}}), "serverAddress"),
    (values(HPA, **NO_REQUEST), "models[churn].autoscaling goes by CPU"),
    (values(KEDA | {"targetCPU": 80}, **NO_REQUEST), "models[churn].autoscaling goes by CPU"),
]


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_what_cannot_scale_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused) as refused:
        template(given)
    assert words in str(refused.value)


def test_without_cpu_requests_it_scales_by_requests_of_clients() -> None:
    assert autoscaler(KEDA, **NO_REQUEST)["kind"] == "ScaledObject"
