"""What the API server accepts of a ModelRollout, and what it refuses with which words."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from tests.cluster.rollouts import SPEC, change, manifest

from tidemill.adapters.kubernetes.analysis import AnalysisSpec
from tidemill.adapters.kubernetes.client import POLICIES, ROLLOUTS
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec
from tidemill.errors import Refused

POLICY = SPEC["analysis"]["inline"]
STEP = {"name": "c9", "weight": 9000}
SHADOW = {"name": "s", "shadow": {"percent": 20}, "gate": ["disagreement"]}
FLIP = {"name": "disagreement", "event": "flip", "maxRate": "0.05"}
SHADOWED = {
    "strategy.steps": [SHADOW, *SPEC["strategy"]["steps"]],
    "analysis.inline.paired": [FLIP],
}
ATTACHED = {"mode": "Attach", "kind": "GRPCRoute", "routeRef": {"name": "api", "rule": "r"}}
WRONG = {"name": "wrong", "event": "wrong", "harmRatio": "1.05", "passRatio": "1.2"}
GLASS = {"id": "1", "action": "BreakGlass", "forRevision": "0123456789"}

ACCEPTED: list[dict[str, Any]] = [
    {},
    {"analysis": {"policyRef": {"name": "default"}}},
    {"traffic": ATTACHED},
    {"traffic.hostnames": ["models.example.com"]},
    {"runtime.bundles": None, "runtime.fetchImage": SPEC["runtime"]["image"]},
    {"runtime.resources": {"requests": {"cpu": "500m", "memory": "256Mi"}}},
    {"runtime.priorityClassName": "serving", "runtime.imagePullSecrets": [{"name": "pull"}],
     "runtime.nodeSelector": {"kubernetes.io/arch": "amd64"}},
    {"runtime.tolerations": [
        {"operator": "Exists"},
        {"key": "ml", "value": "yes", "effect": "NoSchedule"},
        {"key": "ml", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]},
    {"strategy.steps.1.weight": 501},
    {"strategy.steps": [{"name": "only", "weight": 9999, "approval": True}]},
    {"analysis.inline.metrics.0.alphaShare": 80},
    {"analysis.inline.metrics.0.harmRatio": "1"},
    {"analysis.inline.metrics.1": WRONG, "analysis.inline.maturationSeconds": 3600,
     "strategy.steps.1.gate": ["wrong"], "strategy.steps.1.maxSeconds": 3601},
    {"control": {"id": "1", "action": "Approve", "forRevision": "0123456789", "step": "c5"}},
    {"control": GLASS | {"reason": "INC-7"}},
    {"strategy.freeze": [{"days": ["Fri", "Sat"], "start": "16:00", "end": "00:00",
                          "timeZone": "America/Argentina/Buenos_Aires"}]},
    {"strategy.rollbackWindow": {"revisions": 10}},
    {"model.threshold": "1.0"},
    SHADOWED,
    SHADOWED | {"traffic": ATTACHED | {"kind": "HTTPRoute"}, "strategy.intervalSeconds": 60},
    SHADOWED | {"strategy.steps.0.shadow.percent": 100, "analysis.inline.maxLostPercent": 0},
    {"analysis.inline.paired": [FLIP | {"event": "difference", "maxDifference": "0.01",
                                        "alphaShare": 20}]},
    {"analysis.evidence": {"source": "Prometheus", "url": "http://prometheus.monitoring:9090"}},
    {"analysis.evidence": {"source": "Runtime"}},
]  # fmt: skip

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "spec.model: Required"),
    ({"model.digest": "sha256:abc"}, "spec.model.digest"),
    ({"model.digest": "latest"}, "spec.model.digest"),
    ({"model.threshold": 0.25}, "spec.model.threshold"),
    ({"model.threshold": "-1"}, "spec.model.threshold"),
    ({"model.threshold": "1.5"}, "threshold is a share"),
    ({"model.scoreTails.low": "0.9"}, "scoreTails.low must not be above"),
    ({"model.version": "v1"}, "spec.model.version"),
    ({"runtime.image": "tidemill/serve:1.0"}, "spec.runtime.image"),
    ({"runtime.replicas": 0}, "spec.runtime.replicas"),
    ({"runtime.bundles": None}, "either fetchImage or bundles"),
    ({"runtime.fetchImage": SPEC["runtime"]["image"]}, "either fetchImage or bundles"),
    ({"runtime.bundles.path": "/etc"}, "spec.runtime.bundles.path"),
    ({"runtime.nodeSelector": {"zone": "x" * 64}}, "spec.runtime.nodeSelector.zone"),
    ({"runtime.tolerations": [{"value": "yes"}]}, "Equal needs a key"),
    ({"runtime.tolerations": [{"operator": "Exists", "value": "yes"}]}, "Exists takes no value"),
    ({"runtime.tolerations": [{"key": "ml", "tolerationSeconds": 1}]}, "for the effect NoExecute"),
    ({"runtime.tolerations": [{"key": "ml", "effect": "Never"}]}, "runtime.tolerations[0].effect"),
    ({"traffic.parentRefs": None}, "Owned needs parentRefs"),
    ({"traffic.parentRefs": []}, "spec.traffic.parentRefs"),
    ({"traffic.mode": "Attach"}, "Attach needs routeRef"),
    ({"traffic.mode": "Shared"}, "spec.traffic.mode"),
    ({"traffic.kind": "TCPRoute"}, "spec.traffic.kind"),
    ({"traffic": {"mode": "Attach", "routeRef": {"name": "api", "rule": "r"},
                  "hostnames": ["a.b"]}}, "hostnames are the attached route's"),
    ({"strategy.steps": []}, "spec.strategy.steps"),
    ({"strategy.rollbackWindow": {"revisions": 11}}, "rollbackWindow.revisions"),
    ({"strategy.freeze": [{"days": [], "start": "16:00", "end": "08:00"}]}, "freeze[0].days"),
    ({"strategy.freeze": [{"days": ["Fri"], "start": "4pm", "end": "08:00"}]}, "freeze[0].start"),
    ({"strategy.freeze": [{"days": ["Fri"], "start": "16:00", "end": "08:00", "timeZone": "a b"}]},
     "freeze[0].timeZone"),
    ({"control": GLASS}, "needs a reason"),
    ({"control": GLASS | {"action": "Abort", "reason": "x"}}, "no other action has one"),
    ({"strategy.steps.1.weight": 500}, "weights must increase"),
    ({"strategy.steps.1.weight": 400}, "weights must increase"),
    ({"strategy.steps.1.weight": 10000}, "spec.strategy.steps[1].weight"),
    ({"strategy.steps.0.weight": 0}, "spec.strategy.steps[0].weight"),
    ({"strategy.steps.1.name": "c5"}, "names of steps must be unique"),
    ({"strategy.steps.1.gate": ["latency"]}, "a gate names a metric"),
    ({"strategy.steps.0.minSeconds": 3601}, "minSeconds must not be above"),
    ({"strategy.onHarm": "Ignore"}, "spec.strategy.onHarm"),
    ({"analysis": {}}, "either policyRef or inline"),
    ({"analysis.evidence": {"source": "Prometheus"}}, "Prometheus needs a url"),
    ({"analysis.evidence": {"url": "http://p:9090"}}, "Prometheus needs a url, Runtime has none"),
    ({"analysis.evidence": {"source": "Prometheus", "url": "p:9090"}}, "analysis.evidence.url"),
    ({"analysis.evidence": {"source": "Datadog"}}, "spec.analysis.evidence.source"),
    ({"analysis.policyRef": {"name": "default"}}, "either policyRef or inline"),
    ({"analysis.inline.metrics": []}, "spec.analysis.inline.metrics"),
    ({"analysis.inline.metrics.1.name": "errors"}, "names of metrics must be unique"),
    ({"analysis.inline.metrics.0.passRatio": "1.2"}, "passRatio must be above harmRatio"),
    ({"analysis.inline.metrics.0.harmRatio": "0.9"}, "harmRatio must be at least 1"),
    ({"analysis.inline.metrics.0.maxRate": "1"}, "maxRate must lie between"),
    ({"analysis.inline.metrics.0.alphaShare": 81}, "at most 100 percent"),
    ({"analysis.inline.alpha": "0"}, "alpha and beta"),
    ({"analysis.inline.beta": "0.5"}, "alpha and beta"),
    ({"analysis.inline.srmAlpha": "0.2"}, "srmAlpha"),
    ({"analysis.inline.metrics.1": WRONG}, "needs maturationSeconds"),
    ({"analysis.inline.metrics.1": WRONG, "analysis.inline.maturationSeconds": 3600,
      "strategy.steps.1.gate": ["wrong"], "strategy.steps.1.maxSeconds": 3600},
     "maxSeconds above maturationSeconds"),
    ({"control": {"id": "1", "action": "Jump", "forRevision": "0123456789"}}, "control.action"),
    ({"control": {"id": "1", "action": "Abort", "forRevision": "v2"}}, "spec.control.forRevision"),
    ({"control": {"id": "1", "action": "Abort", "forRevision": "0123456789", "step": "c5"}},
     "only Approve and Skip are about a step"),
    (SHADOWED | {"strategy.steps.0.shadow.percent": 0}, "strategy.steps[0].shadow.percent"),
    (SHADOWED | {"strategy.steps.0.shadow.percent": 101}, "strategy.steps[0].shadow.percent"),
    (SHADOWED | {"strategy.steps.0.shadow": {}}, "percent: Required"),
    (SHADOWED | {"strategy.steps.0.weight": 100}, "either weight or shadow"),
    ({"strategy.steps.0.weight": None}, "either weight or shadow"),
    (SHADOWED | {"strategy.steps": [SPEC["strategy"]["steps"][0], SHADOW,
                                    SPEC["strategy"]["steps"][1]]}, "a shadow step is the first"),
    (SHADOWED | {"strategy.steps": [SHADOW, SHADOW | {"name": "t"},
                                    SPEC["strategy"]["steps"][0]]}, "a shadow step is the first"),
    (SHADOWED | {"strategy.steps": [SHADOW]}, "the last step needs a weight"),
    (SHADOWED | {"strategy.intervalSeconds": 61}, "intervalSeconds of at most 60"),
    (SHADOWED | {"traffic": ATTACHED}, "a shadow step needs an HTTPRoute"),
    (SHADOWED | {"strategy.steps.0.gate": ["errors"]}, "of a shadow step one of paired"),
    (SHADOWED | {"strategy.steps.1.gate": ["disagreement"]}, "others one of metrics"),
    ({"analysis.inline.paired": [FLIP, FLIP]}, "names of metrics must be unique"),
    ({"analysis.inline.paired": [FLIP | {"name": "errors"}]}, "names of metrics must be unique"),
    ({"analysis.inline.paired": [FLIP | {"alphaShare": 21}]}, "at most 100 percent"),
    ({"analysis.inline.paired": [FLIP | {"maxRate": "0"}]}, "maxRate and maxDifference"),
    ({"analysis.inline.paired": [FLIP | {"maxDifference": "1"}]}, "maxRate and maxDifference"),
    ({"analysis.inline.paired": [FLIP | {"event": "error"}]}, "analysis.inline.paired[0].event"),
    ({"analysis.inline.paired": [{"name": "x", "event": "flip"}]}, "maxRate: Required"),
    ({"analysis.inline.maxLostPercent": 100}, "analysis.inline.maxLostPercent"),
]  # fmt: skip

CONTROL = {"id": "1", "action": "Abort", "forRevision": "0123456789"}
UPDATES: list[tuple[dict[str, Any], str]] = [
    ({"model.version": "2", "model.digest": "sha256:" + "b" * 64}, ""),
    ({"runtime.image": "registry.test/tidemill/serve@sha256:" + "2" * 64}, ""),
    ({"strategy.steps.0.weight": 100}, ""),
    ({"paused": True}, ""),
    ({"control": None}, ""),
    ({"control": {**CONTROL, "id": "2", "action": "Retry"}}, ""),
    ({"control.action": "Retry"}, "another command needs another id"),
    ({"model.name": "other"}, "the model of a rollout is fixed"),
    ({"traffic.kind": "GRPCRoute"}, "mode and kind are fixed"),
    ({"model.threshold": "0.3"}, "they change with its digest alone"),
    ({"model.scoreTails.high": "0.4"}, "they change with its digest alone"),
    ({"model.digest": "sha256:" + "b" * 64, "model.threshold": "0.3"}, ""),
    ({"traffic": {"mode": "Attach", "routeRef": {"name": "a", "rule": "r"}}}, "mode and kind"),
]


@pytest.fixture(scope="module")
def here(cluster) -> str:
    return cluster.namespace()


def made(namespace: str, changes: dict[str, Any], name: str = "flight-delay") -> dict[str, Any]:
    body = manifest(namespace, name)
    for path, value in changes.items():
        change(body["spec"], path, copy.deepcopy(value))
    return body


@pytest.mark.parametrize("changes", ACCEPTED, ids=str)
def test_accepted_and_read_as_it_was_meant(api, here, changes):
    found = api.create(ROLLOUTS, made(here, changes, f"accepted-{ACCEPTED.index(changes)}"))
    assert ModelRolloutSpec.model_validate(found["spec"]), "defaulted by the server, read by us"
    assert found["spec"]["strategy"]["onHarm"] == "Rollback"


@pytest.mark.parametrize(("changes", "why"), REFUSED, ids=lambda value: str(value)[:60])
def test_refused_with_the_reason(api, here, changes, why):
    with pytest.raises(Refused) as refusal:
        api.create(ROLLOUTS, made(here, changes))
    assert why in refusal.value.message


@pytest.mark.parametrize(("changes", "why"), UPDATES, ids=lambda value: str(value)[:60])
def test_what_may_change_later(api, here, changes, why):
    name = f"update-{UPDATES.index((changes, why))}"
    found = api.create(ROLLOUTS, made(here, {"control": CONTROL}, name))
    for path, value in changes.items():
        change(found["spec"], path, value)
    if not why:
        assert api.replace(ROLLOUTS, found)["metadata"]["generation"] == 2
        return
    with pytest.raises(Refused, match=why):
        api.replace(ROLLOUTS, found)


def test_the_rule_of_others_is_fixed(api, here):
    attached = {"traffic": {"mode": "Attach", "routeRef": {"name": "a", "rule": "r"}}}
    found = api.create(ROLLOUTS, made(here, attached, "attached"))
    found["spec"]["traffic"]["routeRef"]["rule"] = "another"
    with pytest.raises(Refused, match="routeRef is fixed"):
        api.replace(ROLLOUTS, found)


def test_a_name_leaves_room_for_a_revision(api, here):
    api.create(ROLLOUTS, manifest(here, "n" * 40))
    with pytest.raises(Refused, match="at most 40 characters"):
        api.create(ROLLOUTS, manifest(here, "n" * 41))


def test_an_unknown_field_is_refused_not_ignored(cluster, here):
    body = manifest(here, "unknown", strategy__shadow={"percent": 20})
    said = cluster.kubectl("apply", "-f", "-", stdin=json.dumps(body), check=False)
    assert 'unknown field "spec.strategy.shadow"' in said


def test_a_policy_obeys_the_same_rules(api, here):
    head = {"apiVersion": "serving.tidemill.dev/v1alpha1", "kind": "AnalysisPolicy"}
    policy = head | {"metadata": {"name": "default", "namespace": here}, "spec": POLICY}
    found = api.create(POLICIES, policy)
    assert AnalysisSpec.model_validate(found["spec"]).alpha == "0.01"
    broken = copy.deepcopy(policy)
    broken["metadata"]["name"] = "broken"
    change(broken, "spec.metrics.0.alphaShare", 81)
    with pytest.raises(Refused, match="at most 100 percent"):
        api.create(POLICIES, broken)


def test_what_people_see(cluster, api, here):
    api.create(ROLLOUTS, manifest(here, "seen"))
    wide = cluster.kubectl("get", "mro", "seen", "-n", here, "-o", "wide")
    assert wide.split("\n")[0].split() == [
        "NAME", "PHASE", "STABLE", "CANARY", "STEP", "WEIGHT", "PROMOTED", "WHY", "AGE",
    ]  # fmt: skip
    assert "seen" in cluster.kubectl("get", "tidemill", "-n", here)
    explained = cluster.kubectl("explain", "modelrollout.spec.strategy.onHarm")
    assert "What a harm verdict does" in explained


def test_the_status_is_a_subresource(api, here):
    found = api.create(ROLLOUTS, manifest(here, "statusful"))
    api.replace(ROLLOUTS, found | {"status": {"phase": "stable"}})
    assert "status" not in api.get(ROLLOUTS, here, "statusful")
    found = api.get(ROLLOUTS, here, "statusful")
    changed = copy.deepcopy(found) | {"status": {"phase": "stable"}}
    change(changed, "spec.paused", True)
    after = api.replace(ROLLOUTS, changed, "status")
    assert after["status"] == {"phase": "stable"}
    assert after["spec"] == found["spec"]
    assert after["metadata"]["generation"] == found["metadata"]["generation"]
    with pytest.raises(Refused, match=r"status\.phase"):
        api.replace(ROLLOUTS, after | {"status": {"phase": "Dancing"}}, "status")
