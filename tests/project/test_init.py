"""`tidemill init` from a checkout; from the wheel: `test_training.py`."""

import re
from pathlib import Path

import pytest

from tidemill.adapters.reference import copy_reference
from tidemill.cli.incident import NEXT, page
from tidemill.domain.diagnosis import CAUSES
from tidemill.domain.incidents import Incident
from tidemill.domain.verdicts import Cause
from tidemill.errors import UsageError
from tidemill.settings import load
from tidemill.wiring import Project


def test_a_new_project_has_its_own_name_and_no_state(tmp_path: Path) -> None:
    files = copy_reference(tmp_path / "late-trains")
    assert {"configs/base.yaml", "pipelines/training.py", "dvc.yaml", ".gitignore"} < set(files)
    assert not [f for f in files if "__pycache__" in f or f.endswith(".db") or "/data/" in f]
    assert load(tmp_path / "late-trains").settings.name == "late-trains"
    assert 'name = "late-trains"' in (tmp_path / "late-trains" / "pyproject.toml").read_text()


@pytest.mark.parametrize("name", ["Late Trains", "-trains", "t" * 41])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no project name"):
        copy_reference(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_folder_with_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "trains").mkdir()
    (tmp_path / "trains" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        copy_reference(tmp_path / "trains")
    assert [p.name for p in (tmp_path / "trains").iterdir()] == ["mine.txt"]


def test_a_new_project_has_the_runbook_that_an_incident_names(tmp_path: Path) -> None:
    root = tmp_path / "late-trains"
    copy_reference(root)
    project = Project.load(root)
    assert set(NEXT) == set(CAUSES)
    for cause in CAUSES:
        found = re.search(r"(?m)^  runbook  (.+)$", page(project, incident(cause), None))
        assert found
        assert cause in (root / found[1]).read_text()


def incident(cause: Cause) -> Incident:
    at = "2013-11-01T00:00:00+00:00"
    return Incident(
        "inc-00000000", "m", "r1", cause, (), "open", at, at, at, at, (), (), retraining=False
    )
