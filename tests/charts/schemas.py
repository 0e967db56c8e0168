"""JSON schemas for kubeconform, out of what Kubernetes and the definitions of others publish.

Kubernetes' Go module holds the OpenAPI document of its API server, so no schema is downloaded from
anywhere else, and an old version needs no old cluster.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import yaml
from tests.charts.rendering import CHART
from tests.cluster import build, crds

Schema = dict[str, Any]

LAYOUT = "{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json"
"""Names of the files, as kubeconform's -schema-location."""
NEWEST, OLDEST = build.MODULE, build.MODULE / "oldest"
"""Modules that pin a Kubernetes: the one that is run, and the oldest that the chart takes."""
FREE: Schema = {"type": ["string", "integer", "number"]}
BY_HAND = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": FREE,
    "io.k8s.apimachinery.pkg.api.resource.Quantity": FREE,
}
"""What OpenAPI v2 calls a string, and the API server takes as a number too."""


def write(pins: Path, folder: Path) -> Path:
    """Write the schemas of the Kubernetes that a module pins, and of the custom resources.

    Raises:
        CannotBuild: Go is absent, or cannot fetch the module.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = crds.module("k8s.io/kubernetes", pins) / "api/openapi-spec/swagger.json"
    known = json.loads(source.read_text())["definitions"]
    strict = {name: BY_HAND.get(name) or _strict(node) for name, node in known.items()}
    for name, node in known.items():
        for kind in node.get("x-kubernetes-group-version-kind", []):
            needed = {one: strict[one] for one in _needed(name, strict)}
            _put(folder, kind, {"$ref": f"#/definitions/{name}", "definitions": needed})
    for path in [*(CHART / "crds").glob("*.yaml"), *crds.prometheus_operator(), crds.keda()]:
        _custom(folder, yaml.safe_load(path.read_text()))
    return folder


def _custom(folder: Path, definition: Schema) -> None:
    spec = definition["spec"]
    for version in spec["versions"]:
        kind = {"group": spec["group"], "version": version["name"], "kind": spec["names"]["kind"]}
        schema = _strict(version["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        _put(folder, kind, schema)


def _needed(name: str, known: dict[str, Schema]) -> set[str]:
    """Return the definitions that one leads to, itself included."""
    found, todo = set(), [name]
    while todo:
        if (one := todo.pop()) not in found:
            found.add(one)
            todo += re.findall(r'"#/definitions/([^"]+)"', json.dumps(known[one]))
    return found


def _put(folder: Path, kind: dict[str, str], schema: Schema) -> None:
    group = kind["group"] or kind["version"]  # kubeconform's name for the core group
    name = f"{kind['kind'].lower()}-{group}-{kind['version']}.json"
    (folder / name).write_text(json.dumps(schema))


def _strict(node: Any) -> Any:
    """Return a schema that knows no other fields than those it names."""
    if isinstance(node, list):
        return [_strict(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: _strict(value) for key, value in node.items() if not key.startswith("x-")}
    if "x-kubernetes-int-or-string" in node:
        return FREE
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made:
        made["additionalProperties"] = bool(node.get("x-kubernetes-preserve-unknown-fields"))
    return made


def check(programs: Path, schemas: Path, manifests: str) -> list[str]:
    """Return what kubeconform finds wrong in manifests, strictly."""
    location = f"-schema-location={schemas}/{LAYOUT}"
    argv = [programs / "kubeconform", "-strict", "-output=json", "-summary", location]
    done = subprocess.run(argv, input=manifests, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert found["summary"]["valid"] + found["summary"]["invalid"], done.stdout
    return [
        f"{one['kind']}/{one['name']}: {one['msg']}"
        for one in found["resources"]
        if one["status"] not in ("statusValid",)
    ]
