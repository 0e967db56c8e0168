"""The reference project from the built wheel: init, two trainings at once, its own tests, scoring.

Every component of the training and scoring pipelines runs here under KFP's local runner, with real
data, Feast, torch, ONNX Runtime, DVC and an MLflow server.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
JANUARY = ("--set", "data.end=2013-01")

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

    def run_at_once(self, *lines: tuple[str, ...]) -> list[dict[str, Any]]:
        with ThreadPoolExecutor(len(lines)) as pool:
            return list(pool.map(lambda line: self.run(*line), lines))

    def read(self, *words: str) -> Any:
        return json.loads(self.tidemill(*words, "--json").stdout)


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
        shutil.rmtree(folder / "venv")  # 6 GB where it shares no file with uv's cache


def environment(folder: Path, wheel: Path) -> Path:
    """Install the wheel as a user does: what `[local]` does not name is not there."""
    uv = (sys.executable, "-m", "uv")
    python = folder / "bin" / "python"
    locked = ("--constraint", ROOT / "requirements.lock")
    pip = (*uv, "pip", "install", "--quiet", "--python", python, *locked)
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
    subprocess.run([*pip, f"tidemill[local] @ {wheel.as_uri()}", "pytest"], check=True)
    return python


def wait_for_mlflow(place: Place) -> None:
    transport = httpx.HTTPTransport(retries=60)
    with httpx.Client(transport=transport) as client:
        client.get(f"{place.env['TIDEMILL_REGISTRY__URI']}/health").raise_for_status()


@pytest.fixture(scope="module")
def pair(place: Place) -> list[dict[str, Any]]:
    """Two trainings that began at the same moment on the one project."""
    wait_for_mlflow(place)
    line = ("training", "--on", "local", "-p", f"as_of={AS_OF}")
    return place.run_at_once(line, line)


@pytest.fixture(scope="module")
def refused(pair: list[dict[str, Any]]) -> dict[str, Any]:
    return pair[0]


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
    assert place.read("registry", "list") == []


def test_two_ingests_at_once_record_each_month_once(
    place: Place, pair: list[dict[str, Any]]
) -> None:
    assert [run["state"] for run in pair] == ["refused", "refused"], [r["stderr"] for r in pair]
    recorded = [(one["table"], one["period"]) for one in place.read("data", "status", *JANUARY)]
    assert len(recorded) == len(set(recorded)) == sum(output(run, "ingest") for run in pair)
    assert len({output(run, "publish") for run in pair}) == 1, "the same data, the same version"


@pytest.fixture(scope="module")
def released(place: Place, pair: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Both runs, let through at once for a reason: what does not read it is not run again."""
    force = ("-p", "force_reason=a test of the wheel")
    return place.run_at_once(*(("training", "--resume", run["run_id"], *force) for run in pair))


@pytest.fixture(scope="module")
def trained(released: list[dict[str, Any]]) -> dict[str, Any]:
    return released[0]


def output(run: dict[str, Any], step: str) -> Any:
    """What a step of a run returned."""
    return {one["name"]: one["outputs"] for one in run["steps"]}[step]["Output"]


def test_a_forced_model_is_registered_with_its_lineage(
    place: Place, trained: dict[str, Any]
) -> None:
    assert trained["state"] == "succeeded", trained["cause"]
    steps = {step["name"]: step for step in trained["steps"]}
    again = {name for name, step in steps.items() if step["state"] == "succeeded"}
    assert again == {"gate", "package", "register", "deploy", "conclude"}
    assert {steps[name]["state"] for name in steps.keys() - again} == {"reused"}
    entries = place.read("ledger", "show")
    assert {entry["why"] for entry in entries} == {"manual, forced: a test of the wheel"}


def test_two_registrations_at_once_are_two_whole_versions(
    place: Place, released: list[dict[str, Any]]
) -> None:
    assert [run["state"] for run in released] == ["succeeded"] * 2, [r["cause"] for r in released]
    versions = {f"{v['name']}/{v['version']}": v for v in place.read("registry", "list")}
    assert set(versions) == {"flight-delay/1", "flight-delay/2"}
    for run in released:
        version = versions[output(run, "register")]
        assert version["tags"]["correlation"] == run["run_id"]
        assert version["tags"]["data_version"] == output(run, "publish")
        assert version["tags"]["digest"] == version["digest"]
    one, other = (set(version["tags"]) for version in versions.values())
    assert one == other
    verified = place.tidemill("ledger", "verify")
    assert verified.returncode == 0, verified.stderr
    *_, last = place.read("ledger", "show")
    held = {alias: name for name, version in versions.items() for alias in version["aliases"]}
    assert held == {"challenger": f"flight-delay/{last['version']}"}
    fetched = place.tidemill("data", "fetch", output(released[0], "publish"))
    assert fetched.returncode == 0, fetched.stderr
    spec = place.read("rollout", "status")["spec"]
    assert spec["generation"] == 2, "both were ordered, the later one is wanted"


def test_monitoring_without_a_prediction_log_says_so(place: Place, trained: dict[str, Any]) -> None:
    run = place.run("monitoring")
    assert (run["state"], run["code"]) == ("failed", 1), trained["cause"]
    assert run["cause"].startswith("monitor: NotFound: there is no prediction log of flight-delay")


def test_a_period_is_scored_in_batch(place: Place, trained: dict[str, Any]) -> None:
    model, version = output(trained, "register"), output(trained, "publish")
    run = place.run(
        "batch_scoring",
        *("-p", f"model={model}", "-p", f"data_version={version}"),
        *("-p", "start=2013-01-20T00:00:00+00:00", "-p", "end=2013-01-21T00:00:00+00:00"),
        *("-p", f"as_of={AS_OF}"),
    )
    assert run["state"] == "succeeded", run["cause"]
    path = Path(run["outputs"]["Output"].removeprefix("file://"))
    facts = pl.read_parquet_metadata(path)
    assert facts["tidemill.model"] == model
    assert facts["tidemill.data_version"] == version
    scores = pl.read_parquet(path)
    assert scores.columns == ["flight_id", "event_timestamp", "score"]
    assert scores["flight_id"].is_unique().all()
    assert scores["score"].is_between(0, 1).all()
    assert set(scores["event_timestamp"].dt.date().cast(pl.String)) == {"2013-01-20"}
