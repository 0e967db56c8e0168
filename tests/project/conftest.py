"""Projects to run pipelines in."""

import shutil
from pathlib import Path

import pytest

from tidemill.wiring import Project

HERE = Path(__file__).parent


@pytest.fixture
def flows(tmp_path: Path) -> Project:
    """A project of small pipelines."""
    shutil.copytree(HERE / "flows", tmp_path / "flows")
    return Project.load(tmp_path / "flows")
