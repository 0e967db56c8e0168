"""Alerts: they fire when they should, on metrics that exist, and lead to a runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.charts.exporters import exported
from tests.charts.profiles import EVERYTHING
from tests.charts.rendering import CHART, ROOT, render

RULES = CHART / "files/alerts.yaml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
TESTS = [Path(__file__).with_name(name) for name in ("alerts.yaml", "alerts-days.yaml")]
RUNBOOK = ROOT / "docs/runbooks/kubernetes.md"


def test_promtool_takes_the_rules(promtool: str) -> None:
    subprocess.run([promtool, "check", "rules", "--lint-fatal", RULES], check=True)


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_they_fire_when_they_should(promtool: str, tmp_path: Path, file: Path) -> None:
    tests = tmp_path / "alerts.yaml"
    tests.write_text(file.read_text().replace("RULES", str(RULES)))
    done = subprocess.run(
        [promtool, "test", "rules", tests], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


def test_every_alert_is_tested() -> None:
    tested = {name for file in TESTS for name in re.findall(r"Tidemill[A-Z]\w+", file.read_text())}
    assert tested == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    said = rule["annotations"]
    assert said.keys() == {"summary", "description", "action", "runbook"}
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in ("page", "ticket")
    page, _, anchor = said["runbook"].partition("/#")
    assert ROOT / "docs" / f"{page}.md" == RUNBOOK
    assert anchor == rule["alert"].lower()
    assert f"## {rule['alert']}\n" in RUNBOOK.read_text()


def test_the_metrics_exist() -> None:
    named = {
        name
        for rule in ALERTS
        for name in re.findall(r"\btidemill_\w+", rule["expr"] + rule["annotations"]["action"])
    }
    series = exported().keys()
    for name in named:
        assert series & {name, f"{name}_sum"}, name


def test_the_objects_carry_them_with_links() -> None:
    given = EVERYTHING | {"prometheus": {"rules": True, "docsUrl": "https://docs.example.com/"}}
    (made,) = [found for found in render(given) if found["kind"] == "PrometheusRule"]
    rules = [rule for group in made["spec"]["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in rules] == [rule["alert"] for rule in ALERTS]
    assert [rule["expr"] for rule in rules] == [rule["expr"] for rule in ALERTS]
    first = rules[0]["annotations"]["runbook_url"]
    assert first == "https://docs.example.com/runbooks/kubernetes/#tidemillnocontroller"
