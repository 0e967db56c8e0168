"""Alerts: they fire when they should, on metrics that exist, and lead to a runbook."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from tests.charts.exporters import exported
from tests.charts.profiles import EVERYTHING
from tests.charts.rendering import CHART, ROOT, render

from tidemill.controller.fleet import Result
from tidemill.domain.governor import RequestState, Verb
from tidemill.domain.incidents import IncidentState
from tidemill.domain.rollout.conditions import NEEDS_PERSON
from tidemill.domain.rollout.model import Decided, Phase
from tidemill.domain.verdicts import Cause, Status
from tidemill.server.metrics import OUTCOMES

RULES = CHART / "files/alerts.yaml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
TESTS = [Path(__file__).with_name(name) for name in ("alerts.yaml", "alerts-days.yaml")]
MATCHER = re.compile(r'\w+(?:=~|!~|!=|=)"[^"]*",?')
ALERT = re.compile(r"Tidemill[A-Z]\w+")
KNOWN: dict[tuple[str, str], set[str]] = {
    ("tidemill_rollout_look_seconds_count", "result"): set(get_args(Result)),
    ("tidemill_rollout_decisions_total", "action"): set(get_args(Decided)),
    ("tidemill_rollouts", "phase"): set(get_args(Phase)),
    ("tidemill_rollouts_stalled", "reason"): {*NEEDS_PERSON.values()},
    ("tidemill_requests_total", "outcome"): set(OUTCOMES),
    ("tidemill_incident_first_seen_timestamp_seconds", "cause"): set(get_args(Cause)),
    ("tidemill_incident_first_seen_timestamp_seconds", "state"): set(get_args(IncidentState)),
    ("tidemill_monitor_last_window_status", "status"): set(get_args(Status)),
    ("tidemill_retrain_last_decision_timestamp_seconds", "verb"): set(get_args(Verb)),
    ("tidemill_retrain_requests", "state"): set(get_args(RequestState)),
}
"""Values of labels, by series and label, as the code that exports them lists them."""
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


def asserted() -> Iterator[tuple[str, bool]]:
    """Yield of every assertion the alert that it is about, and whether it says that it fires."""
    for case in (case for file in TESTS for case in yaml.safe_load(file.read_text())["tests"]):
        for one in case.get("alert_rule_test", []):
            yield one["alertname"], bool(one.get("exp_alerts"))
        for one in case.get("promql_expr_test", []):
            (named,) = re.findall(r'alertname=~?"([^"]+)"', one["expr"])
            samples = one.get("exp_samples", [])
            about = [a["alert"] for a in ALERTS if re.fullmatch(named, a["alert"])]
            yield from ((name, bool(samples)) for name in ALERT.findall(str(samples)) or about)


@pytest.mark.parametrize("fires", [True, False], ids=["fires", "is silent"])
def test_every_alert_is_seen_when_it(fires: bool) -> None:
    assert {name for name, said in asserted() if said is fires} == {r["alert"] for r in ALERTS}


def without(name: str) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield rules by alert, each without its next part of a kind, until none has one more."""
    for turn in itertools.count():
        less = {rule["alert"]: _less(rule, name, turn) for rule in ALERTS}
        if not any(less.values()):
            return
        yield {alert: rule for alert, rule in less.items() if rule}


def _less(rule: dict[str, Any], name: str, turn: int) -> dict[str, Any]:
    if name != "matcher":
        return {k: v for k, v in rule.items() if k != name} if name in rule and not turn else {}
    found = list(MATCHER.finditer(rule["expr"]))[turn : turn + 1]
    return {**rule, "expr": cut(rule["expr"], found[0])} if found else {}


def cut(expression: str, found: re.Match[str]) -> str:
    return expression[: found.start()] + expression[found.end() :]


def failing(promtool: str, folder: Path, rules: Iterable[dict[str, Any]]) -> set[str]:
    """Return whose tests fail with these rules in place of the file's."""
    changed = folder / "rules.yaml"
    changed.write_text(yaml.safe_dump({"groups": [{"name": "changed", "rules": [*rules]}]}))
    names = {rule["alert"] for rule in rules}
    said = ""
    for file in TESTS:
        given = yaml.safe_load(file.read_text()) | {"rule_files": [str(changed)]}
        given["tests"] = [one for one in given["tests"] if names & set(ALERT.findall(str(one)))]
        tests = folder / file.name
        tests.write_text(yaml.safe_dump(given))
        done = subprocess.run(
            [promtool, "test", "rules", tests], capture_output=True, text=True, check=False
        )
        said += done.stdout + done.stderr
    return set(re.findall(r'alertname(?:=\\"|: )(Tidemill\w+)', said))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["for", "keep_firing_for", "matcher"])
def test_without_any_part_of_a_rule_a_test_fails(promtool: str, tmp_path: Path, name: str) -> None:
    for less in without(name):
        assert less.keys() - failing(promtool, tmp_path, less.values()) == set()


def test_values_of_labels_are_the_codes() -> None:
    for rule in ALERTS:
        for series, matchers in re.findall(r"(tidemill_\w+)\{([^}]*)\}", rule["expr"]):
            for label, values in re.findall(r'(\w+)[!=~]+"([^"]*)"', matchers):
                assert set(values.split("|")) <= KNOWN[series, label], (rule["alert"], label)


def test_overdue_jobs_are_found_by_the_names_that_the_chart_gives() -> None:
    (rule,) = (rule for rule in ALERTS if rule["alert"] == "TidemillJobOverdue")
    (pattern,) = re.findall(r'cronjob=~"([^"]+)"', rule["expr"])
    names = [o["metadata"]["name"] for o in render(EVERYTHING) if o["kind"] == "CronJob"]
    assert names
    assert [name for name in names if not re.fullmatch(pattern, name)] == []


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
