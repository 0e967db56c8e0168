"""Fixtures of the tests of the rendered chart: helm and kubeconform, but no cluster."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.charts import schemas
from tests.cluster import build, sources
from tests.refusal import NO_CHART, refuse


@pytest.fixture(scope="session", autouse=True)
def programs() -> Path:
    """Return the folder of helm and kubeconform."""
    try:
        return sources.built_programs()
    except sources.NoCluster as reason:
        refuse(NO_CHART, reason)


@pytest.fixture(scope="session", params=[schemas.NEWEST, schemas.OLDEST], ids=lambda p: p.name)
def kubernetes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the JSON schemas of one version of Kubernetes."""
    try:
        return schemas.write(request.param, tmp_path_factory.mktemp("schemas"))
    except build.CannotBuild as reason:
        refuse(NO_CHART, reason)


@pytest.fixture(scope="session")
def promtool() -> str:
    """Return Prometheus' tool for rules; Debian's package is `prometheus`."""
    found = shutil.which("promtool")
    if found is None:
        refuse("NO TESTS OF ALERTS", "promtool is not installed: apt-get install prometheus")
    return found
