"""From a fault in real traffic to a firing alert: monitor, store, scrape, Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from prometheus_client import CollectorRegistry
from tests.monitoring_world import MODEL, ROOT, Flights, World
from tests.servers import prometheus

from tidemill.adapters.store.standings import StoredStandings
from tidemill.adapters.store.tables import metadata
from tidemill.controller.listening import HttpServer
from tidemill.controller.probes import Probes
from tidemill.controller.standing import StandingGauges

pytestmark = pytest.mark.slow

RULES = ROOT / "charts/tidemill/files/alerts.yaml"
PATIENCE = 60.0


@dataclass(frozen=True)
class Watch:
    """A deployment, and the Prometheus that watches it."""

    world: World
    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": query}, trust_env=False)
        found: list[dict[str, Any]] = answer.json()["data"]["result"]
        return found

    def alerts(self) -> dict[str, dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/alerts", trust_env=False).json()
        return {one["labels"]["alertname"]: one for one in answer["data"]["alerts"]}

    def wait(self, look: Callable[[], object]) -> None:
        limit = time.monotonic() + PATIENCE
        while not look():
            assert time.monotonic() < limit, self.alerts()
            time.sleep(0.2)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    world = World(Flights(tmp_path / "flights"), tmp_path / "world")
    registry = CollectorRegistry()
    registry.register(StandingGauges(StoredStandings(world.store)))
    probes = Probes(lambda: "", lambda: "", registry)
    with (
        HttpServer(("127.0.0.1", 0), probes.respond, "probes") as server,
        prometheus(tmp_path / "prometheus", [f"127.0.0.1:{server.port}"], rules=[RULES]) as url,
    ):
        yield Watch(world, url)
    world.store.dispose()


def test_a_fault_in_the_traffic_pages_and_a_lost_store_is_no_health(watch: Watch) -> None:
    watch.wait(lambda: watch.ask("tidemill_monitor_store_up == 1"))
    assert not watch.ask("tidemill_incident_first_seen_timestamp_seconds")

    def half_null(rows: pl.DataFrame) -> pl.DataFrame:
        hit = pl.int_range(pl.len()) % 10 < 3
        return watch.world.rescored(rows.with_columns(temp=pl.when(~hit).then(pl.col("temp"))))

    (judged,) = watch.world.play(1, fault=half_null)
    assert judged.verdict.cause == "data_quality"
    (stands,) = watch.world.incidents.all(MODEL, unresolved=True)
    watch.wait(lambda: watch.alerts().get("TidemillFaultIncident", {}).get("state") == "firing")
    alert = watch.alerts()["TidemillFaultIncident"]
    assert alert["labels"] == {
        "alertname": "TidemillFaultIncident", "severity": "page",
        "model": MODEL, "cause": "data_quality", "incident": stands.id,
    }  # fmt: skip
    assert stands.first_seen[:10] in alert["annotations"]["summary"]
    assert alert["annotations"]["action"].endswith(f"tidemill incident show {stands.id}")
    fired = watch.ask("tidemill_monitor_tier_fired == 1")
    assert {one["metric"]["tier"] for one in fired} == set(judged.verdict.fired) >= {"T1"}
    assert watch.ask('tidemill_monitor_psi{column="temp"} > 0.1')
    assert not watch.ask('tidemill_monitor_tier_fired{tier="T4"}'), "without labels it is blind"

    metadata.drop_all(watch.world.store)
    watch.wait(lambda: "TidemillMonitoringUnknown" in watch.alerts())
    assert watch.ask("tidemill_monitor_store_up == 0")
    assert not watch.ask("tidemill_incident_first_seen_timestamp_seconds")
    assert watch.alerts()["TidemillFaultIncident"]["state"] == "firing"
