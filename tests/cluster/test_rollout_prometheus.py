"""A rollout whose evidence a real Prometheus tells: it runs in a pod, takes those targets that the
chart's PodMonitor selects, and scrapes real servers; clients ask through a Gateway.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml
from tests.charts.profiles import SETTINGS
from tests.cluster.access import CommandFailed
from tests.cluster.installation import CHART
from tests.cluster.node.images import Image
from tests.cluster.rollouts import IMAGE, eventually
from tests.cluster.scraping import scrape_config
from tests.cluster.served import SLOW, World, served_world
from tests.refusal import NO_PODS, refuse

from tidemill.adapters.evidence import ServerEvidence
from tidemill.adapters.outcomes import Outcomes
from tidemill.adapters.prometheus import PrometheusCounters
from tidemill.testing.objects import MemoryObjects

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
METRICS = [{"name": "slow", "event": "slow", "passRatio": "2"}]
STEPS = [{"name": "c50", "weight": 5000, "gate": ["slow"], "minEvents": 50}]
MISSING_SECONDS = 5
LONG = 1500
"""Requests of a step that lasts while Prometheus goes: clients send some hundred a second."""


class Scraped(World):
    """A world with a Prometheus in it."""

    asked: list[str]
    """What the controller asked of servers and Prometheus, as paths."""

    def start_prometheus(self) -> None:
        """Let the chart's PodMonitor say what is scraped; only the interval is shorter."""
        values = {"settings": SETTINGS, "prometheus": {"monitors": True}}
        rendered = self.cluster.helm(
            *("template", "tidemill", CHART, "--namespace", self.namespace, "--values=-"),
            "--show-only=templates/prometheus.yaml",
            stdin=yaml.safe_dump(values),
        )
        kinds = {one["kind"]: one for one in yaml.safe_load_all(rendered)}
        monitor = kinds["PodMonitor"]
        jobs = {"scrape_configs": [scrape_config(monitor, "/pods/pods.json", "1s")]}
        discovery = HERE.joinpath("discovery.py").read_text()
        data = {"prometheus.yaml": json.dumps(jobs), "discovery.py": discovery}
        self.apply("v1", "ConfigMap", "prometheus", {"data": data})
        made = HERE.joinpath("prometheus.yaml").read_text().replace("SERVE", IMAGE)
        self.cluster.kubectl("apply", "-n", self.namespace, "-f", "-", stdin=made)
        self.scale_prometheus(1)

    def scale_prometheus(self, replicas: int) -> None:
        """Let it be there, or away: nothing answers at its Service then."""
        within = ("-n", self.namespace)
        self.cluster.kubectl("scale", "deployment/prometheus", f"--replicas={replicas}", *within)
        status = ("rollout", "status", "deployment/prometheus", "--timeout=300s", *within)
        try:
            self.cluster.kubectl(*status)
        except CommandFailed as failed:
            chosen = ("--selector=app=prometheus", *within)
            said = self.cluster.kubectl(
                "logs", "--tail=20", "--all-containers", *chosen, check=False
            )
            pods = self.cluster.kubectl("describe", "pods", *chosen, check=False)
            raise AssertionError(f"{said}\n{pods}") from failed
        eventually(lambda: self._ready() == bool(replicas), 60)

    def _ready(self) -> bool:
        where = ("get", "service/prometheus", "--output=jsonpath={.spec.clusterIP}")
        address = self.cluster.kubectl(*where, "-n", self.namespace)
        try:
            url = f"http://{address}:9090/-/ready"
            return httpx.get(url, trust_env=False, timeout=2).is_success
        except httpx.HTTPError:
            return False

    def away(self) -> bool:
        """Whether the resource says that there is no evidence, and why."""
        found = self._condition("EvidenceAvailable")
        url = f"http://prometheus.{self.namespace}.svc:9090"
        return found["status"] == "False" and f"{url} does not answer" in found["message"]

    def ready(self) -> bool:
        """Whether the canary is."""
        return bool(self._condition("CanaryReady")["status"] == "True")

    def _condition(self, kind: str) -> dict[str, str]:
        """Return what the resource says; nothing before a look at the attempt has said it."""
        found = (c for c in self.status()["conditions"] if c["type"] == kind)
        return next(found, {"status": "Unknown", "message": ""})

    def let_clients_ask(self, version: str, times: int) -> None:
        """Wait until a version has answered them so often again."""
        before = self.answered[version]
        eventually(lambda: self.answered[version] > before + times, 120)


@pytest.fixture
def world(cluster, node, gateway, namespace, tmp_path) -> Iterator[Scraped]:
    program = shutil.which("prometheus")
    if program is None:
        refuse(NO_PODS, "Prometheus is not installed: apt-get install prometheus")
    node.add_image("test/prometheus", Image(env={"PATH": str(Path(program).parent)}))
    asked: list[str] = []

    def evidence(url: str, asking: httpx.Client) -> ServerEvidence:
        asking.event_hooks["request"] = [lambda request: asked.append(request.url.path)]
        return ServerEvidence(Outcomes(MemoryObjects()), PrometheusCounters(url, asking), asking)

    spec = {
        "strategy__steps": STEPS,
        "strategy__missingAfterSeconds": MISSING_SECONDS,
        "analysis__inline": {"metrics": METRICS},
        "analysis__evidence": {
            "source": "Prometheus",
            "url": f"http://prometheus.{namespace}.svc:9090",
        },
    }
    with served_world(cluster, node, namespace, tmp_path, evidence, SLOW, Scraped, **spec) as world:
        world.asked = asked
        world.start_prometheus()
        yield world


def test_what_prometheus_tells_promotes_and_its_absence_never_does(world: Scraped) -> None:
    first, second, third = (world.release(v, -1.0 - n / 1e3) for n, v in enumerate("123"))
    world.want(first)
    world.wait_for_deployment()
    with world.clients():
        world.want(second)
        done = world.wait(lambda s: s.get("phase") == "stable" and s.get("history"))
        assert done["history"][0]["outcome"] == "promoted"
        assert "/metrics" not in world.asked, "all counters came from Prometheus"
        assert "/api/v1/query" in world.asked

        world.scale_prometheus(0)
        world.want(third, strategy__steps=[STEPS[0] | {"minEvents": LONG}])
        world.wait(lambda _: world.away() and world.ready())
        world.let_clients_ask("2", 300)
        assert world.status()["phase"] == "preparing"
        assert world.answered["3"] == 0, "ready, and nobody could see how it does"

        world.scale_prometheus(1)
        world.wait(lambda s: s["phase"] == "progressing" and s["weight"] == 5000)
        world.scale_prometheus(0)
        paused = world.wait(lambda s: s["phase"] == "paused")
        assert "no evidence" in paused["decisions"][-1]["reason"]
        assert world.away()
        world.let_clients_ask("3", 300)
        held = world.status()
        assert (held["phase"], held["weight"]) == ("paused", 5000), "healthy, and nobody knows it"

        world.scale_prometheus(1)
        done = world.wait(lambda s: s["phase"] == "stable" and len(s["history"]) == 2)
    assert [outcome["outcome"] for outcome in done["history"]] == ["promoted", "promoted"]
    assert world.answered["failed"] == 0
