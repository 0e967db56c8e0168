"""Runs on one machine: results, logs, failures, resume, and nothing left behind."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from tests.terminal import ENVIRONMENT, terminal

from tidemill.adapters.reference import copy_reference
from tidemill.errors import ConfigError, Conflict, UsageError
from tidemill.ports.runs import RunResult
from tidemill.wiring import Project

pytestmark = pytest.mark.slow
AS_OF = "2013-03-01T00:00:00+00:00"


def states(run: RunResult) -> dict[str, str]:
    return {step.name: step.state for step in run.steps}


def run_folder(project: Project, run: RunResult) -> Path:
    return project.paths.runs / run.run_id


def living(pids: list[int]) -> list[int]:
    found = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return [p.pid for p in found if p.status() != psutil.STATUS_ZOMBIE]


def wait_for(path: Path) -> list[int]:
    limit = time.monotonic() + 60
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < limit, f"{path} did not appear"
        time.sleep(0.05)
    return [int(pid) for pid in path.read_text().split()]


def test_a_run_leaves_results_times_and_logs(flows: Project) -> None:
    seen: list[RunResult] = []
    order = flows.root / "work"
    order.write_text("wait")

    def watch(run: RunResult) -> None:
        seen.append(run)
        if states(run).get("work") == "running":
            order.unlink(missing_ok=True)

    run = flows.runs.launch("chain", {"as_of": AS_OF, "size": "5"}, watch=watch)
    assert run.state == "succeeded", run.cause
    assert states(run) == {"make": "succeeded", "work": "succeeded", "finish": "succeeded"}
    assert run.outputs == {"Output": f"@{AS_OF}"}
    assert run.step("make").outputs == {"Output": 5}
    assert run.parameters == {"as_of": AS_OF, "correlation_id": run.run_id, "size": 5}
    assert all(step.wall_seconds > 0 and step.cpu_seconds > 0 for step in run.steps)
    assert 0 < run.work_seconds < run.wall_seconds
    assert seen[-1] == run
    assert any(states(one).get("work") == "running" for one in seen)
    folder = run_folder(flows, run)
    assert (folder / "logs" / "work.log").read_text() == "working on aaaaa\n"
    whole = (folder / "run.log").read_text()
    assert "work | working on aaaaa\n" in whole
    assert "\x1b" not in whole
    assert json.loads((folder / "run.json").read_text())["work_seconds"] == run.work_seconds
    assert not (folder / "tmp").exists()
    assert flows.runs.status(run.run_id) == run


def test_a_refusal_names_its_cause_and_skips_the_rest(flows: Project) -> None:
    (flows.root / "work").write_text("refuse")
    run = flows.runs.launch("chain")
    assert run.state == "refused"
    assert states(run) == {"make": "succeeded", "work": "failed", "finish": "skipped"}
    assert run.cause == "work: Refused: auc 0.5 is below 0.62\n  → look at the evidence"
    assert "Traceback" in flows.runs.log(run.run_id, "work")


def test_other_bytes_than_pinned_are_a_failure(flows: Project) -> None:
    (flows.root / "work").write_text("doubt")
    run = flows.runs.launch("chain")
    assert run.state == "failed", "nobody judged the model"
    assert run.cause == "work: IntegrityError: the key is not the pinned one"


def test_resume_runs_only_what_did_not_finish(flows: Project) -> None:
    order = flows.root / "work"
    order.write_text("die")
    run = flows.runs.launch("chain", {"as_of": AS_OF})
    assert (run.state, run.cause) == ("failed", "work: killed by signal 9")
    order.unlink()
    resumed = flows.runs.launch("chain", resume=run.run_id)
    assert resumed.state == "succeeded", resumed.cause
    assert states(resumed) == {"make": "reused", "work": "succeeded", "finish": "succeeded"}
    assert (flows.root / "made").read_text().count("x") == 1
    assert resumed.outputs == {"Output": f"half done@{AS_OF}"}, "the partial output was handed on"
    with pytest.raises(UsageError, match="succeeded"):
        flows.runs.launch("chain", resume=run.run_id)
    with pytest.raises(UsageError, match="dry run"):
        flows.runs.launch("chain", resume=run.run_id, dry_run=True)


def test_resume_with_another_parameter_runs_its_readers_again(flows: Project) -> None:
    (flows.root / "work").write_text("refuse")
    run = flows.runs.launch("chain", {"as_of": AS_OF})
    (flows.root / "work").unlink()
    resumed = flows.runs.launch("chain", {"size": 4}, resume=run.run_id)
    assert states(resumed) == {"make": "succeeded", "work": "succeeded", "finish": "succeeded"}
    assert resumed.step("make").outputs == {"Output": 4}
    assert resumed.parameters["as_of"] == AS_OF


@pytest.mark.parametrize("changed", ["output", "code"])
def test_resume_runs_again_what_would_be_stale(flows: Project, changed: str) -> None:
    (flows.root / "work").write_text("refuse")
    run = flows.runs.launch("chain")
    if changed == "output":
        (data,) = (run_folder(flows, run) / "artifacts").glob("*/make/data")
        data.write_text("tampered")
    else:
        (flows.root / "feature_repo").mkdir()
        (flows.root / "feature_repo" / "transforms.py").write_text("HOURS = 24\n")
    resumed = flows.runs.launch("chain", resume=run.run_id)
    assert states(resumed)["make"] == "succeeded"
    assert (flows.root / "made").read_text().count("x") == 2


def test_a_timeout_ends_the_whole_tree(flows: Project) -> None:
    (flows.root / "work").write_text("sleep")
    short = Project.load(flows.root, assignments=["execution.timeout_seconds=6"])
    run = short.runs.launch("chain")
    assert (run.state, run.cause) == ("timed_out", "not done after 6 s")
    assert states(run)["work"] == "failed"
    assert living(wait_for(flows.root / "pids")) == []


def test_a_terminal_sees_the_run_while_it_runs_and_its_cause_last(flows: Project) -> None:
    (flows.root / "work").write_text("sleep")
    argv = [Path(sys.executable).with_name("tidemill"), "--project", flows.root, "run", "chain"]
    with terminal() as (stream, screen):
        runner = subprocess.Popen(argv, stdout=stream, stderr=stream, env=os.environ | ENVIRONMENT)
        limit = time.monotonic() + 60
        while not any(re.match(r"running +work +[1-9]", line) for line in screen.lines):
            assert time.monotonic() < limit, screen.written
            time.sleep(0.05)
        runner.send_signal(signal.SIGINT)
        assert runner.wait(60) == 130
    lines = [line.split() for line in screen.lines]
    assert lines[0] == ["compiling", "…"]
    assert ["pending", "finish"] in lines
    *_, made, worked, finished, log, resume, cause = lines
    assert [made[:2], worked[:2]] == [["succeeded", "make"], ["failed", "work"]]
    assert finished == ["skipped", "finish"]
    assert (log[0], resume[0]) == ("log:", "resume:")
    assert cause[1:] == ["cancelled:", "interrupted"]


def command(project: Project, *arguments: str) -> subprocess.Popen[str]:
    tidemill = Path(sys.executable).with_name("tidemill")
    line = [tidemill, "--project", str(project.root), *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_ctrl_c_ends_the_whole_tree(flows: Project) -> None:
    (flows.root / "work").write_text("sleep")
    runner = command(flows, "run", "chain")
    pids = wait_for(flows.root / "pids")
    runner.send_signal(signal.SIGINT)
    _, errors = runner.communicate(timeout=30)
    assert runner.returncode == 130
    assert errors.splitlines()[-1].endswith("cancelled: interrupted")
    assert living(pids) == []


def ended(project: Project, run_id: str) -> RunResult:
    """The run, once the last process that holds it has seen that its launcher is gone."""
    limit = time.monotonic() + 30
    while (run := project.runs.status(run_id)).state == "running" and time.monotonic() < limit:
        time.sleep(0.05)
    return run


def test_a_killed_launcher_takes_its_run_along(flows: Project) -> None:
    order = flows.root / "work"
    order.write_text("sleep")
    runner = command(flows, "run", "chain")
    pids = wait_for(flows.root / "pids")
    (run_id,) = (path.name for path in flows.paths.runs.iterdir())
    with pytest.raises(Conflict, match="still running"):
        flows.runs.launch("chain", resume=run_id)
    runner.kill()
    runner.communicate(timeout=30)
    psutil.wait_procs([psutil.Process(pid) for pid in living(pids)], timeout=30)
    assert living(pids) == []
    run = ended(flows, run_id)
    assert (run.state, states(run)["work"]) == ("failed", "failed")
    assert "its process is gone" in run.cause
    order.unlink()
    assert flows.runs.launch("chain", resume=run_id).state == "succeeded"


def test_a_run_is_cancelled_from_elsewhere(flows: Project) -> None:
    (flows.root / "work").write_text("sleep")
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(flows.runs.launch("chain")))
    thread.start()
    pids = wait_for(flows.root / "pids")
    (run_id,) = (path.name for path in flows.paths.runs.iterdir())
    flows.runs.cancel(run_id)
    thread.join(timeout=30)
    assert results[0].state == "cancelled"
    assert living(pids) == []


def test_two_runs_at_once_do_not_meet(flows: Project) -> None:
    results: dict[str, RunResult] = {}

    def launch(as_of: str) -> None:
        results[as_of] = flows.runs.launch("chain", {"as_of": as_of})

    threads = [threading.Thread(target=launch, args=(at,)) for at in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {at: run.outputs["Output"] for at, run in results.items()} == {
        "one": "@one",
        "two": "@two",
    }


def test_loops_branches_and_retries(flows: Project) -> None:
    retrying = Project.load(flows.root, assignments=["execution.resources={double: {retries: 1}}"])
    run = retrying.runs.launch("branches", {"numbers": [3, -1, 3]})
    assert run.state == "succeeded", run.cause
    assert run.outputs == {"Output": "yes"}
    loop = {f"for-loop-1-iteration-{n}/double" for n in range(3)}
    assert {states(run)[step] for step in loop} == {"succeeded"}, "3 is doubled twice"
    assert "not yet" in retrying.runs.log(run.run_id, "for-loop-1-iteration-1/double")


def test_a_condition_that_kfp_cannot_read_fails_the_run(flows: Project) -> None:
    run = flows.runs.launch("branches", {"numbers": [1], "mood": "it's"})
    assert run.state == "failed"
    assert "could not evaluate a condition" in run.cause


@pytest.mark.parametrize(
    ("pipeline", "parameters", "error", "message"),
    [
        ("chian", {}, UsageError, "no pipeline 'chian'"),
        ("chain", {"sise": 3}, UsageError, "'sise'"),
        ("chain", {"size": "many"}, UsageError, "size='many': expected a whole number"),
        ("chain", {"as_of": "python3.11"}, UsageError, "'python3'"),
        ("branches", {}, UsageError, "needs the parameter numbers"),
        ("broken", {}, ConfigError, "always false on a local run"),
    ],
)
def test_a_mistake_is_told_and_leaves_no_run(
    flows: Project, pipeline: str, parameters: dict[str, object], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        flows.runs.launch(pipeline, parameters)
    assert list(flows.paths.runs.iterdir()) == []


def test_the_last_line_is_the_cause(flows: Project) -> None:
    (flows.root / "work").write_text("refuse")
    runner = command(flows, "run", "chain")
    _, errors = runner.communicate(timeout=60)
    assert runner.returncode == 3
    lines = errors.splitlines()
    assert lines[-1].endswith(
        "refused: work: Refused: auc 0.5 is below 0.62 → look at the evidence"
    )
    assert Path(lines[-2].removeprefix("log: ")).read_text(), "no resume: it would refuse again"


def test_a_training_without_its_tracker_ends_in_the_first_step(tmp_path: Path) -> None:
    copy_reference(tmp_path / "project")
    nobody = ["registry.uri=http://127.0.0.1:9"]
    run = Project.load(tmp_path / "project", assignments=nobody).runs.launch("training")
    assert run.state == "failed"
    assert run.cause.startswith("ingest: Unavailable: MLflow at http://127.0.0.1:9 does not answer")
    ended = {name for name, state in states(run).items() if state != "skipped"}
    assert ended == {"ingest", "conclude"}


def test_a_dry_run_runs_nothing(flows: Project) -> None:
    run = flows.runs.launch("chain", dry_run=True)
    assert (run.state, set(states(run).values())) == ("planned", {"pending"})
    assert list(flows.paths.runs.iterdir()) == []
    assert not (flows.root / "made").exists()
