"""The chart as helm renders it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from tests.cluster.sources import built_programs

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "tidemill"
VERSIONS = ("--api-versions=gateway.networking.k8s.io/v1/GRPCRoute",)
STORAGE = {
    "database": "postgresql+psycopg://tidemill@db.example.com/tidemill",
    "objects": "s3://models/tidemill",
}
NEEDED: dict[str, Any] = {"settings": {"storage": STORAGE}}
"""The least values that are accepted."""

Object = dict[str, Any]


class Refused(Exception):
    """Helm does not accept the values; the message is what it says."""


def template(values: Mapping[str, Any], *options: str | Path) -> str:
    """Return what the chart makes of the values, as release `tidemill` in namespace `ml`.

    Raises:
        Refused: The schema or a template refuses them.
    """
    return _template(yaml.safe_dump(dict(values)), *options)


@cache
def _template(text: str, *options: str | Path) -> str:
    helm = built_programs() / "helm"
    argv = [helm, "template", "tidemill", CHART, "--namespace=ml", *VERSIONS, *options]
    done = subprocess.run(
        [*argv, "--values=-"], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def render(values: Mapping[str, Any], *options: str | Path) -> list[Object]:
    """Return the objects of `template`."""
    return [found for found in yaml.safe_load_all(template(values, *options)) if found]


def merged(base: Any, over: Any) -> Any:
    """Merge as helm does: mappings key by key, everything else replaced."""
    if not (isinstance(base, dict) and isinstance(over, dict)):
        return over
    return base | {key: merged(base.get(key), value) for key, value in over.items()}


@cache
def controller_rules() -> list[Object]:
    """Return the rules that the chart grants the controller, by whatever role."""
    objects = {(found["kind"], found["metadata"]["name"]): found for found in render(NEEDED)}
    bindings = [o for (kind, _), o in objects.items() if kind.endswith("RoleBinding")]
    granted = [(b["roleRef"]["kind"], b["roleRef"]["name"]) for b in bindings]
    return [rule for role in granted for rule in objects[role]["rules"]]
