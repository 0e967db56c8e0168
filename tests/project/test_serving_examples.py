"""Every request in `serving/` does what its README says, on a server with the reference inputs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving import ROOT, Server, make_project

from tidemill.bundle import Manifest
from tidemill.steps.inputs import raw_columns
from tidemill.testing.models import write_bundle
from tidemill.wiring import Project

EXAMPLES = ROOT / "serving/requests"
ANSWERED = {"one_flight": 1, "three_flights": 3, "with_features": 1}

pytestmark = pytest.mark.slow


@dataclass
class Reference:
    """A running server whose manifest is the reference project's: its inputs, its features."""

    server: Server
    manifest: Manifest

    def ask(self, name: str) -> httpx.Response:
        content = (EXAMPLES / f"{name}.json").read_bytes()
        return httpx.post(f"{self.server.url}/v2/models/flight-delay/infer", content=content)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    settings = Project.load(ROOT).settings
    features = Project.load(ROOT).features.resolve(settings.features.service)
    manifest = Manifest(
        name=settings.name,
        inputs=raw_columns(settings.training.inputs),
        output="probability",
        row_id=settings.serving.row_id,
        features=features,
        prior=0.22,
    )
    project = make_project(tmp_path_factory.mktemp("serving"))
    (project.root / ".tidemill/feast/online.db").unlink()
    write_bundle(project.bundle, manifest=manifest)
    yield Reference(project.serve("--no-verify"), manifest)
    project.close()


def inputs(name: str) -> dict[str, Any]:
    body = json.loads((EXAMPLES / f"{name}.json").read_text())
    return {tensor["name"]: tensor for tensor in body["inputs"]}


@pytest.mark.parametrize(("name", "rows"), ANSWERED.items())
def test_an_example_is_answered(reference: Reference, name: str, rows: int) -> None:
    answer = reference.ask(name)
    assert answer.status_code == 200, answer.text
    (output,) = answer.json()["outputs"]
    assert len(output["data"]) == rows
    assert all(0 < score < 1 for score in output["data"])


def test_features_are_looked_up_unless_they_are_given(reference: Reference) -> None:
    features = {c.name for c in reference.manifest.inputs if c.origin == "feature"}
    given = reference.ask("with_features").json()["parameters"]
    assert "defaulted" not in given
    assert features <= inputs("with_features").keys()
    left = reference.ask("one_flight").json()["parameters"]["defaulted"]
    assert {part.partition("=")[0] for part in left.split(",")} == features  # an empty store


def test_every_curl_line_of_the_readme_is_answered(reference: Reference) -> None:
    lines = re.findall(r"^\$ (curl .*)$", (ROOT / "serving/README.md").read_text(), re.M)
    assert len(lines) == 4
    for line in lines:
        told = line.replace("localhost:8100", reference.server.url)
        done = subprocess.run(
            ["sh", "-c", f"{told} --silent --show-error --fail-with-body"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        assert json.loads(done.stdout)


def test_records_are_answered_in_their_order(reference: Reference) -> None:
    content = (EXAMPLES / "records.json").read_bytes()
    answer = httpx.post(f"{reference.server.url}/predict", content=content).json()
    asked = [record["flight_id"] for record in json.loads(content)["records"]]
    assert [one["id"] for one in answer["predictions"]] == asked
    assert all(0 < one["score"] < 1 for one in answer["predictions"])
    documented = (ROOT / "serving/README.md").read_text().partition("record's `flight_id`")[2]
    example = json.loads(documented.partition("```json")[2].partition("```")[0])
    assert example.keys() == answer.keys()


def test_the_refused_example_says_why(reference: Reference) -> None:
    answer = reference.ask("refused")
    assert answer.status_code == 400
    assert "input 'sched_minute': Expected `float" in answer.json()["error"]


def test_the_readme_lists_every_example_and_every_column() -> None:
    readme = (ROOT / "serving/README.md").read_text()
    listed = set(re.findall(r"\[`(\w+)\.json`\]", readme))
    assert (
        listed
        == {path.stem for path in EXAMPLES.glob("*.json")}
        == {*ANSWERED, "records", "refused"}
    )
    assert [name for name in inputs("three_flights") if f"`{name}`" not in readme] == []
    assert Path(ROOT / "docs/serving.md").exists()
