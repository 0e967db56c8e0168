"""`tidemill rollout …` on a project of its own: real settings and store, prepared states."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from tests.bundles import make_bundle
from tests.command_line import Line
from tests.unit.rollout_world import NAME, World, plan, revision

from tidemill.domain.rollout.freeze import make_freeze
from tidemill.domain.rollout.model import Spec
from tidemill.testing.registry import MemoryRegistry
from tidemill.wiring import Project

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose rollout the commands below are about."""
    root = tmp_path / "project"
    (root / "configs").mkdir(parents=True)
    shutil.copy(ROOT / "configs/base.yaml", root / "configs")
    monkeypatch.setenv("TIDEMILL_PROJECT", str(root))
    return Project.load(root)


@pytest.fixture
def world(project: Project) -> World:
    """A controller on the project's store, its hands fakes; v1 is deployed, v2 the canary."""
    world = World(plan(scale_down_seconds=1))
    world.store = project.rollouts
    world.restart()
    world.deploy()
    world.want("v2")
    world.run(3)
    assert world.phase == "progressing"
    return world


@pytest.fixture
def line(capsys: pytest.CaptureFixture[str]) -> Line:
    return Line(capsys, "rollout")


def test_start_fetches_verifies_and_wants_the_newest_version(project, line, tmp_path, monkeypatch):
    registry = MemoryRegistry(tmp_path / "registry")
    for number, scale in enumerate((0.001, 0.002)):
        bundle = make_bundle(tmp_path / f"b{number}", NAME, scale)
        project.signer.sign(bundle)
        registry.publish(bundle, {}, "")
    monkeypatch.setattr(Project, "registry", registry)
    wanted = line.json("start", f"{NAME}/1")
    assert (wanted["model"], wanted["version"]) == (NAME, "1")
    out, _ = line("start", NAME)
    spec = project.rollouts.spec(NAME)
    assert (spec.generation, spec.desired.version, spec.plan) == (2, "2", project.rollout_plan)
    assert f"{NAME}/2" in out
    assert "tidemill rollout watch" in out
    _, err = line("start", NAME, "--wait", "0.1", code=4)
    assert "tidemill up" in err, "no controller has taken it up yet"
    line("start", f"{NAME}/9", code=1)


def test_start_refuses_what_failed_last(world, line, project, monkeypatch):
    world.command("abort", "v2")
    world.run(5)
    failed = project.rollouts.spec(NAME).desired
    monkeypatch.setattr(Project, "revision", lambda _, __: failed)
    _, err = line("start", NAME, code=3)
    assert "abort was asked for" in err
    assert "tidemill rollout retry" in err


def test_status_shows_phase_evidence_conditions_and_decisions(world, line):
    out, _ = line("status")
    for part in ("progressing", "5 %", "errors", "undecided", "WaitingGate", "step c5 begins"):
        assert part in out
    found = line.json("status")
    assert found["state"]["attempt"]["canary"]["revision"] == "v2"
    assert [d["action"] for d in found["decisions"]] == ["initialize", "deploy", "begin", "weight"]


def test_watch_before_anything_was_wanted(project, line):
    _, err = line("watch", code=1)
    assert "no version of flight-delay was wanted yet" in err
    assert "tidemill rollout start" in err


def test_watch_ends_with_0_when_the_version_is_promoted(world, line):
    world.run_until("stable", limit=900)
    out, _ = line("watch")
    assert "promoted: v2 serves all traffic" in out
    lines = [json.loads(text) for text in line("watch", "--json")[0].splitlines()]
    assert [d["seq"] for d in lines[:-1]] == list(range(1, len(lines)))
    assert lines[-1] == {"outcome": "promoted", "revision": "v2"}


def test_watch_ends_with_3_and_the_cause_when_it_is_rolled_back(world, line):
    world.rates(v2=0.9)
    world.run(10)
    out, err = line("watch", code=3)
    assert "rollback" in out
    assert "v2 was rolled back: harm in errors" in err
    assert "tidemill rollout retry" in err


def test_watch_ends_with_4_and_what_it_waits_for(world, line):
    out, err = line("watch", "--timeout", "0.1", code=4)
    assert "step c5 begins" in out
    assert "v2 is undecided after 0.1 s, the rollout is progressing" in err
    assert "of 300 requests" in err
    assert "tidemill rollout watch" in err


def test_pause_and_resume(world, line):
    assert line.json("pause") == {"action": "pause", "revision": "v2", "generation": 3}
    world.run(1)
    assert world.phase == "paused"
    out, _ = line("resume")
    assert "ordered: resume v2" in out
    world.run(1)
    assert world.phase == "progressing"


def test_approve_names_the_step(world, line):
    out, _ = line("approve", "c25")
    assert "ordered: approve v2" in out
    world.run(1, requests=0)
    assert "the rollout is at step c5, not c25" in decided(world)
    line("approve")
    world.run(1, requests=0)
    assert "step c5 was approved" in decided(world)


def test_promote_skips_the_gates(world, line):
    out, _ = line("promote")
    assert "ordered: promote v2" in out
    world.run(1)
    assert world.weight("v2") == 10_000
    assert "promote was asked for" in decided(world)


def test_skip_leaves_one_step_and_the_release_says_which(world, line):
    out, _ = line("skip", "c25")
    assert "ordered: skip v2" in out
    world.run(1, requests=0)
    assert "skip: the rollout is at step c5, not c25" in decided(world)
    assert line.json("skip", "c5")["action"] == "skip"
    world.run(1, requests=0)
    assert world.weight("v2") == 2500
    world.run_until("stable", limit=900)
    assert world.releases.told[-1].reason == "the gates passed, but not of c5"


def test_break_glass_needs_a_reason_which_goes_on_the_ledger(world, line):
    night = make_freeze(["mon"], "00:00", "00:00", "UTC")
    world.change(plan=replace(world.plan, freeze=(night,)))
    for refused in ((), ("--reason", ""), ("--reason", "  ")):
        _, err = line("break-glass", *refused, code=2)
        assert "reason" in err
    world.run(60)
    assert world.weight("v2") == 500
    out, _ = line("break-glass", "--reason", "INC-7: errors of stable; Ada")
    assert "ordered: break-glass v2" in out
    world.run(2)
    assert world.weight("v2") == 2500
    told = [(r.kind, r.subject.revision, r.reason) for r in world.releases.told]
    assert told[-1] == ("unfrozen", "v2", "INC-7: errors of stable; Ada")


def test_abort_then_retry(world, line):
    out, _ = line("abort")
    assert "ordered: abort v2" in out
    world.run(5)
    assert world.weight("v1") == 10_000
    assert world.state.closed == "v2"
    assert line.json("retry")["revision"] == "v2"
    world.run(1)
    assert world.state.attempt.number == 2


VERBS = ["approve", "skip", "resume", "promote", "abort", "retry", "break-glass --reason why"]


@pytest.mark.parametrize("words", VERBS)
def test_an_order_about_nothing_is_refused(project, line, words):
    verb, *options = words.split()
    _, err = line(verb, *options, code=3)
    assert f"there is nothing to {verb}" in err
    assert "tidemill rollout status" in err


def test_plan_tells_how_long_each_step_takes(project, line):
    rate = "rollout.expected_rate=0.01"
    slow = line.json("plan", "--set", rate)["expected_seconds"]
    assert slow["c5"] == 300 / 0.01
    fast = line.json("plan", "--set", "rollout.expected_rate=0.1")["expected_seconds"]
    assert fast["c5"] == 300 / 0.1
    often = line.json("plan", "--bad", "0.5", "--set", rate)["expected_seconds"]
    assert 600 / 0.01 < often["c50"] < slow["c50"] / 5, "bad events are what decides"
    out, _ = line("plan")
    assert "8.3 h" in out
    assert "14.0 d" in out


def decided(world: World) -> str:
    return "\n".join(d.reason for d in world.store.decisions(NAME))


def test_a_look_at_an_order_that_is_paused_says_so(project):
    assert [one.in_flight for one in project.survey()] == [""], "nothing was ever wanted"
    order = Spec(1, revision("v1"), plan(), paused=True)
    project.rollouts.propose(project.settings.name, order)
    (one,) = project.survey()
    assert one.in_flight == "version 1 is wanted and has not begun (user)"
