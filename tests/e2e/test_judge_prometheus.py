"""The judge as a process, real model servers, a real Prometheus that scrapes them."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.servers import free_port, prometheus
from tests.serving import FULL, TIDEMILL, Project, body, make_project

from tidemill.adapters.counters import ScrapedCounters
from tidemill.adapters.prometheus import PrometheusCounters
from tidemill.domain.rollout.model import Workload
from tidemill.ports.rollout import CounterSource

pytestmark = pytest.mark.slow

PATIENCE = 60.0
PAST = datetime.fromtimestamp(0, UTC)
SLOW = {"TIDEMILL_SERVING__SLOW_MS": "0.0001"}
"""Every request is slow."""


class World:
    """Servers of one bundle, a Prometheus that scrapes them, a judge for each way to read them."""

    def __init__(self, project: Project, folder: Path, stack: ExitStack) -> None:
        self.project, self.stack = project, stack
        self.http = stack.enter_context(httpx.Client(trust_env=False, timeout=10))
        self.servers = {
            "fast": project.serve(),
            "slow": project.serve(env=SLOW),
            "slower": project.serve(env=SLOW),
        }
        self.prometheus = stack.enter_context(
            prometheus(folder, [self.address(name) for name in self.servers])
        )
        self.direct = ScrapedCounters(self.http)
        self.through = PrometheusCounters(self.prometheus, self.http)
        self.judges = {
            "the servers": self.start_judge(""),
            "Prometheus": self.start_judge(self.prometheus),
            "nobody": self.start_judge("http://127.0.0.1:9"),
        }

    def address(self, name: str) -> str:
        return self.servers[name].url.partition("//")[2]

    def send(self, requests: int, *names: str) -> None:
        """Send so many to each, in turn."""
        urls = [f"{self.servers[name].url}/v2/models/flight-delay/infer" for name in names]
        for url in urls * requests:
            assert self.http.post(url, json=body(FULL)).status_code == 200

    def counters(self, source: CounterSource, *names: str) -> dict[str, Any]:
        """Return what a source tells of these servers, as far as it does not come from its way."""
        workloads = {name: Workload(1, 1, self.address(name)) for name in names}
        reported = dict.fromkeys(names, self.project.revision)
        found, _ = source.read(workloads, reported, None, PAST)
        return {name: (c.requests, c.events, c.started) for name, c in found.items()}

    def scraped(self, *names: str) -> bool:
        """Tell whether Prometheus knows everything that was sent to these."""
        return self.counters(self.through, *names) == self.counters(self.direct, *names)

    def start_judge(self, prometheus_url: str) -> str:
        """Run the judge's command and return its URL."""
        sets = [
            "rollout.settle_seconds=0",
            f"rollout.prometheus_url='{prometheus_url}'",
            "rollout.analysis.metrics=[{name: slow, event: slow, pass_ratio: 2}]",
        ]
        command = [str(TIDEMILL), "--project", str(self.project.root)]
        command += [part for one in sets for part in ("--set", one)]
        command += ["rollout", "judge", "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.stack.callback(_end, process)
        assert process.stdout
        return process.stdout.readline().split()[-1]

    def ask(self, source: str, stable: str, canary: str) -> dict[str, Any]:
        arms = {"stable": self.address(stable), "canary": self.address(canary)}
        asked = {"attempt": f"{source} {stable} {canary}", "weight": 50, "gate": "slow", **arms}
        answer = self.http.post(f"{self.judges[source]}/v1/judge", json=asked)
        assert answer.status_code == 200, answer.text
        return answer.json()


def _end(judge: subprocess.Popen[str]) -> None:
    judge.terminate()
    assert judge.wait(30) == 0, "a signal is its regular end"
    assert judge.stdout
    judge.stdout.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("judge")
    project = make_project(folder)
    with ExitStack() as stack:
        stack.callback(project.close)
        yield World(project, folder / "prometheus", stack)


def until(look: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    pytest.fail(f"{what} did not happen in {PATIENCE:.0f} s")


def test_it_does_not_listen_beyond_this_machine_for_everyone(world):
    command = [str(TIDEMILL), "--project", str(world.project.root), "rollout", "judge"]
    done = subprocess.run(
        [*command, "--host", "0.0.0.0", "--port", "0"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    assert "serving.auth.key_file" in done.stderr


def test_prometheus_tells_what_the_servers_tell(world):
    world.send(20, "fast", "slow")
    workloads = {name: Workload(1, 1, world.address(name)) for name in ("fast", "slow")}
    reported = dict.fromkeys(workloads, world.project.revision)
    asked = (workloads, reported, (0.25, 0.75))
    direct, problems = world.direct.read(*asked, PAST)
    assert not problems
    assert (direct["slow"].requests, direct["slow"].events["slow"]) == (20, 20)
    assert direct["fast"].events["slow"] == 0
    until(lambda: world.scraped("fast", "slow"), "the same counters from Prometheus")
    source = world.through
    assert source.revisions(workloads["fast"]) == {world.project.revision}
    future = datetime(2100, 1, 1, tzinfo=UTC)
    waits = ({}, ["Prometheus has not scraped every server since the weight settled"])
    until(lambda: source.read(*asked, future) == waits, "a wait for a scrape")
    elsewhere = {"fast": Workload(1, 1, f"127.0.0.1:{free_port()}")}
    found, problems = source.read(elsewhere, reported, None, PAST)
    assert not found
    assert "has no target" in problems[0]


@pytest.mark.parametrize("source", ["the servers", "Prometheus"])
@pytest.mark.parametrize(("stable", "verdict"), [("fast", "harm"), ("slower", "pass")])
def test_a_slow_canary_is_harm_and_an_equal_one_passes(world, source, stable, verdict):
    until(lambda: world.scraped(stable, "slow"), "a scrape of what other tests sent")
    until(lambda: world.ask(source, stable, "slow")["verdict"] == "undecided", "a reading")
    world.ask(source, stable, "slow")
    world.send(50, stable, "slow")
    decided = ("harm", "pass")  # a scrape that is late is missing, and there the next time
    answer = until(
        lambda: (found := world.ask(source, stable, "slow"))["verdict"] in decided and found,
        "a verdict",
    )
    assert answer["verdict"] == verdict, answer


def test_a_prometheus_that_is_away_is_missing_evidence(world):
    found = world.ask("nobody", "fast", "slow")
    assert found["verdict"] == "missing"
    assert "http://127.0.0.1:9 does not answer" in found["reason"]


def test_what_prometheus_cannot_scrape_is_missing_until_it_is_there_again(world):
    def ask() -> dict[str, Any]:
        return world.ask("Prometheus", "slow", "slower")

    def told(counted: int) -> bool:
        return ask()["requests"] == {"stable": counted, "canary": counted}

    until(lambda: world.scraped("slow", "slower"), "a scrape of what other tests sent")
    until(lambda: ask()["verdict"] == "undecided", "a reading")
    world.send(2, "slow", "slower")
    until(lambda: told(2), "two requests of each")
    where = world.address("slower")
    world.servers["slower"].stop()
    missing = until(
        lambda: f"could not scrape {where}" in (found := ask())["reason"] and found,
        "missing evidence",
    )
    assert missing["verdict"] == "missing"
    assert missing["requests"] == {"stable": 2, "canary": 2}
    port = where.rpartition(":")[2]
    world.servers["slower"] = world.project.serve("--port", port, env=SLOW)
    # All servers are cut at one instant: one whose scrape is late holds that before the restart.
    until(lambda: world.scraped("slow", "slower"), "a scrape of the new process")
    until(lambda: ask()["verdict"] == "undecided", "a reading of it")
    assert told(2), "its counters began at zero: nothing is taken back"
    world.send(3, "slow", "slower")
    until(lambda: told(5), "three requests more")
