"""The project fits together: settings, features, pipelines. `tidemill init` copies this file."""

from pathlib import Path

import pytest

from tidemill.adapters.kfp.compile import compile_pipeline, pipelines_of
from tidemill.adapters.kfp.lint import lint
from tidemill.settings import find_project
from tidemill.wiring import Project

ROOT = find_project(Path(__file__).parent)


@pytest.fixture(scope="module")
def project() -> Project:
    return Project.load(ROOT)


@pytest.mark.parametrize("name", pipelines_of(ROOT))
def test_a_pipeline_breaks_no_rule(name: str, project: Project) -> None:
    definition = compile_pipeline(ROOT, name, project.settings.execution, "local")
    assert lint(definition.ir) == []


def test_every_input_is_a_feature_or_part_of_the_request(project: Project) -> None:
    service = project.features.resolve(project.settings.features.service)
    features = {field.name for view in service.views for field in view.fields}
    inputs = project.settings.training.inputs
    assert [i.name for i in inputs if i.origin == "feature" and i.name not in features] == []
    assert [i.minus for i in inputs if i.minus and i.minus not in features] == []


def test_resources_are_given_to_steps_that_exist(project: Project) -> None:
    steps = {path.stem.replace("_", "-") for path in (ROOT / "components").glob("*.py")}
    assert set(project.settings.execution.resources) - {"default"} <= steps
