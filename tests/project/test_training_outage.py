"""A training whose MLflow server is killed in the middle of it, and what `--resume` makes of it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import psutil
import pytest
import yaml
from tests import flights, servers

from tidemill.adapters.mlflow.client import Client
from tidemill.adapters.mlflow.tracker import KEY
from tidemill.adapters.reference import copy_reference
from tidemill.ports.runs import RunResult
from tidemill.steps.record import TrainingRecord, read_record
from tidemill.wiring import Project

pytestmark = pytest.mark.slow
EPOCHS = 12
LEARNING = """
from components.conclude import conclude
from components.train import train
from kfp import dsl
from kfp.dsl import Dataset, Output


@dsl.component(base_image="tidemill/train:1.0", install_kfp_package=False)
def rows(training_set: Output[Dataset]) -> None:
    import shutil

    shutil.copy("rows.parquet", training_set.path)


@dsl.pipeline(name="learning")
def learning(config: str, as_of: str, correlation_id: str) -> None:
    with dsl.ExitHandler(conclude(config=config, run=correlation_id)):
        made = rows().outputs["training_set"]
        train(
            config=config, run=correlation_id, as_of=as_of, trigger="test", training_set=made
        )
"""
"""The reference's own step `train`, behind one that has its rows at hand."""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    root = tmp_path / "project"
    copy_reference(root)
    (root / "pipelines" / "learning.py").write_text(LEARNING)
    flights.training_set().write_parquet(root / "rows.parquet")
    settings = flights.settings(epochs=EPOCHS, patience=EPOCHS).model_dump(
        mode="json", exclude_none=True
    )
    (root / "configs" / "small.yaml").write_text(yaml.safe_dump({"training": settings}))
    uri = f"http://127.0.0.1:{servers.free_port()}"
    return Project.load(root, env="small", assignments=[f"registry.uri={uri}"])


def losses(project: Project, run_id: str) -> list[tuple[int, float]]:
    """Return what MLflow holds of a run's training loss: steps and values as they came."""
    client = Client(project.settings.registry.uri)
    experiment = client.experiment(project.settings.registry.experiment)
    query = f"tags.`{KEY}` = '{run_id}'"
    found = client.post("runs/search", experiment_ids=[experiment], filter=query).get("runs", [])
    if not found:
        return []
    run_uuid = found[0]["info"]["run_id"]
    history = client.get("metrics/get-history", run_id=run_uuid, metric_key="train_loss")
    return [(int(m["step"]), m["value"]) for m in history.get("metrics", [])]


def trained(project: Project, run: RunResult) -> tuple[TrainingRecord, pl.DataFrame]:
    """Return what the training step wrote: its record, and the score of every row."""
    (folder,) = (project.paths.runs / run.run_id / "artifacts").glob("*/train/trained")
    return read_record(folder), pl.read_parquet(folder / "oof.parquet")


def command_of(child: psutil.Process) -> list[str]:
    """Return a process's command line; of one that has ended, as another test's may, none."""
    try:
        return child.cmdline()
    except psutil.Error:
        return []


def kill_server(port: str) -> None:
    """Kill -9 the MLflow server that listens on `port`."""
    lines = {child: command_of(child) for child in psutil.Process().children()}
    (server,) = [c for c, line in lines.items() if line[1:2] == ["-m"] and port in line]
    server.kill()
    server.wait(10)


def test_a_killed_mlflow_fails_the_training_and_resume_finishes_it_with_an_equal_result(
    project: Project, tmp_path: Path
) -> None:
    order = {"as_of": flights.AS_OF.isoformat()}
    _, _, port = project.settings.registry.uri.rpartition(":")
    seen: list[RunResult] = []
    with ThreadPoolExecutor(1) as background:
        with servers.mlflow(tmp_path / "mlflow", port=int(port)):
            launched = background.submit(project.runs.launch, "learning", order, watch=seen.append)
            while not (seen and len(losses(project, seen[0].run_id)) >= 2):
                assert not launched.done(), launched.result()
                time.sleep(0.02)
            kill_server(port)
        failed = launched.result()
    assert failed.state == "failed"
    told = f"train: Unavailable: MLflow at {project.settings.registry.uri} does not answer: "
    assert failed.cause.startswith(told), failed.cause
    assert failed.cause.endswith("(or look at registry.uri)"), failed.cause

    with servers.mlflow(tmp_path / "mlflow", port=int(port)):
        before = losses(project, failed.run_id)
        assert 2 <= len(before) < EPOCHS, "it was killed in the middle"
        resumed = project.runs.launch("learning", resume=failed.run_id)
        assert resumed.state == "succeeded", resumed.cause
        states = {step.name: step.state for step in resumed.steps}
        assert states == {"rows": "reused", "train": "succeeded", "conclude": "succeeded"}
        streamed = losses(project, failed.run_id)
        undisturbed = project.runs.launch("learning", order)
        assert dict(streamed) == dict(losses(project, undisturbed.run_id))
    steps = [step for step, _ in streamed]
    assert sorted(set(steps)) == list(range(1, EPOCHS + 1)), "an epoch is missing in the record"
    assert steps.count(1) == 1, "it began again instead of going on"
    (record, scores), (wanted, reference) = (trained(project, r) for r in (resumed, undisturbed))
    assert record == wanted
    assert scores.equals(reference)
