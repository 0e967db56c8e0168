"""`dvc repro` and the pipeline's components give a dataset the same version."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from components.ingest import ingest
from components.publish import publish
from components.validate import validate

from tidemill.wiring import Project

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MONTHS = ("data.start=2013-01", "data.end=2013-02")
AS_OF = "2014-01-02T00:00:00+00:00"


def copy_project(folder: Path) -> Path:
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copy(ROOT / "dvc.yaml", folder)
    return folder


def repro(root: Path) -> str:
    """Run the stages up to `publish`, for two months of data."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    env |= {"TIDEMILL_DATA__START": "2013-01", "TIDEMILL_DATA__END": "2013-02"}
    argv = [sys.executable, "-m", "dvc", "repro", "publish"]
    done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def locked(root: Path) -> str:
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    (out,) = [o for o in lock["stages"]["validate"]["outs"] if o["path"] == "data/raw"]
    return str(out["md5"])


def run_components(root: Path) -> str:
    """Run the bodies of the pipeline's components, as a step's process does."""
    project = Project.load(root, assignments=MONTHS)
    config = str(project.save(root / "config.json"))
    dataset = SimpleNamespace(path=str(root / "artifacts" / "dataset"))
    report = SimpleNamespace(path=str(root / "artifacts" / "report"))
    assert ingest.python_func(config=config, as_of=AS_OF) == 7
    validate.python_func(config=config, as_of=AS_OF, run="r", dataset=dataset, report=report)
    return str(publish.python_func(config=config, dataset=dataset))


def test_stages_and_components_agree_on_the_version(tmp_path: Path) -> None:
    root = copy_project(tmp_path / "stages")
    repro(root)
    version = locked(root)
    assert json.loads((root / "data" / "version.json").read_text())["id"] == version
    assert run_components(copy_project(tmp_path / "components")) == version

    shutil.rmtree(root / "data" / "raw")
    project = Project.load(root)
    assert project.versions.fetch(version, project.paths.raw).files == 7

    contract = root / "configs" / "contract.yaml"
    contract.write_text(contract.read_text().replace("range: [10, 6000]", "range: [10, 20000]"))
    again = repro(root)
    assert "Running stage 'validate'" in again
    assert "Stage 'publish' didn't change, skipping" in again
    assert locked(root) == version
