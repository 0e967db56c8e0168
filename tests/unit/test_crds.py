"""The chart's CRDs are what the classes say, and in the form that Kubernetes demands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tidemill.adapters.kubernetes.schema import definitions, main, render

CRDS = Path(__file__).parents[2] / "charts/tidemill/crds"


@pytest.mark.parametrize("definition", definitions(), ids=lambda d: d["metadata"]["name"])
def test_the_chart_has_what_the_classes_say(definition):
    plural = definition["spec"]["names"]["plural"]
    written = (CRDS / f"{plural}.yaml").read_text()
    assert written == render(definition), (
        "run: python -m tidemill.adapters.kubernetes.schema charts/tidemill/crds"
    )


def test_it_writes_both(tmp_path):
    main(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in CRDS.iterdir()}


@pytest.mark.parametrize("definition", definitions(), ids=lambda d: d["metadata"]["name"])
def test_every_field_is_typed_bounded_and_explained(definition):
    (version,) = definition["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    for path, node in walk(spec, "spec"):
        assert "type" in node, path
        assert not {"$ref", "anyOf", "title", "const"} & node.keys(), path
        if node["type"] == "array":
            assert "maxItems" in node, f"{path}: CEL's cost is bounded by it"
        if node["type"] == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if not path.endswith("[]"):
            assert node.get("description"), path


def walk(node: dict[str, Any], path: str) -> list[tuple[str, dict[str, Any]]]:
    found = [(path, node)]
    for name, child in node.get("properties", {}).items():
        found += walk(child, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in node:
            found += walk(node[key], f"{path}[]")
    return found
