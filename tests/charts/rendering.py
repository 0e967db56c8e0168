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
    helm = built_programs() / "helm"
    argv = [helm, "template", "tidemill", CHART, "--namespace=ml", *VERSIONS, *options]
    text = yaml.safe_dump(dict(values))
    done = subprocess.run(
        [*argv, "--values=-"], input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(done.stderr)
    return done.stdout


def render(values: Mapping[str, Any], *options: str | Path) -> list[Object]:
    """Return the objects of `template`."""
    return [found for found in yaml.safe_load_all(template(values, *options)) if found]


@cache
def controller_role() -> list[Object]:
    """Return the rules of the role that the chart gives the controller in its own namespace."""
    (role,) = [found for found in render(NEEDED) if found["kind"] == "Role"]
    rules: list[Object] = role["rules"]
    return rules
