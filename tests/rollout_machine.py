"""The rollout of one machine with every part real: supervisor, Envoy, model servers, a store, and
the controller as a thread of the test. The registry alone is not asked.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import httpx
import pytest
from tests.servers import free_port
from tests.serving import ROOT, fill

from tidemill.adapters.counters import ScrapedCounters
from tidemill.adapters.envoy import EnvoyRouter
from tidemill.adapters.evidence import ServerEvidence
from tidemill.adapters.outcomes import Outcomes
from tidemill.adapters.workloads import ProcessWorkloads
from tidemill.bundle import read_manifest, read_profile, revision, verify
from tidemill.controller.loop import Controller, Hands
from tidemill.domain.rollout.model import Decision, Revision, State
from tidemill.domain.scores import tails
from tidemill.testing.models import MANIFEST
from tidemill.testing.rollout import FakeReleases
from tidemill.wiring import Project

__all__ = ["RolloutMachine", "started"]


def load_project(root: Path, settings: dict[str, Any]) -> Project:
    """Write and load a project with `settings`, a gateway of free ports and a filled store."""
    first = free_port()
    gateway = {
        "port": free_port(),
        "admin_port": free_port(),
        "server_ports": [first, min(first + 40, 65535)],
    }
    (root / "configs").mkdir(parents=True)
    (root / "configs/base.yaml").write_text((ROOT / "configs/base.yaml").read_text())
    (root / "configs/local.yaml").write_text(json.dumps({"gateway": gateway, **settings}))
    fill(root / ".tidemill/feast/online.db", MANIFEST.features.digest)
    return Project.load(root)


class RolloutMachine:
    """A project with its platform up and a controller in this process."""

    def __init__(
        self, folder: Path, patch: pytest.MonkeyPatch, model: str, rollout: dict[str, Any]
    ) -> None:
        """`rollout` are the settings of that name which are not those of every test."""
        settings = {
            "serving": {"notice_seconds": 0.2, "log": {"flush_seconds": 0.2}},
            "rollout": {
                "settle_seconds": 0.3,
                "interval_seconds": 0.2,
                "scale_down_seconds": 0.5,
                **rollout,
            },
        }
        patch.setenv("OMP_NUM_THREADS", "1")
        self.project = load_project(folder / "project", settings)
        self.folder = folder
        self.infer = f"/v2/models/{model}/infer"
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

    def sign(self, bundle: Path) -> Revision:
        """Sign a bundle; return it as the next version."""
        self.project.signer.sign(bundle)
        digest = verify(
            bundle, self.project.paths.resolve(self.project.settings.registry.verify_key)
        )
        manifest = read_manifest(bundle)
        return Revision(
            revision=revision(digest),
            model=manifest.name,
            version=str(next(self.versions)),
            digest=digest,
            bundle=str(bundle),
            threshold=manifest.prior,
            score_tails=tails(read_profile(bundle).score),
        )

    def start(self, wanted: Revision) -> None:
        with self.project.desk() as desk:
            desk.orders.start(wanted)

    def deploy(self, wanted: Revision) -> None:
        """Have the first version serve: `phase` is the decision, the route its effect."""
        self.start(wanted)
        self.wait(lambda s: s.serving is not None)

    def abort(self) -> None:
        with self.project.desk() as desk:
            desk.orders.command("abort")

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

    @property
    def url(self) -> str:
        """Where clients ask: the gateway."""
        return f"http://127.0.0.1:{self.project.settings.gateway.port}{self.infer}"


M = TypeVar("M", bound=RolloutMachine)


@contextmanager
def started(machine: M) -> Iterator[M]:
    """Run the gateway and the controller; leave no process behind."""
    machine.project.platform.up([machine.project.gateway_spec], timeout=60)
    stop = Event()
    controller = Thread(target=machine.controller.run, args=(stop,))
    controller.start()
    try:
        yield machine
    finally:
        stop.set()
        controller.join()
        machine.client.close()
        machine.project.platform.down()
        machine.project.store.dispose()
