"""The demo: the whole loop on the flights of 2013, once with a model that must not get through."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl

from tidemill.adapters.clock import ReplayClock
from tidemill.adapters.reference import copy_reference
from tidemill.bundle import read_manifest
from tidemill.demo.compare import compare_with_first
from tidemill.demo.page import write_page
from tidemill.demo.replay import Replay
from tidemill.demo.story import Event, Story
from tidemill.demo.waiting import wait_for
from tidemill.demo.witness import Witness
from tidemill.domain.months import months
from tidemill.errors import StepFailed, UsageError
from tidemill.local.platform import Platform
from tidemill.ports.runs import RunResult
from tidemill.wiring import Project

__all__ = ["play"]

START = datetime(2013, 4, 1, tzinfo=UTC)
END = datetime(2013, 7, 1, tzinfo=UTC)
CLOCK = ".tidemill/clock.json"
POISONED = Path(__file__).with_name("poisoned.txt")
FORCED = "demo: a corrupted model is forced past the gates, to see the canary stop it"


def play(folder: Path, tell: Callable[[Event], None]) -> Story:
    """Play the loop in `folder`, which is made anew, and write `demo.html` and `demo.json` there.

    Raises what went wrong; the platform is stopped in any case.
    """
    story = Story(tell)
    _clear(folder)
    copy_reference(folder)
    pipeline = folder / "pipelines" / "poisoned_training.py"
    pipeline.write_text(POISONED.read_text())
    clock = ReplayClock(folder / CLOCK)
    clock.set(START)
    os.environ["TIDEMILL_CLOCK"] = str(folder / CLOCK)
    project = Project.load(folder, env="demo", assignments=_free_ports())
    with _platform(project, story):
        witness, replay = _first_release(project, clock, story)
        _live(project, replay, witness, story)
    witness.finish()
    compare_with_first(project, story, START)
    _figures(story, replay)
    story.write(folder / "demo.json")
    write_page(story, folder / "demo.html")
    return story


def _clear(folder: Path) -> None:
    """Remove an old demo, its processes too; anything else is left alone and refused."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / CLOCK).exists():
            raise UsageError(
                f"{folder} is not empty and no old demo", hint="choose another: --into FOLDER"
            )
        Platform(folder / ".tidemill" / "platform", folder / ".tidemill" / "logs").down()
        shutil.rmtree(folder)


def _free_ports() -> list[str]:
    """Take ports that nobody uses, so that the demo runs beside a platform that is up."""
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    mlflow, gateway, admin = (one.getsockname()[1] for one in sockets)
    for one in sockets:
        one.close()
    return [
        f"registry.uri=http://127.0.0.1:{mlflow}",
        f"gateway.port={gateway}",
        f"gateway.admin_port={admin}",
    ]


@contextmanager
def _platform(project: Project, story: Story) -> Iterator[None]:
    """Begin to start the platform; whatever happens, leave nothing running."""
    specs = project.platform_specs()
    try:
        with story.stage("starting MLflow"):  # alone: it is what the training waits for
            project.platform.up([spec for spec in specs if spec.name == "mlflow"])
        for spec in specs:
            project.platform.processes.declare(spec)
        yield
    finally:
        with story.stage("stopping the platform"):
            project.platform.down()


def _first_release(project: Project, clock: ReplayClock, story: Story) -> tuple[Witness, Replay]:
    """Train on January to March while the platform starts, and release version 1."""
    story.note(START, "first training begins", "on what was known on 1 April: January to March")
    run = _run(project, "training", {"trigger": "demo"})
    story.add_run("first training", run)
    with story.stage("starting the rest of the platform"):
        project.platform.wait([spec.name for spec in project.platform_specs()])
    witness = Witness(project, story)
    with story.stage("first release"):
        revision = _released(project)
    witness.look()
    return witness, Replay(project, clock, _schedule(project), read_manifest(Path(revision)))


def _run(project: Project, pipeline: str, parameters: dict[str, str]) -> RunResult:
    run = project.runs.launch(pipeline, parameters)
    if run.state != "succeeded":
        raise StepFailed(f"{run.run_id} {run.state}: {run.cause}", hint="see its run.log")
    return run


def _released(project: Project) -> str:
    """Wait until the first version serves; return its bundle."""

    def phase() -> bool:
        return project.rollouts.state(project.settings.name)[0].phase == "stable"

    wait_for("the first release", phase)
    stable = project.rollouts.state(project.settings.name)[0].stable
    assert stable is not None
    return stable.bundle


def _schedule(project: Project) -> pl.DataFrame:
    """Return the schedule of the months to play, as it was known at the start."""
    wanted = months(f"{START:%Y-%m}", f"{END - timedelta(days=1):%Y-%m}")
    raw = {
        table: pl.concat(
            project.source.read(table, period, START)
            for period in (["static"] if cadence == "static" else wanted)
        ).lazy()
        for table, cadence in project.source.tables().items()
    }
    horizon = project.settings.features.horizon_minutes
    return project.transforms.spine(raw, horizon_minutes=horizon)


def _live(project: Project, replay: Replay, witness: Witness, story: Story) -> None:
    """Let the months pass until a retrained model serves, then a poisoned one, then a schedule."""
    begin = story.wall_seconds
    replay.play(END, watch=witness.look, done=lambda: bool(witness.promoted))
    _poison(project, story)
    before = len(witness.rolled_back)
    replay.play(END, watch=witness.look, done=lambda: len(witness.rolled_back) > before)
    replay.play(END, watch=witness.look, done=lambda: {"schedule", "concept_drift"} <= witness.ran)
    missing = [
        what
        for what, there in {
            "a drift-caused retraining": "concept_drift" in witness.ran,
            "a scheduled retraining": "schedule" in witness.ran,
            "a retrained model promoted by canary": bool(witness.promoted),
            "a corrupted model rolled back": bool(witness.rolled_back),
        }.items()
        if not there
    ]
    if missing:
        raise StepFailed(f"until {END:%d %B} the replay has not seen {', '.join(missing)}")
    days = (project.clock.now() - START) / timedelta(days=1)
    story.add_replay(days, story.wall_seconds - begin, replay.waited)


def _poison(project: Project, story: Story) -> None:
    """Train on shuffled labels and force the result into production."""
    newest = max(project.paths.runs.glob("training-*/**/training_set"), key=os.path.getmtime)
    story.note(project.clock.now(), "a model is trained on shuffled labels", FORCED)
    run = _run(project, "poisoned_training", {"training_set": str(newest), "force_reason": FORCED})
    story.add_run("poisoned training", run)


def _figures(story: Story, replay: Replay) -> None:
    tally = replay.tally
    seconds = sorted(tally.seconds)
    cuts = statistics.quantiles(seconds, n=100)
    story.figures |= {
        "failed requests": f"{tally.failed:,} of {tally.requests:,}",
        "median answer": f"{1000 * statistics.median(seconds):.1f} ms",
        "99th percentile": f"{1000 * cuts[98]:.1f} ms",
        "versions that answered": ", ".join(
            f"{version}: {count:,}" for version, count in sorted(tally.versions.items())
        ),
    }
