"""`tidemill model`: the training steps one by one, on `data/`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.app import open_project
from tidemill.cli.instants import AsOf, instant
from tidemill.cli.output import emit, table
from tidemill.errors import Unavailable

if TYPE_CHECKING:
    from tidemill.adapters.journal import JournalTracker
    from tidemill.wiring import Project

app = typer.Typer(no_args_is_help=True, help="Train, export, evaluate, gate and package a model.")


@app.callback()
def _model() -> None:
    """Train, export, evaluate, gate and package a model from data/training_set.parquet.

    Each step reads and writes folders of data/model; the record is data/model/journal.jsonl.
    Exit codes: 0 done; 1 data that cannot be used; 2 usage; 3 a gate said no.
    """


@app.command()
def train(as_of: AsOf = "") -> None:
    """Train the torch model and fit the baselines."""
    from tidemill.steps.baselines import fit_baselines
    from tidemill.steps.train import train as run
    from tidemill.steps.training_data import read_training_data

    project = open_project()
    rows, folder, tracker = _places(project)
    data = read_training_data(
        rows,
        project.settings.training,
        as_of=instant(project, as_of),
        maturity_hours=project.settings.monitoring.maturity_hours,
    )
    record = run(data, folder / "trained", tracker=tracker)
    fit_baselines(data, folder / "baselines", tracker=tracker)
    body = {"rows": record.rows, "best_epoch": record.best_epoch, "prior": record.prior}
    emit(body, f"best epoch {record.best_epoch} of {len(record.epochs)}, {record.rows}")


@app.command()
def export() -> None:
    """Write the trained model as ONNX and compare the two."""
    from tidemill.steps.export import export as run
    from tidemill.steps.training_set import pinned_service

    project = open_project()
    rows, folder, tracker = _places(project)
    lineage = _lineage(project) | {"feature_digest": pinned_service(rows).digest}
    parity = run(
        rows,
        folder / "trained",
        folder / "exported",
        project.settings.export,
        tracker=tracker,
        lineage=lineage,
    )
    emit(parity, table(("", ""), list(parity.metrics().items())))


@app.command()
def evaluate(
    champion: Annotated[
        Path | None, typer.Option(help="Bundle to compare with [the registry's champion].")
    ] = None,
) -> None:
    """Measure model, baselines and champion on the held-out days.

    When the registry does not answer, the rest is measured, and the gate does not pass.
    """
    from tidemill.steps.evaluate import evaluate as run

    project = open_project()
    rows, folder, tracker = _places(project)
    steps = (folder / name for name in ("trained", "exported", "baselines", "evaluated"))
    bundle, unknown = (champion, "") if champion else _champion(project)
    found = run(
        rows,
        *steps,
        slices=project.settings.gates.slices,
        champion=bundle,
        unknown=unknown,
        tracker=tracker,
    )["models"]
    names = list(found["model"])
    emit(found, table(("", *names), [(k, *(v[n] for n in names)) for k, v in found.items()]))


@app.command()
def gate(
    force: Annotated[str, typer.Option(metavar="REASON", help="Let it pass all the same.")] = "",
) -> None:
    """Hold the evaluation against every gate."""
    from tidemill.steps.gate import gate as run

    project = open_project()
    _, folder, tracker = _places(project)
    evidence = run(
        folder / "evaluated",
        folder / "exported",
        folder / "gated",
        project.settings.gates,
        tracker=tracker,
        override=force,
    )
    rows = [(v["gate"], v["status"], v["sentence"]) for v in evidence["verdicts"]]
    emit(evidence, table(("gate", "status", "why"), rows))


@app.command()
def package() -> None:
    """Assemble the unsigned bundle, data/model/bundle."""
    from tidemill.bundle import digest
    from tidemill.steps.package import package as run
    from tidemill.steps.training_set import pinned_service

    project = open_project()
    rows, folder, _ = _places(project)
    steps = (folder / name for name in ("trained", "exported", "evaluated", "gated", "bundle"))
    run(
        rows,
        *steps,
        name=project.settings.registry.model,
        row_id=project.settings.serving.row_id,
        features=pinned_service(rows),
        lineage=_lineage(project),
        monitoring=project.settings.monitoring,
        pii=project.contract.pii,
    )
    identity = digest(folder / "bundle")
    emit({"digest": identity}, f"{folder / 'bundle'} is {identity}")


def _places(project: Project) -> tuple[Path, Path, JournalTracker]:
    """Return the training set, the model's folder and the journal."""
    from tidemill.adapters.journal import JournalTracker

    data = project.root / "data"
    folder = data / "model"
    return data / "training_set.parquet", folder, JournalTracker(folder / "journal.jsonl")


def _champion(project: Project) -> tuple[Path | None, str]:
    """Return the bundle in use, None if there is none, and why that cannot be known, else ""."""
    try:
        return project.champion(), ""
    except Unavailable as error:
        return None, error.message


def _lineage(project: Project) -> dict[str, str]:
    """Return the data version, if the dataset was published, and the commit, if there is one."""
    from tidemill.adapters.kfp.parameters import git_commit
    from tidemill.steps.formats import readable

    path, version = project.root / "data" / "version.json", ""
    if path.is_file():
        with readable(path, again="tidemill data publish"):
            version = json.loads(path.read_bytes())["id"]
    known = {"data_version": version, "git_commit": git_commit(project.root)}
    return {name: value for name, value in known.items() if value}
