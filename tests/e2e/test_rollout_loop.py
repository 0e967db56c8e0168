"""Registry → canary → rollback and promotion, every part real: MLflow, supervisor, Envoy, servers,
prediction log, labels, a replayed clock, a controller that is killed on the way, and clients that
never pause.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from tests.bundles import write_evidence
from tests.command_line import Line
from tests.registering import registered
from tests.rollout_machine import load_project
from tests.serving import FULL, body, wait_until

from tidemill.adapters.clock import ReplayClock
from tidemill.domain.rollout.model import State
from tidemill.ports.processes import ProcessSpec
from tidemill.ports.registry import ModelVersion
from tidemill.testing.models import MANIFEST, write_bundle

pytestmark = pytest.mark.slow

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
START = datetime.fromisoformat("2013-04-01T09:00:00+00:00")
MODEL = "canary-flights"
INFER = f"/v2/models/{MODEL}/infer"
QUIET = FULL | {"temp": 120.0, "carrier_late_rate_7d": 0.0}
"""A row that the good model scores below its threshold; it scores FULL above."""


LOAD_ROWS = 20


def scored(n: int, prefix: str) -> dict[str, Any]:
    """The n-th row: every other one gets a high score."""
    return {**(FULL if n % 2 else QUIET), "flight_id": f"{prefix}-{n}"}


def outcome(n: int, prefix: str, known: datetime) -> dict[str, Any]:
    """The label of the n-th row; one in ten is not what the good model says."""
    return {
        "row_id": f"{prefix}-{n}",
        "label": 1 - n % 2 if n % 10 == 3 else n % 2,
        "label_at": known,
    }


class World:
    """A project with its platform up, and the traffic and labels of its clients."""

    def __init__(self, folder: Path, uri: str, patch: pytest.MonkeyPatch) -> None:
        settings = {
            "registry": {"uri": uri},
            "serving": {"notice_seconds": 0.2, "log": {"flush_seconds": 0.2}},
            "monitoring": {"maturity_hours": 1},
            "rollout": {
                "steps": [
                    {"name": "c20", "weight": 2000, "min_events": 50},
                    {"name": "c50", "weight": 5000, "gate": ["wrong"], "min_events": 50},
                ],
                "analysis": {
                    "metrics": [
                        {"name": "errors", "event": "error", "max_rate": 0.05},
                        {"name": "wrong", "event": "wrong", "pass_ratio": 2.0},
                    ]
                },
                "settle_seconds": 0.3,
                "interval_seconds": 0.1,
                "scale_down_seconds": 1,
            },
        }
        patch.setenv("TIDEMILL_CLOCK", str(folder / "clock.json"))
        patch.setenv("OMP_NUM_THREADS", "1")
        self.clock = ReplayClock(folder / "clock.json")
        self.clock.set(START)
        self.project = load_project(folder / "project", settings)
        self.folder = folder
        self.failed = self.requests = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.project.settings.gateway.port}"

    def up(self) -> None:
        controller = ProcessSpec("controller", self.project.command("rollout", "controller"))
        self.project.platform.up([self.project.gateway_spec, controller], timeout=60)

    def release(self, name: str, bias: float) -> ModelVersion:
        manifest = replace(MANIFEST, name=MODEL)
        bundle = write_bundle(self.folder / name, manifest=manifest, bias=bias)
        write_evidence(bundle)
        return registered(self.project, bundle, name)

    def start(self, version: ModelVersion) -> None:
        self.project.deploy(str(version), 0)

    @property
    def state(self) -> State:
        return self.project.rollouts.state(self.project.settings.name)[0]

    @property
    def log(self) -> list[tuple[str, str]]:
        return [
            (d.action, d.reason)
            for d in self.project.rollouts.decisions(self.project.settings.name)
        ]

    @property
    def servers(self) -> list[str]:
        """The model servers that the supervisor keeps running."""
        declared = self.project.platform.processes.declared()
        return [name for name in declared if name.startswith("model-")]

    def wait(self, condition: Callable[[State], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition(self.state):
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def hour_passes(self, client: httpx.Client) -> None:
        """40 requests at this hour, and the labels of these and of the load."""
        now = self.clock.now()
        labels = [outcome(n, "load", START) for n in range(LOAD_ROWS)]
        for n in range(40):
            row = scored(n, f"{now:%m%dT%H%M}")
            answer = client.post(f"{self.url}{INFER}", json=body(row))
            self.requests += 1
            self.failed += answer.status_code != 200
            labels.append(outcome(n, f"{now:%m%dT%H%M}", now + timedelta(minutes=59)))
        buffer = io.BytesIO()
        pl.DataFrame(labels, schema_overrides={"label": pl.Int8}).write_parquet(buffer)
        key = f"labels/{MODEL}/dt={now:%Y-%m-%d}/{now:%H%M%S}.parquet"
        self.project.objects.put(key, buffer.getvalue())
        self.clock.set(now + timedelta(hours=1))

    def live(self, done: Callable[[State], bool], *, hours: int = 240) -> int:
        """Let hours pass until `done`; return how many did."""
        with httpx.Client(timeout=10) as client:
            for hour in range(hours):
                if done(self.state):
                    return hour
                self.hour_passes(client)
                time.sleep(0.1)
        raise AssertionError(f"undecided after {hours} hours: {self.log}")


class Load:
    """Locust, headless: eight clients at twenty requests a second each, until its context ends."""

    def __init__(self, url: str, folder: Path) -> None:
        load, bodies = folder / "load.json", [body(scored(n, "load")) for n in range(LOAD_ROWS)]
        load.write_text(json.dumps({"path": INFER, "bodies": bodies}))
        self.environment = os.environ | {"TIDEMILL_LOAD": str(load)}
        self.argv = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", url]
        self.argv += ["--headless", "-u", "8", "-r", "8", "--json", "--only-summary"]
        self.report = folder / "locust.json"
        self.told = folder / "locust.log"
        self.requests = self.failed = 0

    def __enter__(self) -> Load:
        with self.report.open("w") as report, self.told.open("w") as told:
            self.process = subprocess.Popen(
                self.argv, stdout=report, stderr=told, env=self.environment
            )
        wait_until(lambda: "All users spawned" in self.told.read_text())
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        text = self.report.read_text()
        (stats,) = json.loads(text[text.index("[") :])
        self.requests, self.failed = stats["num_requests"], stats["num_failures"]


@pytest.fixture
def world(tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, mlflow_uri, monkeypatch)
    made.up()
    yield made
    made.project.platform.down()
    made.project.store.dispose()


def test_a_wrong_model_is_rolled_back_and_a_right_one_promoted(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad, better = (
        world.release(name, bias) for name, bias in (("good", -1.0), ("bad", -9.0), ("same", -1.01))
    )
    world.start(good)
    world.wait(lambda state: state.serving is not None)
    with Load(world.url, world.folder) as load:
        hours = roll_back(world, bad, good)
        promote(world, better, Line(capsys, "retrain"))
        world.wait(lambda _: len(world.servers) == 1)
    told = [(e.action, e.version) for e in world.project.ledger.entries() if e.who == "rollout"]
    assert ("rejected", bad.version) in told
    assert ("moved", better.version) in told
    numbers = [d.seq for d in world.project.rollouts.decisions(world.project.settings.name)]
    assert numbers == list(range(1, len(numbers) + 1))
    with capsys.disabled():
        print(f" {world.requests} requests, {world.failed} failed, bad one out after {hours} h;")
        print(f" locust: {load.requests} requests, {load.failed} failed ")
    assert (world.failed, load.failed) == (0, 0), load.told.read_text()
    assert load.requests > 500


def roll_back(world: World, bad: ModelVersion, good: ModelVersion) -> int:
    """Let a canary fail while the controller is killed; return how many hours it took."""
    world.start(bad)
    world.wait(lambda state: state.phase == "progressing")
    world.live(lambda state: state.weight == 5000, hours=30)
    killed = world.project.platform.processes.statuses()["controller"].pid
    os.kill(killed, signal.SIGKILL)
    hours = world.live(lambda state: state.closed != "")
    outcome = world.state.history[0]
    assert outcome.outcome == "rolled_back"
    assert "harm in wrong" in outcome.reason
    world.wait(lambda state: not state.releases)
    assert world.project.registry.aliases(MODEL)["champion"] == good.version
    assert world.project.platform.processes.statuses()["controller"].pid != killed
    return hours


def promote(world: World, better: ModelVersion, retrain: Line) -> None:
    """Let a canary take over; a retraining waits for its end."""
    world.start(better)
    project = ("--project", str(world.project.root))
    wish = ("request", "--cause", "ci", "--key", "a commit", "-m", "new features")
    said, _ = retrain(*wish, *project)
    assert "is waiting: WAIT: in rollout" in said
    world.live(lambda state: state.phase == "stable" and state.history[0].outcome == "promoted")
    world.wait(lambda state: not state.releases)
    assert world.project.registry.aliases(MODEL)["champion"] == better.version
    (asked,) = world.project.governor.advance()
    assert asked.state == "pending"
    waited, ran = retrain.json("why", asked.id, *project)
    assert (waited["verb"], waited["rule"], ran["verb"]) == ("WAIT", "rollout", "RUN")
    assert f"version {better.version} is" in waited["reason"]
