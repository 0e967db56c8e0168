"""`dvc repro`: the version a component gives the same dataset, and a bundle at the end."""

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

from tidemill.bundle import read_manifest
from tidemill.steps.gate import read_evidence
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


def repro(root: Path, stage: str = "publish") -> str:
    """Run the stages up to `stage`, for two months of data."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    env |= {"TIDEMILL_DATA__START": "2013-01", "TIDEMILL_DATA__END": "2013-02"}
    argv = [sys.executable, "-m", "dvc", "repro", stage]
    done = subprocess.run(argv, cwd=root, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def locked(root: Path) -> str:
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    (out,) = [o for o in lock["stages"]["validate"]["outs"] if o["path"] == "data/raw"]
    return str(out["md5"])


def run_components(root: Path, mlflow_uri: str) -> str:
    """Run the bodies of the pipeline's components, as a step's process does."""
    project = Project.load(root, assignments=[*MONTHS, f"registry.uri={mlflow_uri}"])
    config = str(project.save(root / "config.json"))
    dataset = SimpleNamespace(path=str(root / "artifacts" / "dataset"))
    report = SimpleNamespace(path=str(root / "artifacts" / "report"))
    assert ingest.python_func(config=config, as_of=AS_OF, run="r1") == 7
    validate.python_func(config=config, as_of=AS_OF, run="r", dataset=dataset, report=report)
    return str(publish.python_func(config=config, dataset=dataset))


def test_stages_and_components_agree_on_the_version(tmp_path: Path, mlflow_uri: str) -> None:
    root = copy_project(tmp_path / "stages")
    repro(root)
    version = locked(root)
    assert json.loads((root / "data" / "version.json").read_text())["id"] == version
    assert run_components(copy_project(tmp_path / "components"), mlflow_uri) == version

    shutil.rmtree(root / "data" / "raw")
    project = Project.load(root)
    assert project.versions.fetch(version, project.paths.raw).files == 7

    contract = root / "configs" / "contract.yaml"
    contract.write_text(contract.read_text().replace("range: [10, 6000]", "range: [10, 20000]"))
    again = repro(root)
    assert "Running stage 'validate'" in again
    assert "Stage 'publish' didn't change, skipping" in again
    assert locked(root) == version


SMALL = {
    "features": {"step_minutes": 360},
    "training": {"epochs": 1, "folds": 2, "validation_days": 5, "test_days": 7, "threads": 1},
    "export": {"parity_rows": 5000},
    # What is learned in one epoch passes no gate of quality.
    "gates": {"thresholds": {"parity_flips": "<= 0"}, "beat_baselines": [], "slices": ["origin"]},
}


def small_project(folder: Path, mlflow_uri: str) -> Path:
    """Copy the project into a git repository, with settings that take seconds."""
    shutil.copytree(ROOT / "feature_repo", folder / "feature_repo")
    copy_project(folder)
    base = folder / "configs" / "base.yaml"
    settings = yaml.safe_load(base.read_text())
    for group, values in SMALL.items():
        settings[group] = settings.get(group, {}) | values
    settings["registry"] = {"uri": mlflow_uri, "model": f"staged-{folder.parent.name}"}
    base.write_text(yaml.safe_dump(settings))
    for words in (("init", "-q"), ("add", "configs", "dvc.yaml"), ("commit", "-q", "-m", "x")):
        name = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(["git", *name, *words], cwd=folder, check=True)
    return folder


def test_the_stages_lead_to_a_bundle_with_its_lineage(tmp_path: Path, mlflow_uri: str) -> None:
    root = small_project(tmp_path / "stages", mlflow_uri)
    repro(root, "package")
    lineage = read_manifest(root / "data" / "model" / "bundle").lineage
    assert lineage["data_version"] == locked(root) == run_components(root, mlflow_uri)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=root, text=True).strip()
    assert lineage["git_commit"].removesuffix("-dirty") == head
    evidence = read_evidence(root / "data" / "model" / "gated")
    (champion,) = (v for v in evidence["verdicts"] if v["gate"] == "champion")
    assert (champion["status"], evidence["passed"]) == ("pass", True)
