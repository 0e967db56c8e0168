"""A shadow step, every part real: Envoy mirrors the requests of clients that never pause, real
servers answer them, the controller reads both arms' answers and decides.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

import httpx
import polars as pl
import pytest
from tests.servers import free_port
from tests.serving import ROOT, fill
from tests.shadowed import asking

from tidemill.adapters.counters import ScrapedCounters
from tidemill.adapters.envoy import EnvoyRouter
from tidemill.adapters.evidence import ServerEvidence
from tidemill.adapters.outcomes import Outcomes
from tidemill.adapters.workloads import ProcessWorkloads
from tidemill.bundle import read_profile, revision, verify
from tidemill.controller.loop import Controller, Hands
from tidemill.domain.rollout.model import Decision, Revision, State
from tidemill.domain.scores import tails
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.rollout import FakeReleases
from tidemill.wiring import Project

pytestmark = pytest.mark.slow

MODEL = "shadowed-flights"
INFER = f"/v2/models/{MODEL}/infer"
PAIRED = [
    {"name": "disagreement", "event": "flip", "max_rate": 0.05, "alpha_share": 0.3},
    {"name": "failures", "event": "failed", "max_rate": 0.05, "alpha_share": 0.3},
]


class World:
    """A project with its platform up and a controller in this process."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        root, first = folder / "project", free_port()
        steps = [
            {
                "name": "shadow",
                "shadow": {"percent": 50},
                "gate": ["disagreement", "failures"],
                "min_events": 150,
            },
            {"name": "c50", "weight": 5000, "min_events": 50},
        ]
        metrics = [{"name": "errors", "event": "error", "max_rate": 0.05}]
        settings = {
            "gateway": {
                "port": free_port(),
                "admin_port": free_port(),
                "server_ports": [first, min(first + 40, 65535)],
            },
            "serving": {"notice_seconds": 0.2, "log": {"flush_seconds": 0.2}},
            "rollout": {
                "steps": steps,
                "analysis": {"metrics": metrics, "paired": PAIRED},
                "settle_seconds": 0.3,
                "interval_seconds": 0.2,
                "scale_down_seconds": 0.5,
            },
        }
        (root / "configs").mkdir(parents=True)
        (root / "configs/base.yaml").write_text((ROOT / "configs/base.yaml").read_text())
        (root / "configs/local.yaml").write_text(json.dumps(settings))
        patch.setenv("OMP_NUM_THREADS", "1")
        fill(root / ".tidemill/feast/online.db", MANIFEST.features.digest)
        self.project = Project.load(root)
        self.folder = folder
        self.versions = itertools.count(1)
        self.client = httpx.Client(timeout=2.0, trust_env=False)
        self.controller = self._controller()

    def _controller(self) -> Controller:
        project, client = self.project, self.client
        gateway = project.settings.gateway
        admin = f"http://127.0.0.1:{gateway.admin_port}"
        servers = ProcessWorkloads(project.platform.processes, project._serve, gateway.server_ports)
        router = EnvoyRouter(project.paths.state / "gateway", admin, client)
        evidence = ServerEvidence(Outcomes(project.objects), ScrapedCounters(client), client)
        hands = Hands(servers, router, evidence, FakeReleases())
        name, store = project.settings.name, project.rollouts
        return Controller(name, store, store, hands, project.clock, lambda: datetime.now(UTC))

    def release(self, bias: float) -> Revision:
        version = str(next(self.versions))
        manifest = replace(MANIFEST, name=MODEL)
        bundle = write_bundle(self.folder / version, manifest=manifest, bias=bias)
        self.project.signer.sign(bundle)
        digest = verify(
            bundle, self.project.paths.resolve(self.project.settings.registry.verify_key)
        )
        return Revision(
            revision=revision(digest),
            model=MODEL,
            version=version,
            digest=digest,
            bundle=str(bundle),
            threshold=manifest.prior,
            score_tails=tails(read_profile(bundle).score),
        )

    def start(self, wanted: Revision) -> None:
        with self.project.desk() as desk:
            desk.orders.start(wanted)

    @property
    def state(self) -> State:
        return self.project.rollouts.state(self.project.settings.name)[0]

    @property
    def log(self) -> list[Decision]:
        return self.project.rollouts.decisions(self.project.settings.name)

    def wait(self, condition: Callable[[State], bool], seconds: float = 60) -> State:
        end = time.monotonic() + seconds
        while not condition(state := self.state):
            assert time.monotonic() < end, [(d.action, d.reason) for d in self.log]
            time.sleep(0.05)
        return state

    def address(self, wanted: Revision) -> str:
        names = self.project.platform.processes.declared()
        port = next(n.split("-")[2] for n in names if n.startswith(f"model-{wanted.revision}"))
        return f"http://127.0.0.1:{port}"

    def counted(self, wanted: Revision) -> Counter[str]:
        """What a server counts of its requests and shadows, by metric and outcome."""
        text = httpx.get(f"{self.address(wanted)}/metrics").text
        found: Counter[str] = Counter()
        for line in text.splitlines():
            for name in ("tidemill_requests_total", "tidemill_shadow_requests_total"):
                if line.startswith(name) and float(line.rpartition(" ")[2]):
                    found[name] += int(float(line.rpartition(" ")[2]))
        return found

    def logged(self, wanted: Revision) -> int:
        """Rows of a revision in the prediction log, the rehearsal's left out."""
        files = (self.project.root / ".tidemill/objects/predictions").rglob("*.parquet")
        rows = [pl.read_parquet(file, columns=["revision", "request_id"]) for file in files]
        mine = pl.concat(rows).filter(pl.col("revision") == wanted.reported)
        return mine.filter(pl.col("request_id") != "rehearsal").height

    @property
    def url(self) -> str:
        """Where clients ask: the gateway."""
        return f"http://127.0.0.1:{self.project.settings.gateway.port}{INFER}"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World(tmp_path, monkeypatch)
    made.project.platform.up([made.project.gateway_spec], timeout=60)
    stop = Event()
    controller = Thread(target=made.controller.run, args=(stop,))
    controller.start()
    yield made
    stop.set()
    controller.join()
    made.client.close()
    made.project.platform.down()
    made.project.store.dispose()


def test_a_model_that_agrees_goes_on_and_one_that_does_not_never_meets_a_client(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    good, same, bad = world.release(-1.0), world.release(-1.001), world.release(-9.0)
    world.start(good)
    world.wait(lambda state: state.serving is not None)
    with asking(world.url, 4) as answered:
        world.start(same)
        shadowing = world.wait(lambda s: bool(s.attempt and s.attempt.evidence.pairing.matched))
        assert (shadowing.weight, shadowing.mirror) == (0, 5000)
        counted = world.counted(same)
        assert counted["tidemill_shadow_requests_total"] > 0
        assert counted["tidemill_requests_total"] == 1, "the rehearsal alone"
        assert world.logged(same) == 0
        assert answered[same.version] == 0
        world.wait(lambda s: s.weight == 5000)
        promoted = world.wait(lambda s: s.phase == "stable" and bool(s.history))
        assert promoted.history[0].outcome == "promoted"

        world.start(bad)
        refused = world.wait(lambda s: s.closed == bad.revision)
    assert refused.history[0].outcome == "rolled_back"
    assert "harm in disagreement" in refused.history[0].reason
    assert answered["failed"] == answered[bad.version] == 0
    assert world.logged(bad) == 0
    passed = next(d for d in world.log if d.reason == "step shadow: gate passed")
    assert [a.verdict for a in passed.paired] == ["pass", "pass"]
    with capsys.disabled():
        found = {a.metric: (a.events, a.pairs) for a in passed.paired}
        print(f" {answered.total()} requests, {answered['failed']} failed; {found}")
