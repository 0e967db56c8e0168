"""`tidemill retrain follow` killed while a pipeline runs: real processes, store and KFP runner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tidemill.domain.governor import Request
from tidemill.wiring import Project

pytestmark = pytest.mark.slow


def living(*pids: int) -> list[int]:
    found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [p.pid for p in found if p.status() != psutil.STATUS_ZOMBIE]


@dataclass
class Desk:
    """A project whose training waits in its second step as long as the file `work` says so."""

    project: Project

    @property
    def request(self) -> Request:
        """The one request there is."""
        (only,) = self.project.requests.all(self.project.settings.registry.model)
        return only

    @property
    def runs(self) -> list[Path]:
        return list(self.project.paths.runs.iterdir())

    @property
    def log(self) -> str:
        return (self.project.root / "follow.log").read_text()

    def wait(self, condition: Callable[[], object], otherwise: str) -> None:
        limit = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < limit, f"{otherwise}: {self.request}\n{self.log}"
            time.sleep(0.05)

    @contextmanager
    def following(self) -> Iterator[subprocess.Popen[bytes]]:
        """Keep a follower running; it is killed at the end, if it lives."""
        command = [Path(sys.executable).with_name("tidemill"), "--project", self.project.root]
        with (self.project.root / "follow.log").open("a") as log:
            follower = subprocess.Popen([*command, "retrain", "follow"], stdout=log, stderr=log)
        try:
            yield follower
        finally:
            follower.kill()
            follower.wait(30)

    def runner(self) -> int:
        """Return the process that runs the pipeline, once its second step works."""
        pids = self.project.root / "pids"
        self.wait(lambda: pids.exists() and pids.read_text().count(" ") == 1, "no step works")
        self.wait(lambda: self.request.run_id, "the run is not on record")
        events = (self.project.paths.runs / self.request.run_id / "events.jsonl").read_text()
        spawned = [one for one in map(json.loads, events.splitlines()) if one["event"] == "spawned"]
        return int(spawned[-1]["pid"])


@pytest.fixture
def desk(flows: Project) -> Desk:
    (flows.root / "work").write_text("sleep")
    flows.governor.request("manual", actor="me", reason="new market")
    return Desk(flows)


def test_a_killed_follower_loses_nothing_and_begins_nothing_twice(desk: Desk) -> None:
    with desk.following() as follower:
        runner = desk.runner()
        os.kill(runner, signal.SIGSTOP)  # so that it outlives the follower for a while
        follower.kill()
        follower.wait(30)
    killed, order = desk.request, desk.project.root / "work"
    working = map(int, (desk.project.root / "pids").read_text().split())
    assert (killed.state, killed.attempts) == ("running", 1)
    order.unlink()
    with desk.following(), desk.following():
        desk.wait(lambda: "is still running" in desk.log, "nobody looked at the run")
        assert len(desk.runs) == 1
        with suppress(ProcessLookupError):
            os.kill(runner, signal.SIGCONT)
        desk.wait(lambda: desk.request.state not in ("pending", "running"), "the run has no end")
    done = desk.request
    assert (done.state, done.run_id, done.attempts) == ("succeeded", killed.run_id, 2), done.outcome
    assert [path.name for path in desk.runs] == [killed.run_id], "no second run was begun"
    run = desk.project.runs.status(done.run_id)
    states = {step.name: step.state for step in run.steps}
    assert states == {"make": "reused", "work": "succeeded", "finish": "succeeded"}
    assert (desk.project.root / "made").read_text().count("x") == 1
    assert run.outputs == {"Output": f"half done@{killed.accepted_at}"}, "as of the same moment"
    assert [d.verb for d in desk.project.requests.decisions(done.id)] == ["RUN", "RUN"]
    assert living(runner, *working) == []
