"""The whole loop, as `make demo` plays it, on a machine that reaches nothing but itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pytest
from tests import isolation

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

DEMO = """
import json, subprocess, sys
import psutil
from tidemill.cli import main

folder, alone = sys.argv[1:]
try:
    main(["demo", "--into", folder])
    code = 0
except SystemExit as stop:
    code = stop.code
me = psutil.Process()
mine = {me.pid, *(parent.pid for parent in me.parents())}
seen = psutil.process_iter(["cmdline", "environ", "status"])
others = [p.info for p in seen if p.pid not in mine]
left = [p for p in others if p["status"] != psutil.STATUS_ZOMBIE]
after = {
    "left": [p["cmdline"] for p in left if alone or folder in str(p)],
    "devices": [name for name, device in psutil.net_if_stats().items() if device.isup],
    "routes": subprocess.getoutput("ip route show table all; ip -6 route show table all"),
}
json.dump(after, open(folder + ".after", "w"))
sys.exit(code)
"""
"""Plays the demo, then tells what it left running and what network it had: within the namespace,
before that ends. Without a namespace the demo's processes are those that name its folder: all that
it starts have it in their environment."""


@dataclass(frozen=True)
class Played:
    folder: Path
    done: subprocess.CompletedProcess[str]
    attempts: dict[str, int] | None
    """How often it tried to get beyond loopback; None where namespaces are not permitted."""

    @property
    def story(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads((self.folder / "demo.json").read_text())
        return body

    @property
    def after(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(Path(f"{self.folder}.after").read_text())
        return body


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("played") / "demo"
    home = tmp_path_factory.mktemp("home")
    keep = ("PATH", "LANG", "LD_LIBRARY_PATH")  # not what tells a tool that this is a test
    env = {name: os.environ[name] for name in keep if name in os.environ} | {"HOME": str(home)}
    alone = "" if isolation.obstacle() else "alone"
    argv = [sys.executable, "-c", DEMO, str(folder), alone]
    if alone:
        done, attempts = isolation.run(argv, env=env, timeout=2400)
        return Played(folder, done, attempts)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    return Played(folder, done, None)


def test_the_loop_closes(played: Played) -> None:
    assert played.done.returncode == 0, played.done.stdout + played.done.stderr
    titles = [event["title"] for event in played.story["events"]]
    for wanted in (
        r"version \d+ released",
        r"retraining \(concept_drift\): RUN",
        r"version \d+ promoted",
        r"a model is trained on shuffled labels",
        r"version \d+ rolled back",
        r"retraining \(schedule\): RUN",
    ):
        assert any(re.fullmatch(wanted, title) for title in titles), (wanted, titles)


def test_no_request_failed(played: Played) -> None:
    failed, _, requests = played.story["figures"]["failed requests"].partition(" of ")
    assert failed == "0"
    assert int(requests.replace(",", "")) > 10_000


FIGURES = {
    "AUC, last seven days",
    "failed requests",
    "median answer",
    "99th percentile",
    "answers by version",
    "wall time",
    "CPU time",
    "orchestration and waiting",
}
STAGES = (
    "the platform begins to start",
    "first training",
    "first release",
    "training on shuffled labels, beside all else",
    r"retraining \(schedule\)",
    r"retraining \(concept_drift\)",
    r"replay of \d+ days",
    "the platform stops",
)


def test_the_page_is_self_contained(played: Played) -> None:
    page = (played.folder / "demo.html").read_text()
    assert set(re.findall(r"(?:src|href)=[\"'](https?:[^\"']+)", page)) == set()


def test_the_page_shows_every_plot(played: Played) -> None:
    """Letters are drawn as outlines, before each of which its text stands as a comment."""
    page = (played.folder / "demo.html").read_text()
    texts = [set(re.findall("<!-- (.+?) -->", plot)) for plot in page.split("<svg")[1:]]
    drift, *canaries, auc = texts
    assert {"Drift over time", "bound"} <= drift
    assert {"Champion against never retrained (AUC, seven days pooled)"} <= auc
    assert {"never retrained", "champion"} <= auc
    lines = {"evidence of harm", "rolls back above", "evidence of passing", "passes above"}
    assert all(lines <= canary for canary in canaries)
    titles = [text for canary in canaries for text in canary if text.startswith("version ")]
    assert any(": rolled back" in title for title in titles), titles
    assert any(": promoted" in title for title in titles), titles


def test_the_rollback_shows_evidence_of_harm_above_its_threshold(played: Played) -> None:
    rolled_back = [c for c in played.story["canaries"] if "rolled back" in c["outcome"]]
    assert max(max(c["log_e_harm"]) - c["harm_at"] for c in rolled_back) >= 0


def test_the_page_and_the_terminal_give_the_same_account(played: Played) -> None:
    page, printed = (played.folder / "demo.html").read_text(), played.done.stdout
    assert played.story["figures"].keys() == FIGURES
    for name, value in played.story["figures"].items():
        assert f"<b>{escape(value)}</b>{escape(name)}" in page
        assert re.search(rf"(?m)^{re.escape(name)} +{re.escape(value)} *$", printed), printed
    for event in played.story["events"]:
        assert escape(event["title"]) in page
        assert event["title"] in printed
    assert re.search(r"(?m)^failed requests +0 of [\d,]+ *$", printed)
    assert re.search(r"(?m)^orchestration and waiting +\d+% of the wall time *$", printed)


def test_each_stage_is_told_with_its_times_and_they_add_up(played: Played) -> None:
    stages, page = played.story["stages"], (played.folder / "demo.html").read_text()
    for wanted in STAGES:
        assert any(re.fullmatch(wanted, stage["name"]) for stage in stages), (wanted, stages)
    for stage in stages:
        name, wall, work = stage["name"], stage["wall_seconds"], stage["work_seconds"]
        assert 0 <= work <= wall
        assert f"<tr><td>{escape(name)}</td><td class='n'>{wall:.1f} s</td>" in page
        row = rf"(?m)^{re.escape(name)} +{wall:.1f} s +{wall - work:.1f} s"
        assert re.search(row, played.done.stdout), row
    told = sum(stage["wall_seconds"] for stage in stages if not stage["beside"])
    wall = float(played.story["figures"]["wall time"].removesuffix(" s"))
    assert told == pytest.approx(wall, rel=0.1), "time that no stage tells of"


def test_nothing_is_left_running(played: Played) -> None:
    assert played.after["left"] == []


def test_the_loop_has_loopback_and_no_way_out(played: Played) -> None:
    if played.attempts is None:
        isolation.skip_unless_possible()
    assert played.after["devices"] == ["lo"]
    routes = played.after["routes"]
    assert set(re.findall(r"dev (\S+)", routes)) == {"lo"}
    assert "default" not in routes


def test_nobody_beyond_loopback_is_tried(played: Played) -> None:
    """All that is configured is on loopback, so to reach further is to reach somebody else."""
    if played.attempts is None:
        isolation.skip_unless_possible()
    assert played.attempts == {}, "played under isolation.trap instead, it tells whom it tried"
