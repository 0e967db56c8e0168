"""The reference project from the built wheel: init, training, its own tests, batch scoring.

Every component of the training and scoring pipelines runs here under KFP's local runner, with real
data, Feast, torch, ONNX Runtime, DVC and an MLflow server.
"""

import json
import os
import socket
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
AS_OF = "2013-01-30T00:00:00+00:00"
FAST = {
    "data.end": "2013-01",
    "training.epochs": "1",
    "training.folds": "2",
    "training.validation_days": "5",
    "training.test_days": "7",
    "training.threads": "1",
}
"""Seconds instead of minutes; what is learned in one epoch does not pass the gates."""

pytestmark = pytest.mark.slow


@dataclass
class Place:
    """A new project, and the command line of a fresh environment."""

    root: Path
    python: Path
    env: dict[str, str]

    def tidemill(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        line = [self.python.with_name("tidemill"), *words]
        return subprocess.run(
            line, cwd=cwd or self.root, env=self.env, capture_output=True, text=True
        )

    def run(self, *words: str) -> dict[str, Any]:
        sets = [part for key, value in FAST.items() for part in ("--set", f"{key}={value}")]
        done = self.tidemill("run", *words, "--json", *sets)
        assert done.stdout, done.stderr
        return json.loads(done.stdout) | {"code": done.returncode, "stderr": done.stderr}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("fresh")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    python = environment(folder / "venv", next((folder / "dist").glob("*.whl")))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("TIDEMILL_", "PYTHON"))}
    env |= {"TIDEMILL_REGISTRY__URI": f"http://127.0.0.1:{port}", "OMP_NUM_THREADS": "1"}
    made = Place(folder, python, env).tidemill("init", "late-flights", cwd=folder)
    assert made.returncode == 0, made.stderr
    new = Place(folder / "late-flights", python, env)
    state = new.root / ".tidemill" / "mlflow"
    server = [python, "-m", "tidemill.adapters.mlflow.server", f"sqlite:///{state}/mlflow.db"]
    with (folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(
            [*server, str(state / "artifacts"), "127.0.0.1", str(port)],
            cwd=new.root,
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        yield new
    finally:
        process.terminate()
        process.wait(timeout=30)


def environment(folder: Path, wheel: Path) -> Path:
    """Make an environment with the wheel, and the dependencies of this one behind it."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own, here = (
        subprocess.run([p, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
        for p in (python, sys.executable)
    )
    (Path(own) / "dependencies.pth").write_text(f"{here}\n")
    return python


def wait_for_mlflow(place: Place) -> None:
    transport = httpx.HTTPTransport(retries=60)
    with httpx.Client(transport=transport) as client:
        client.get(f"{place.env['TIDEMILL_REGISTRY__URI']}/health").raise_for_status()


@pytest.fixture(scope="module")
def refused(place: Place) -> dict[str, Any]:
    wait_for_mlflow(place)
    return place.run("training", "--on", "local", "-p", f"as_of={AS_OF}")


def test_the_package_is_the_installed_one(place: Place) -> None:
    told = subprocess.run(
        [place.python, "-c", "import tidemill; print(tidemill.__file__)"],
        cwd=place.root,
        capture_output=True,
        text=True,
    ).stdout
    assert told.startswith(str(place.python.parents[1]))


def test_the_projects_own_tests_pass(place: Place) -> None:
    done = subprocess.run(
        [place.python, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=place.root,
        env=place.env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


def test_a_bad_model_is_refused_and_the_evidence_stays(
    place: Place, refused: dict[str, Any]
) -> None:
    assert (refused["state"], refused["code"]) == ("refused", 3), refused["stderr"]
    assert refused["cause"].startswith("gate: Refused: ")
    states = {step["name"]: step["state"] for step in refused["steps"]}
    assert states["evaluate"] == "succeeded"
    assert (states["gate"], states["register"], states["conclude"]) == (
        "failed",
        "skipped",
        "succeeded",
    )
    kept = place.root / ".tidemill" / "objects" / "runs" / refused["run_id"] / "evidence.json"
    assert json.loads(kept.read_text())["passed"] is False
    listed = json.loads(place.tidemill("registry", "list", "--json").stdout)
    assert listed == []


@pytest.fixture(scope="module")
def trained(place: Place, refused: dict[str, Any]) -> dict[str, Any]:
    """The same run, let through with a reason: what does not read it is not run again."""
    force = "force_reason=a test of the wheel"
    return place.run("training", "--resume", refused["run_id"], "-p", force)


def test_a_forced_model_is_registered_with_its_lineage(
    place: Place, trained: dict[str, Any]
) -> None:
    assert trained["state"] == "succeeded", trained["cause"]
    steps = {step["name"]: step for step in trained["steps"]}
    again = {name for name, step in steps.items() if step["state"] == "succeeded"}
    assert again == {"gate", "package", "register", "deploy", "conclude"}
    assert {steps[name]["state"] for name in steps.keys() - again} == {"reused"}
    assert steps["register"]["outputs"] == {"Output": "flight-delay/1"}
    (version,) = json.loads(place.tidemill("registry", "list", "--json").stdout)
    assert version["tags"]["data_version"] == steps["publish"]["outputs"]["Output"]
    assert version["tags"]["correlation"] == trained["run_id"]
    assert version["aliases"] == ["challenger"]
    entries = json.loads(place.tidemill("ledger", "show", "--json").stdout)
    assert "forced: a test of the wheel" in json.dumps(entries)


def test_monitoring_without_a_prediction_log_says_so(place: Place, trained: dict[str, Any]) -> None:
    run = place.run("monitoring")
    assert (run["state"], run["code"]) == ("failed", 1), trained["cause"]
    assert run["cause"].startswith("monitor: NotFound: there is no prediction log of flight-delay")


def test_a_period_is_scored_in_batch(place: Place, trained: dict[str, Any]) -> None:
    steps = {step["name"]: step for step in trained["steps"]}
    version = steps["publish"]["outputs"]["Output"]
    run = place.run(
        "batch_scoring",
        *("-p", "model=flight-delay@challenger", "-p", f"data_version={version}"),
        *("-p", "start=2013-01-20T00:00:00+00:00", "-p", "end=2013-01-21T00:00:00+00:00"),
        *("-p", f"as_of={AS_OF}"),
    )
    assert run["state"] == "succeeded", run["cause"]
    path = Path(run["outputs"]["Output"].removeprefix("file://"))
    facts = pl.read_parquet_metadata(path)
    assert facts["tidemill.model"] == "flight-delay/1"
    assert facts["tidemill.data_version"] == version
    scores = pl.read_parquet(path)
    assert scores.columns == ["flight_id", "event_timestamp", "score"]
    assert scores["flight_id"].is_unique().all()
    assert scores["score"].is_between(0, 1).all()
    assert set(scores["event_timestamp"].dt.date().cast(pl.String)) == {"2013-01-20"}
