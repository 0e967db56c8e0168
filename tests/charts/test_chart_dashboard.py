"""The dashboard: valid, of metrics that exist, and in the form that Grafana's sidecar loads."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.exporters import exported
from tests.charts.profiles import EVERYTHING
from tests.charts.rendering import CHART, render
from tests.charts.test_chart_alerts import ALERTS

TEXT = (CHART / "files/dashboard.json").read_text()
DASHBOARD: dict[str, Any] = json.loads(TEXT)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
VARIABLES = {"$namespace": "ml", "$model": "churn", "$__rate_interval": "5m"}
OF_OTHERS = {"kube_cronjob_status_last_successful_time": {"namespace", "cronjob"}}
"""Metrics of kube-state-metrics with their labels."""
SCRAPED = {"namespace", "pod"}
"""Labels that the Prometheus operator's monitors put on every series."""


def plain(query: str) -> str:
    """Return a query with Grafana's variables put in."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in ALERTS)])
def test_a_query_is_of_series_and_labels_that_exist(query: str) -> None:
    known = exported() | OF_OTHERS
    names = set(re.findall(r"\b(?:tidemill|kube)_\w+", query))
    assert names
    assert names <= known.keys()
    labels = SCRAPED.union(*(known[name] for name in names))
    grouped = re.findall(r"\b(?:by|on) \(([\w, ]+)\)", query)
    asked = {label for group in grouped for label in group.split(", ")}
    asked |= set(re.findall(r'(\w+)(?:=~|!~|!=|=)"', query))
    assert asked <= labels


def test_a_name_that_nothing_exports_is_found() -> None:
    with pytest.raises(AssertionError):
        test_a_query_is_of_series_and_labels_that_exist("rate(tidemill_request_total[5m])")
    with pytest.raises(AssertionError):
        test_a_query_is_of_series_and_labels_that_exist("sum by (verison) (tidemill_rows_total)")


def test_prometheus_takes_every_query(promtool: str, tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": plain(query)} for n, query in enumerate(QUERIES)]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{len(QUERIES)} rules found" in done.stdout


def test_no_other_variable_is_asked_for() -> None:
    defined = {f"${one['name']}" for one in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\w+", " ".join(QUERIES)))
    assert used == VARIABLES.keys()
    assert used - defined == {"$__rate_interval"}, "Grafana's own"
    sources = {json.dumps(panel["datasource"]) for panel in PANELS if "targets" in panel}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}


def test_panels_are_whole_and_stand_beside_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert all(x < 24 for x, _ in cells), panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["targets"], panel["title"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_alerts_that_it_names_exist() -> None:
    assert set(re.findall(r"Tidemill\w+", TEXT)) <= {rule["alert"] for rule in ALERTS}


def test_the_sidecar_of_grafana_finds_it() -> None:
    (made,) = [
        found
        for found in render(EVERYTHING)
        if found["kind"] == "ConfigMap" and "grafana_dashboard" in found["metadata"]["labels"]
    ]
    assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert made["data"] == {"tidemill.json": TEXT}
