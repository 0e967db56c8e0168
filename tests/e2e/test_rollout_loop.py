"""Registry → canary → rollback and promotion, every part real: MLflow, supervisor, Envoy, servers,
prediction log, labels, a replayed clock, and a controller that is killed on the way.
"""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest
from tests.bundles import write_evidence
from tests.servers import free_port
from tests.serving import FULL, ROOT, body, fill

from tidemill.adapters.clock import ReplayClock
from tidemill.domain.rollout.model import State
from tidemill.ports.processes import ProcessSpec
from tidemill.ports.registry import ModelVersion
from tidemill.steps.register import register
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.wiring import Project

pytestmark = pytest.mark.slow

START = datetime.fromisoformat("2013-04-01T09:00:00+00:00")
MODEL = "canary-flights"
QUIET = FULL | {"temp": 120.0, "carrier_late_rate_7d": 0.0}
"""A row that the good model scores below its threshold; it scores FULL above."""


class World:
    """A project with its platform up, and the traffic and labels of its clients."""

    def __init__(self, folder: Path, uri: str, patch: pytest.MonkeyPatch) -> None:
        root = folder / "project"
        first = free_port()
        settings = {
            "gateway": {
                "port": free_port(),
                "admin_port": free_port(),
                "server_ports": [first, min(first + 40, 65535)],
            },
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
        (root / "configs").mkdir(parents=True)
        (root / "configs/base.yaml").write_text((ROOT / "configs/base.yaml").read_text())
        (root / "configs/local.yaml").write_text(json.dumps(settings))
        patch.setenv("TIDEMILL_CLOCK", str(folder / "clock.json"))
        patch.setenv("OMP_NUM_THREADS", "1")
        self.clock = ReplayClock(folder / "clock.json")
        self.clock.set(START)
        fill(root / ".tidemill/feast/online.db", MANIFEST.features.digest)
        self.project = Project.load(root)
        self.folder = folder
        self.failed = self.requests = 0

    def up(self) -> None:
        controller = ProcessSpec("controller", self.project.command("rollout", "controller"))
        self.project.platform.up([self.project.gateway_spec, controller], timeout=60)

    def release(self, name: str, bias: float) -> ModelVersion:
        project, manifest = self.project, replace(MANIFEST, name=MODEL)
        bundle = write_bundle(self.folder / name, manifest=manifest, bias=bias)
        write_evidence(bundle)
        return register(
            bundle,
            signer=project.signer,
            registry=project.registry,
            aliases=project.registry,
            ledger=project.ledger,
            clock=project.clock,
            run_id="",
            who="pipeline",
            why="gates passed",
            correlation=name,
        )

    def start(self, version: ModelVersion) -> None:
        self.project.orders.start(self.project.revision(str(version)), self.project.rollout_plan)

    @property
    def state(self) -> State:
        return self.project.rollouts.state(self.project.settings.name)[0]

    @property
    def log(self) -> list[tuple[str, str]]:
        return [
            (d.action, d.reason)
            for d in self.project.rollouts.decisions(self.project.settings.name)
        ]

    def wait(self, condition: Callable[[State], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition(self.state):
            assert time.monotonic() < end, self.log
            time.sleep(0.05)

    def hour_passes(self, client: httpx.Client) -> None:
        """40 requests at this hour; one label in ten is not what the good model says."""
        now, url = self.clock.now(), f"http://127.0.0.1:{self.project.settings.gateway.port}"
        labels = []
        for n in range(40):
            late = n % 2
            row = {**(FULL if late else QUIET), "flight_id": f"{now:%m%dT%H%M}-{n}"}
            answer = client.post(f"{url}/v2/models/{MODEL}/infer", json=body(row))
            self.requests += 1
            self.failed += answer.status_code != 200
            label = late if n % 10 != 3 else 1 - late
            known = now + timedelta(minutes=59)
            labels.append({"row_id": row["flight_id"], "label": label, "label_at": known})
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
    world.wait(lambda state: state.phase == "stable")
    registry = world.project.registry

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
    assert registry.aliases(MODEL)["champion"] == good.version

    world.start(better)
    world.live(lambda state: state.phase == "stable" and state.history[0].outcome == "promoted")
    world.wait(lambda state: not state.releases)
    assert registry.aliases(MODEL)["champion"] == better.version
    told = [(e.action, e.version) for e in world.project.ledger.entries() if e.who == "rollout"]
    assert ("rejected", bad.version) in told
    assert ("moved", better.version) in told
    assert world.project.platform.processes.statuses()["controller"].pid != killed
    numbers = [d.seq for d in world.project.rollouts.decisions(world.project.settings.name)]
    assert numbers == list(range(1, len(numbers) + 1))
    with capsys.disabled():
        print(f" {world.requests} requests, {world.failed} failed, bad one out after {hours} h ")
    assert world.failed == 0
