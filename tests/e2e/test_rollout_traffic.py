"""Promotion and rollback under load: real Envoy, real server processes, a real load generator."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from tests.unit.rollout_world import NAME, plan, revision

from tidemill.adapters.clock import SystemClock
from tidemill.adapters.envoy import EnvoyRouter, envoy_spec
from tidemill.adapters.evidence import ServerEvidence
from tidemill.adapters.objects import open_objects
from tidemill.adapters.outcomes import Outcomes
from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.rollouts import StoredRollouts
from tidemill.adapters.workloads import ProcessWorkloads
from tidemill.controller.loop import Controller, Hands
from tidemill.domain.rollout.model import Spec, Step
from tidemill.local.platform import Platform
from tidemill.settings.serving import GatewaySettings
from tidemill.testing.rollout import FakeReleases

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


FAST = plan(
    steps=(
        Step("c5", 500, (), 200, 0, 600, False),
        Step("c50", 5000, ("slow",), 500, 0, 600, False),
    ),
    metrics=(
        replace(plan().metrics[0], pass_ratio=3.0),
        replace(plan().metrics[1], pass_ratio=3.0),
    ),
    settle_seconds=0.3,
    scale_down_seconds=1.0,
    interval_seconds=0.2,
)


class Machine:
    """A platform with a gateway, and a controller in a thread of this process."""

    def __init__(self, folder: Path) -> None:
        first = free_port()
        self.gateway = GatewaySettings(
            port=free_port(), admin_port=free_port(), server_ports=(first, min(first + 50, 65535))
        )
        self.platform = Platform(folder / "platform", folder / "logs")
        self.store = StoredRollouts(open_store(f"sqlite:///{folder / 'store.db'}"))
        self.slow = {"v1": "0.02", "v2": "0.02", "v3": "0.3"}
        self.client = httpx.Client(timeout=2.0)
        admin = f"http://127.0.0.1:{self.gateway.admin_port}"
        hands = Hands(
            ProcessWorkloads(self.platform.processes, self.command, self.gateway.server_ports),
            EnvoyRouter(folder / "envoy", admin, self.client),
            ServerEvidence(Outcomes(open_objects(str(folder / "objects"))), self.client),
            FakeReleases(),
        )
        self.controller = Controller(
            NAME, self.store, self.store, hands, SystemClock(), lambda: datetime.now(UTC)
        )
        self.stop = threading.Event()
        self.thread = threading.Thread(
            target=self.controller.run, args=(self.stop,), kwargs={"idle_seconds": 0.1}
        )
        self.platform.up([envoy_spec(folder / "envoy", self.gateway)], timeout=60)
        self.thread.start()

    def command(self, wanted, port: int) -> tuple[str, ...]:
        env = f"SLOW={self.slow[wanted.revision]}"
        server = (sys.executable, str(HERE / "small_server.py"), str(port), wanted.revision)
        return ("/usr/bin/env", env, *server)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.gateway.port}"

    def want(self, name: str) -> None:
        before = self.store.spec(NAME)
        generation = before.generation + 1 if before else 1
        self.store.propose(NAME, Spec(generation, revision(name), FAST))

    def wait(self, phase: str, name: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            state, _ = self.store.state(NAME)
            if state.phase == phase and state.stable and state.stable.revision == name:
                return
            time.sleep(0.1)
        raise AssertionError(f"not {phase} of {name}: {state.phase}, {self.log()}")

    def log(self) -> list[tuple[str, str]]:
        return [(d.action, d.reason) for d in self.store.decisions(NAME)]

    def close(self) -> None:
        self.stop.set()
        self.thread.join(10)
        self.platform.down()
        self.client.close()


@pytest.fixture
def machine(tmp_path):
    machine = Machine(tmp_path)
    yield machine
    machine.close()


class Load:
    """Locust, headless, until it is stopped."""

    def __init__(self, url: str, folder: Path) -> None:
        self.report = folder / "locust.json"
        with self.report.open("w") as report, (folder / "locust.log").open("w") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py")),
                    *("--headless", "-u", "8", "-r", "8", "--host", url, "--json"),
                    "--only-summary",
                ],
                stdout=report,
                stderr=log,
            )

    def end(self) -> tuple[int, int]:
        """Return how many requests were sent and how many failed."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        text = self.report.read_text()
        (stats,) = json.loads(text[text.index("[") :])
        return stats["num_requests"], stats["num_failures"]


def test_no_request_fails_through_promotion_and_rollback(machine, tmp_path, record_property):
    machine.want("v1")
    machine.wait("stable", "v1")
    load = Load(machine.url, tmp_path)
    try:
        machine.want("v2")
        machine.wait("stable", "v2")
        machine.want("v3")
        deadline = time.monotonic() + 60
        while machine.store.state(NAME)[0].closed != "v3" and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1.0)
    finally:
        requests, failed = load.end()
    state, _ = machine.store.state(NAME)
    record_property("requests", requests)
    assert state.history[0].outcome == "rolled_back", machine.log()
    assert "harm in slow" in state.history[0].reason
    assert state.history[1].outcome == "promoted"
    assert requests > 1000
    assert failed == 0, f"{failed} of {requests} requests failed"
    print(f"{requests} requests, {failed} failed")
    assert set(machine.platform.processes.declared()) == {
        "gateway",
        *(n for n in machine.platform.processes.declared() if n.startswith("model-v2-")),
    }
