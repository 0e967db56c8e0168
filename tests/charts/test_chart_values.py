"""The chart's values: documented, checked, and each of them does something."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from tests.charts import reference, values
from tests.charts.profiles import (
    BACKEND,
    DIGEST,
    DIGESTS,
    EVERYTHING,
    MODEL,
    ONE_MODEL,
    ROLLOUT,
    SETTINGS,
)
from tests.charts.rendering import CHART, NEEDED, ROOT, Refused, merged, render, template

from tidemill.settings import load

OWN_IMAGES = {"image": f"acme/serve@{DIGEST}", "fetchImage": f"acme/registry@{DIGEST}"}
BEFORE: dict[str, dict[str, Any]] = {
    # A digest decides over a tag; a rollout that names its images needs none.
    "images.registry.tag": {
        "images": {"registry": {"digest": ""}},
        "models": [{"name": "churn", "rollout": ROLLOUT | {"runtime": OWN_IMAGES}}],
    },
    "priorityClasses.control": {"priorityClasses": {"create": False}},
    "priorityClasses.batch": {"priorityClasses": {"create": False}},
    "priorityClasses.serving": {"priorityClasses": {"create": False}},
    "mlflow.enabled": {
        "mlflow": {"enabled": False},
        "settings": {"registry": {"uri": "http://mlflow.example.com"}},
    },
    "mlflow.persistence.enabled": {"settings": {"registry": BACKEND}},
}
"""What has to be so for a value to matter, over EVERYTHING."""
AFTER: dict[str, dict[str, Any]] = {
    "controller.scope": {"controller": {"scope": "Namespace"}},
    "mlflow.enabled": {"mlflow": {"enabled": True}, "settings": {"registry": {"uri": ""}}},
    "mlflow.persistence.size": {"mlflow": {"persistence": {"size": "1Gi"}}},
    "labels.schedule": {"labels": {"schedule": "1 1 * * *"}},
    "monitor.schedule": {"monitor": {"schedule": "1 1 * * *"}},
    "settings": {"settings": {"serving": {"slow_ms": 7}}},
    "models": {"models": []},
    "analysisPolicies": {
        "analysisPolicies": {"own": {"metrics": [{"name": "errors", "event": "error"}]}}
    },
    "prometheus.docsUrl": {"prometheus": {"docsUrl": "https://docs.example.com"}},
    "networkPolicies.peers": {
        "networkPolicies": {"peers": {"people": {"addresses": [{"podSelector": {}}]}}}
    },
}
"""Another value, where none can be made from its kind."""


def at(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return the tree that holds a value at a path."""
    for key in reversed(path):
        value = {key: value}
    return dict(value)


def another(value: values.Value, present: Any) -> Any:
    """Return another value of the same kind."""
    match present:
        case bool():
            return not present
        case int():
            return 1 if present != 1 else 2
        case list():
            return []
        case dict() if value.path[-1] == "resources":
            return {"requests": {"cpu": "1m"}}
        case dict():
            return {"other": "yes"}
        case _ if value.path[-1] == "digest":
            return "sha256:" + "2" * 64
    return "other"


CHECKS = {"requireDigests"}
"""Values that change what is accepted, not what is rendered."""


@pytest.mark.parametrize(
    "value", [v for v in values.rows() if v.dotted not in CHECKS], ids=lambda value: value.dotted
)
def test_every_value_does_something(value: values.Value) -> None:
    before = merged(EVERYTHING, BEFORE.get(value.dotted, {}))
    present = values.lookup(merged(values.defaults(), before), value.path)
    change = AFTER.get(value.dotted) or at(value.path, another(value, present))
    assert template(before) != template(merged(before, change))


def test_every_value_is_documented() -> None:
    shown = [one.path for one in values.rows()]
    for leaf in values.leaves(values.defaults()):
        assert any(leaf[: len(path)] == path for path in shown), ".".join(leaf)


def test_schema_and_readme_follow_from_the_values() -> None:
    again = "run: make chart"
    assert (CHART / "values.schema.json").read_text() == reference.schema(), again
    assert (CHART / "README.md").read_text() == reference.readme(), again


def objects(node: Any, path: str = "") -> list[tuple[str, dict[str, Any]]]:
    """Return every schema of an object, with its place."""
    found = []
    if isinstance(node, dict):
        if node.get("type") == "object":
            found.append((path, node))
        for key, value in node.items():
            found += objects(value, f"{path}/{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            found += objects(value, f"{path}/{number}")
    return found


def test_no_object_takes_unknown_keys() -> None:
    found = objects(json.loads(reference.schema()))
    open_ended = [p for p, node in found if "additionalProperties" not in node]
    assert open_ended == ["/properties/global"], "helm's own"
    assert [p for p, node in found if node.get("additionalProperties") is True] == []


ACCEPTED: dict[str, dict[str, Any]] = {
    "nothing but storage": NEEDED,
    "everything": EVERYTHING,
    "an own MLflow": {
        "settings": SETTINGS | {"registry": {"uri": "https://mlflow.example.com"}},
        "mlflow": {"enabled": False},
    },
    "a model whose rollout others apply": NEEDED | {"models": [{"name": "churn"}]},
    "a limit of whole CPUs": NEEDED | {"monitor": {"resources": {"limits": {"cpu": 2}}}},
    "bundles on a claim": merged(
        ONE_MODEL,
        {
            "images": {"registry": {"digest": ""}},
            "models": [
                MODEL | {"rollout": ROLLOUT | {"runtime": {"bundles": {"claimName": "models"}}}}
            ],
        },
    ),
}


def rollout(**changes: Any) -> dict[str, Any]:
    """Return values with one model whose rollout is changed."""
    return ONE_MODEL | {"models": [MODEL | {"rollout": ROLLOUT | changes}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "settings.storage.database is not postgresql"),
    ({"settings": {"storage": {"database": "sqlite:///x.db"}}}, "each would keep a ledger"),
    ({"settings": {"storage": {"objects": "/data"}}}, "settings.storage.objects is not s3"),
    ({"settings": {"storage": {"databse": ""}}}, "'databse' not allowed"),
    (merged(NEEDED, {"settings": {"serving": {"slow_ms": "fast"}}}), "/settings/serving/slow_ms"),
    (merged(NEEDED, {"settings": {"registry": {"uri": "http://m"}}}), "keep one of the two"),
    (NEEDED | {"mlflow": {"enabled": False}}, "name your MLflow"),
    (NEEDED | {"mlflow": {"persistence": {"enabled": False}}}, "MLflow would forget every model"),
    (
        merged(NEEDED, {"settings": {"serving": {"auth": {"key_file": "/project/keys.yaml"}}}}),
        "settings.serving.auth.controller_key is empty",
    ),
    (
        merged(NEEDED, {"settings": {"serving": {"auth": {"jwt": {"jwks": "https://id.test/k"}}}}}),
        "settings.serving.auth.controller_key is empty",
    ),
    (NEEDED | {"features": {"enabled": True}}, "settings.features.online.type is not redis"),
    (NEEDED | {"retrain": {"enabled": True}}, "settings.execution.target is not kfp"),
    (NEEDED | {"retrain": {"enabled": True}}, "settings.execution.kfp.host is empty"),
    (NEEDED | {"controler": {}}, "'controler' not allowed"),
    (NEEDED | {"controller": {"replicas": 3}}, "/controller/replicas"),
    (NEEDED | {"controller": {"scope": "All"}}, "/controller/scope"),
    (NEEDED | {"images": {"control": {"tag": "latest"}}}, "/images/control/tag"),
    (NEEDED | {"images": {"control": {"digest": "sha256:12"}}}, "/images/control/digest"),
    (NEEDED | {"monitor": {"schedule": "hourly"}}, "/monitor/schedule"),
    (NEEDED | {"monitor": {"resources": {"limits": {"memory": "1 GB"}}}}, "memory"),
    (NEEDED | {"secretName": "My_Secret"}, "/secretName"),
    (
        NEEDED | {"networkPolicies": {"peers": {"database": {"addresses": [{}]}}}},
        "/networkPolicies/peers/database/addresses/0",
    ),
    (NEEDED | {"analysisPolicies": {"default": {"metrics": []}}}, "/analysisPolicies/default"),
    (NEEDED | {"models": [{"name": "Churn"}]}, "/models/0/name"),
    (ONE_MODEL | {"images": {}}, "models[churn] needs images.serve.digest"),
    (ONE_MODEL | {"images": {}}, "models[churn] needs images.registry.digest"),
    (rollout(strategy={"steps": []}), "/models/0/rollout/strategy/steps"),
    (rollout(traffic={"gateway": "x"}), "'gateway' not allowed"),
    (rollout(runtime={"image": "serve:latest"}), "/models/0/rollout/runtime/image"),
]


@pytest.mark.parametrize("given", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_values_are_accepted(given: dict[str, Any]) -> None:
    assert render(given)


@pytest.mark.parametrize(("given", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_values_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(Refused, match=None) as refused:
        template(given)
    assert words in str(refused.value)


PARTS = EVERYTHING | {"requireDigests": True}


@pytest.mark.parametrize("missing", DIGESTS)
def test_production_names_every_image_that_runs_by_its_digest(missing: str) -> None:
    """The message says which one is missing, and the command that prints its digest."""
    with_all = merged(PARTS, {"images": DIGESTS})
    assert all("@sha256:" in image for image in images(with_all))
    with pytest.raises(Refused) as refused:
        render(merged(with_all, {"images": {missing: {"digest": ""}}}))
    assert f"images.{missing}.digest" in str(refused.value)
    if missing != "serve":
        assert re.search(rf"buildx imagetools inspect \S+/{missing}:0.1.0 ", str(refused.value))


def test_an_image_that_nothing_runs_needs_no_digest() -> None:
    needed = {name: DIGESTS[name] for name in ("control", "registry")}
    assert render(NEEDED | {"requireDigests": True, "images": needed})
    own = {"mlflow": {"enabled": False}, "settings": {"registry": {"uri": "http://m.example.com"}}}
    control = {"requireDigests": True, "images": {"control": DIGESTS["control"]}}
    assert render(merged(NEEDED, own | control))


def images(given: dict[str, Any]) -> set[str]:
    """Return every image that the chart names, in pods and in rollouts."""
    return set(re.findall(r"(?:image|fetchImage): (\S+)", template(given)))


def test_settings_reach_the_parts_as_they_are_written() -> None:
    tree = {
        "storage": SETTINGS["storage"],
        "features": {"online": {"type": "redis", "host": "r", "port": 6380}},
        "serving": {"slow_ms": 12.5, "log": {"keep": ["slow"]}},
        "gates": {"thresholds": {"auc": ">= 0.7"}},
        "execution": {"environment": {"HTTP_PROXY": "http://proxy:3128"}},
    }
    (made,) = [
        found
        for found in render({"settings": tree, "networkPolicies": {"enabled": False}})
        if found["kind"] == "ConfigMap" and found["metadata"]["name"] == "tidemill-settings"
    ]
    read = load(ROOT, variables=made["data"]).settings.model_dump(mode="json")
    assert merged(read, tree) == read
    assert read["registry"]["uri"] == "http://tidemill-mlflow:5000"


def test_a_model_has_settings_of_its_own_that_stay_with_its_revision() -> None:
    def configs(slow: int) -> dict[str, Any]:
        given = EVERYTHING | {"models": [MODEL | {"settings": {"serving": {"slow_ms": slow}}}]}
        return {
            found["metadata"]["name"]: found
            for found in render(given)
            if found["kind"] == "ConfigMap" and found.get("immutable")
        }

    ((first, one),), ((second, other),) = configs(20).items(), configs(30).items()
    assert first != second, "other settings are another revision"
    assert one["data"]["TIDEMILL_SERVING__SLOW_MS"] == "20"
    assert one["data"]["TIDEMILL_REGISTRY__MODEL"] == '"Churn"'
    assert other["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


@pytest.mark.parametrize("name", ["small", "production"])
def test_a_profile_says_nothing_that_is_the_default_already(name: str) -> None:
    said = yaml.safe_load((CHART / f"values-{name}.yaml").read_text())
    defaults = values.defaults()
    same = [
        ".".join(path)
        for path in values.leaves(said)
        if path[-1] != "memory" and values.lookup(defaults, path) == values.lookup(said, path)
    ]
    assert same == []
