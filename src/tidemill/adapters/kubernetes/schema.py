"""CustomResourceDefinitions, generated from the classes: `python -m` this module writes them."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml

from tidemill.adapters.kubernetes.analysis import AnalysisSpec
from tidemill.adapters.kubernetes.client import POLICIES, ROLLOUTS, Manifest, Resource
from tidemill.adapters.kubernetes.fields import Schema, rules
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec
from tidemill.adapters.kubernetes.status import ModelRolloutStatus

__all__ = ["definitions", "render"]

MAX_NAME = 40
"""Longest name of a rollout: with `-` and a revision it must fit a label, 63 characters."""
SCALE = {
    "specReplicasPath": ".spec.runtime.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}
"""What `kubectl scale` and autoscalers read and write of a rollout; `scale` says what it means."""
KEPT = {
    "default", "description", "enum", "format", "items", "maxItems", "maxLength", "maximum",
    "minItems", "minLength", "minimum", "pattern", "properties", "required", "type",
}  # fmt: skip


def definitions() -> list[Manifest]:
    """Return the CRDs of ModelRollout and AnalysisPolicy."""
    rollout = _root(ModelRolloutSpec, ModelRolloutStatus)
    limit = f"self.metadata.name.size() <= {MAX_NAME}"
    rollout |= rules((limit, f"the name may have at most {MAX_NAME} characters"))
    columns = [
        _column("Phase", ".status.phase"),
        _column("Stable", ".status.stable.version"),
        _column("Canary", ".status.canary.version"),
        _column("Step", ".status.step"),
        _column("Weight", ".status.weight", "integer"),
        _column("Promoted", '.status.conditions[?(@.type=="Promoted")].reason'),
        _column("Why", '.status.conditions[?(@.type=="Progressing")].message') | {"priority": 1},
        _column("Age", ".metadata.creationTimestamp", "date"),
    ]
    metrics = [_column("Metrics", ".spec.metrics[*].name"), columns[-1]]
    return [
        _definition(ROLLOUTS, ["mro"], rollout, columns, status=True),
        _definition(POLICIES, ["mrap"], _root(AnalysisSpec, None), metrics, status=False),
    ]


def render(definition: Manifest) -> str:
    """Return a definition as the chart keeps it."""
    head = "# Generated: python -m tidemill.adapters.kubernetes.schema charts/tidemill/crds\n"
    return head + yaml.safe_dump(definition, sort_keys=False, width=100)


def _definition(
    resource: Resource,
    short: list[str],
    schema: Manifest,
    columns: list[Manifest],
    *,
    status: bool,
) -> Manifest:
    group, _, version = resource.api.partition("/")
    served: Manifest = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": columns,
    }
    if status:
        served["subresources"] = {"status": {}, "scale": SCALE}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{group}"},
        "spec": {
            "group": group,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": short,
                "categories": ["all", "tidemill"],
            },
            "scope": "Namespaced",
            "versions": [served],
        },
    }


def _column(name: str, path: str, kind: str = "string") -> Manifest:
    return {"name": name, "type": kind, "jsonPath": path}


def _root(spec: type[Schema], status: type[Schema] | None) -> Manifest:
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        "spec": _structural(spec),
    }
    if status:
        properties["status"] = _structural(status)
    return {"type": "object", "required": ["spec"], "properties": properties}


def _structural(model: type[Schema]) -> Manifest:
    """Return a model's JSON schema as Kubernetes takes it: no references, no null, no titles."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _inline(schema, schema.get("$defs", {}))


def _inline(node: Manifest, known: dict[str, Manifest]) -> Manifest:
    if "$ref" in node:
        target = known[node["$ref"].rpartition("/")[2]]
        node = target | {key: value for key, value in node.items() if key != "$ref"}
    if "anyOf" in node:
        (chosen,) = (part for part in node["anyOf"] if part.get("type") != "null")
        node = chosen | {k: v for k, v in node.items() if k != "anyOf" and v is not None}
        return _inline(node, known)
    if "const" in node:
        node = node | {"enum": [node["const"]], "type": "string"}
    made = {
        key: value
        for key, value in node.items()
        if (key in KEPT or key.startswith("x-kubernetes-")) and (key, value) != ("default", None)
    }
    if "description" in made:
        made["description"] = " ".join(made["description"].split())
    if "properties" in node:
        made["properties"] = {k: _inline(v, known) for k, v in node["properties"].items()}
    if "items" in node:
        made["items"] = _inline(node["items"], known)
    if isinstance(node.get("additionalProperties"), dict):
        made["additionalProperties"] = _inline(node["additionalProperties"], known)
        made["maxProperties"] = node.get("maxProperties", 8)
    return made


def main(folder: Path) -> None:
    """Write each definition to `<folder>/<plural>.yaml`."""
    for definition in definitions():
        plural = definition["spec"]["names"]["plural"]
        (folder / f"{plural}.yaml").write_text(render(definition))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
