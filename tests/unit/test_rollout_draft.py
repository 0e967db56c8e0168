"""The ModelRollout that the settings make is the plan of one machine."""

from __future__ import annotations

import dataclasses

import pytest
from tests.unit.rollout_world import revision

from tidemill.adapters.kubernetes.draft import Draft
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec, make_revision
from tidemill.controller.plan import make_plan
from tidemill.errors import ConfigError
from tidemill.settings import Settings, load

DIGEST = "@sha256:" + "1" * 64
CLUSTER = [
    f"execution.images={{serve: 'r.test/serve{DIGEST}', registry: 'r.test/registry{DIGEST}'}}",
    "rollout.kubernetes.gateway=public",
]
FREEZE = "{days: [fri, sat], start: '16:00', end: '08:00', time_zone: Europe/Berlin}"
SHADOW = "{name: try, weight: 0, shadow: {percent: 20}, gate: [flips]}, {name: c5, weight: 500}"
PAIRED = "{name: flips, event: flip, max_rate: 0.05, alpha_share: 0.2}"
WANTED = dataclasses.replace(revision("v2"), digest="sha256:" + "2" * 64)


def settings(*assignments: str) -> Settings:
    return load(None, assignments=[*CLUSTER, *assignments]).settings


@pytest.mark.parametrize(
    "assignments",
    [
        (),
        ("rollout.on_harm=freeze", "rollout.on_new_revision=queue", "rollout.max_gap=0.2"),
        ("rollout.on_stable_unhealthy=proceed", "monitoring.maturity_hours=48"),
        ("rollout.analysis.alpha=0.003", "rollout.on_inconclusive=continue"),
        ("rollout.rollback_window=2", f"rollout.freeze=[{FREEZE}]"),
        (f"rollout.steps=[{SHADOW}]", f"rollout.analysis.paired=[{PAIRED}]"),
    ],
    ids=str,
)
def test_the_plan_is_that_of_one_machine(assignments):
    found = settings(*assignments)
    made = Draft(found).plan()
    expected = make_plan(found)
    metrics = tuple(
        dataclasses.replace(metric, alpha=pytest.approx(metric.alpha))
        for metric in expected.metrics
    )
    paired = tuple(
        dataclasses.replace(rate, alpha=pytest.approx(rate.alpha)) for rate in expected.paired
    )
    assert (made.metrics, made.paired) == (metrics, paired)
    rest = {"metrics": (), "paired": ()}
    assert dataclasses.replace(made, **rest) == dataclasses.replace(expected, **rest)


def test_whom_the_controller_asks_is_of_the_settings():
    for url in ("", "http://prometheus.monitoring:9090"):
        found = settings(f"rollout.prometheus_url='{url}'")
        spec = ModelRolloutSpec.model_validate(Draft(found).spec(WANTED))
        assert spec.analysis.prometheus == url


def test_durations_are_rounded_up():
    made = Draft(settings("rollout.settle_seconds=1.2", "rollout.interval_seconds=0.2")).plan()
    assert (made.settle_seconds, made.interval_seconds) == (2.0, 1.0)


def test_the_promotion_tuple_is_the_registrys():
    wanted = make_revision(ModelRolloutSpec.model_validate(Draft(settings()).spec(WANTED)))
    kept = ("model", "version", "digest", "threshold", "score_tails", "reported")
    assert [getattr(wanted, name) for name in kept] == [getattr(WANTED, name) for name in kept]


def test_what_serves_is_of_the_settings():
    kept = settings(
        "rollout.kubernetes.bundles_claim=models",
        "rollout.kubernetes.secret=keys",
        "rollout.kubernetes.config_map=env",
        "rollout.kubernetes.service_account=server",
        "rollout.kubernetes.priority_class=serving",
        "rollout.kubernetes.pull_secrets=[pull]",
        "rollout.kubernetes.node_selector={kubernetes.io/arch: amd64}",
        "rollout.kubernetes.tolerations=[{key: ml, effect: NoExecute, tolerationSeconds: 60}]",
        "rollout.kubernetes.gateway_namespace=edge",
        "rollout.kubernetes.hostnames=[api.example.com]",
        "rollout.kubernetes.route=GRPCRoute",
    )
    spec = ModelRolloutSpec.model_validate(Draft(kept).spec(WANTED))
    runtime, traffic = spec.runtime, spec.traffic
    assert runtime.bundles
    assert runtime.bundles.claim_name == "models"
    assert runtime.fetch_image is None
    assert (runtime.secret.name, runtime.config_map.name) == ("keys", "env")
    assert runtime.service_account_name == "server"
    assert runtime.priority_class_name == "serving"
    assert [one.name for one in runtime.image_pull_secrets] == ["pull"]
    assert runtime.node_selector == {"kubernetes.io/arch": "amd64"}
    (taint,) = runtime.tolerations
    assert (taint.key, taint.effect, taint.toleration_seconds) == ("ml", "NoExecute", 60)
    assert runtime.resources.requests == {"cpu": "500m", "memory": "512Mi"}
    assert (traffic.kind, traffic.hostnames) == ("GRPCRoute", ["api.example.com"])
    assert (traffic.parent_refs[0].name, traffic.parent_refs[0].namespace) == ("public", "edge")


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("rollout.kubernetes.gateway=''", "gateway is empty"),
        ("execution.images={serve: 'r.test/serve:1'}", "expected an image by digest"),
        (
            f"execution.images={{serve: 'r.test/serve{DIGEST}'}}",
            r"execution\.images\.registry is ''",
        ),
        ("rollout.analysis.min_coverage=0.805", "whole number of percents"),
        ("rollout.kubernetes.hostnames=[UPPER]", "traffic.hostnames.0"),
        ("rollout.kubernetes.tolerations=[{taint: ml}]", "runtime.tolerations.0.taint"),
    ],
    ids=str,
)
def test_settings_that_make_no_resource(assignment, says):
    with pytest.raises(ConfigError, match=says):
        Draft(settings(assignment)).spec(WANTED)
