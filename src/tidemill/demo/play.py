"""The demo: the whole loop on the flights of 2013, once with a model that must not get through."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import psutil

from tidemill.adapters.clock import ReplayClock
from tidemill.adapters.reference import copy_reference
from tidemill.bundle import read_manifest
from tidemill.demo.compare import compare_with_first
from tidemill.demo.page import write_page
from tidemill.demo.poison import FORCED, Poison
from tidemill.demo.replay import Replay
from tidemill.demo.story import Event, Stage, Story
from tidemill.demo.traffic import Clients
from tidemill.demo.waiting import wait_for
from tidemill.demo.witness import Witness
from tidemill.domain.months import months
from tidemill.errors import StepFailed, UsageError
from tidemill.local.platform import Platform
from tidemill.ports.runs import RunResult
from tidemill.wiring import Project

__all__ = ["play"]

START = datetime(2013, 4, 1, tzinfo=UTC)
END = datetime(2013, 9, 1, tzinfo=UTC)
AFTER = timedelta(days=3)
"""How long the retrained model serves, so that it can be compared with the first one."""
CLOCK = ".tidemill/clock.json"


def play(folder: Path, tell: Callable[[Event], None]) -> Story:
    """Play the loop in `folder`, which is made anew, and write `demo.html` and `demo.json` there.

    Raises StepFailed when the loop did not close or a request failed, its account written all the
    same, or what else went wrong; the platform is stopped in any case.
    """
    story = Story(tell)
    _clear(folder)
    copy_reference(folder)
    clock = ReplayClock(folder / CLOCK)
    clock.set(START)
    os.environ["TIDEMILL_CLOCK"] = str(folder / CLOCK)
    ports = _free_ports()
    project = Project.load(folder, env="demo", assignments=ports)
    poison = Poison(project, ports)
    with _platform(project, story), poison, Clients(_url(project)) as clients:
        witness = _first_release(project, story, poison)
        manifest = read_manifest(Path(_stable(project) or ""))
        replay = Replay(project, clock, _schedule(project), manifest, clients)
        failures = _live(project, replay, witness, story, poison)
        story.cpu_seconds = _cpu_seconds(project)
    witness.finish()
    story.performance_bound = project.settings.monitoring.performance_z
    compare_with_first(project, story, START)
    _figures(story, replay)
    story.write(folder / "demo.json")
    write_page(story, folder / "demo.html")
    if replay.tally.failed:
        failures.append(f"{replay.tally.failed} requests failed: {dict(replay.tally.statuses)}")
    if failures:
        raise StepFailed("; ".join(failures), hint=f"what happened: {folder / 'demo.html'}")
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
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with story.waiting("the platform begins to start"):
            # of all that starts, what the training waits for
            project.platform.begin(
                spec for spec in project.platform_specs() if spec.name == "mlflow"
            )
            project.source.read("flights", f"{START:%Y-%m}", START)  # parses the CSV for all others
        yield
    finally:
        with story.waiting("the platform stops"):
            project.platform.down()
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _url(project: Project) -> str:
    gateway = f"http://127.0.0.1:{project.settings.gateway.port}"
    return f"{gateway}/v2/models/{project.settings.registry.model}/infer"


def _first_release(project: Project, story: Story, poison: Poison) -> Witness:
    """Train on January to March while the platform starts, and release version 1."""
    story.note(START, "first training begins", "on what was known on 1 April: January to March")
    rest = project.platform_specs()

    def look(run: RunResult) -> None:
        # Until the network is trained MLflow and the imports of the steps take both cores.
        if rest and any(step.name == "train" and step.started_at for step in run.steps):
            while rest:
                project.platform.processes.declare(rest.pop())
            story.note(START, "a model is trained on shuffled labels", FORCED)
            poison.begin()

    run = project.runs.launch("training", {"trigger": "demo"}, watch=look)
    if run.state != "succeeded":
        project.platform.wait(["mlflow"], timeout=1.0)  # says why, if that is what did not start
        raise StepFailed(f"{run.run_id} {run.state}: {run.cause}", hint="see its run.log")
    story.add_run("first training", run)
    with story.waiting("the rest of the platform starts"):
        project.platform.wait([spec.name for spec in project.platform_specs()])
    with story.waiting("first release"):
        wait_for("the first release", lambda: _stable(project) is not None)
    witness = Witness(project, story)
    witness.look()
    return witness


def _stable(project: Project) -> str | None:
    """Return the bundle that serves all traffic, or None while something is in flight."""
    state, _ = project.rollouts.state(project.settings.name)
    return state.serving.bundle if state.serving else None


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


def _live(
    project: Project, replay: Replay, witness: Witness, story: Story, poison: Poison
) -> list[str]:
    """Let months pass: a schedule and drift retrain, in between a poisoned model is stopped.

    Return what was not seen; empty when the loop closed.
    """
    meter = _Meter(project, story)
    wanted = {"schedule", "concept_drift"}
    ended = (witness.rolled_back, witness.promoted)
    replay.play(END, watch=witness.look, done=lambda: "schedule" in witness.ran)
    poisoned = _force(project, witness, story, poison)
    replay.play(END, watch=witness.look, done=lambda: any(poisoned in found for found in ended))
    replay.play(END, watch=witness.look, done=lambda: wanted <= witness.ran)
    replay.play(END, watch=witness.look, done=lambda: bool(witness.promoted))
    replay.play(END, watch=witness.look, done=lambda: _stable(project) is not None)
    replay.play(_last_day(project), watch=witness.look, done=lambda: False)
    witness.look()
    meter.stop((project.clock.now() - START) / timedelta(days=1), replay)
    until = f"until {project.clock.now():%d %B}"
    return [f"{until} not seen: {x}" for x in _not_seen(witness, poisoned)]


def _not_seen(witness: Witness, poisoned: str) -> list[str]:
    """Return what the loop lacks to be closed; `poisoned` is a version."""
    seen = {
        "a drift-caused retraining": "concept_drift" in witness.ran,
        "a scheduled retraining": "schedule" in witness.ran,
        "a retrained model promoted by canary": any(v != poisoned for v in witness.promoted),
        "the poisoned model rolled back by canary": poisoned in witness.rolled_back,
    }
    return [what for what, there in seen.items() if not there]


def _last_day(project: Project) -> datetime:
    """Return when the demo ends: `AFTER` from now, or a day before the schedule is due again."""
    trained = project.governor.last_training() or START
    scheduled = trained + timedelta(days=project.settings.retraining.schedule_days)
    return min(project.clock.now() + AFTER, scheduled - timedelta(days=1))


class _Meter:
    """What the replay costs without the runs and waits that are stages of their own."""

    def __init__(self, project: Project, story: Story) -> None:
        self._project, self._story = project, story
        self._wall, self._cpu = story.wall_seconds, _cpu_seconds(project)
        self._before = len(story.stages)

    def stop(self, days: float, replay: Replay) -> None:
        """Add the replay as a stage."""
        stages = self._story.stages[self._before :]
        apart = sum(stage.wall_seconds for stage in stages if not stage.beside)
        wall = self._story.wall_seconds - self._wall - apart
        cpu = _cpu_seconds(self._project) - self._cpu - sum(stage.cpu_seconds for stage in stages)
        waited = replay.waited - replay.waited_for_runs
        self._story.stages.append(
            Stage(f"replay of {days:.0f} days", wall, wall - waited, cpu_seconds=cpu)
        )


def _force(project: Project, witness: Witness, story: Story, poison: Poison) -> str:
    """Force the poisoned model into a canary, and return its version."""
    witness.look()
    with story.waiting("the training on shuffled labels ends"):
        run = poison.finish()
    story.add_run("training on shuffled labels, beside all else", run, beside=True)
    reference = str(run.step("register").outputs["Output"])
    with project.desk("local") as desk:
        desk.start(reference)
    version = reference.rpartition("/")[2]
    story.note(project.clock.now(), f"version {version}, of shuffled labels, is forced", FORCED)
    return version


def _cpu_seconds(project: Project) -> float:
    """Return the CPU time of this process, its runs, the platform and what the platform ran."""
    pids = [running.pid for running in project.platform.processes.running().values()]
    trees = [psutil.Process(pid).cpu_times() for pid in (*pids, project.platform.supervisor())]
    return sum(os.times()[:4]) + sum(sum(times[:4]) for times in trees)


def _figures(story: Story, replay: Replay) -> None:
    tally = replay.tally
    cuts = statistics.quantiles(tally.seconds, n=100)
    story.figures |= {
        "failed requests": f"{tally.failed:,} of {tally.requests:,}",
        "median answer": f"{1000 * cuts[49]:.1f} ms",
        "99th percentile": f"{1000 * cuts[98]:.1f} ms",
        "answers by version": ", ".join(
            f"{version}: {count:,}" for version, count in sorted(tally.versions.items())
        ),
        "wall time": f"{story.wall_seconds:.0f} s",
        "CPU time": f"{story.cpu_seconds:.0f} s",
        "orchestration and waiting": f"{story.orchestration:.0%} of the wall time",
    }
