"""Runs on a backend, against a real HTTP server that has the API's shape.

What a backend does with a run (pods, retries, caching) is not shown here.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import Any

import pytest
from tests.project.kfp_api import FakeKfp

from tidemill.adapters.kfp.backend import KfpRuns
from tidemill.cli.app import main
from tidemill.errors import ConfigError, NotFound, TidemillError, Unavailable, UsageError
from tidemill.ports.runs import RunResult
from tidemill.settings.execution import ExecutionSettings
from tidemill.wiring import Project

Connect = Callable[..., KfpRuns]
DEAD = "http://127.0.0.1:9"


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    with FakeKfp(failing="work") as server:
        yield server


@pytest.fixture
def connect(kfp: FakeKfp, root_project: Project) -> Connect:
    """Open the backend; the pipelines are the reference project's."""

    def runs(token: str = "", **settings: Any) -> KfpRuns:
        fields = {"kfp": {"host": kfp.url, "poll_seconds": 0.01, "experiment": "trials"}}
        return KfpRuns(
            root=root_project.root,
            execution=ExecutionSettings.model_validate(fields | settings),
            token=token,
            check_settings=lambda: None,
            publish_settings=lambda name: f"s3://bucket/runs/{name}/settings.json",
            clock=root_project.clock,
        )

    return runs


def test_a_run_is_submitted_whole_and_waited_for(kfp: FakeKfp, connect: Connect) -> None:
    kfp.script = ("PENDING", "RUNNING", "SUCCEEDED")
    seen: list[RunResult] = []
    run = connect().launch("training", {"as_of": "2013-03-01"}, watch=seen.append)
    assert run.state == "succeeded"
    assert {step.state for step in run.steps} == {"succeeded"}
    assert [one.state for one in seen] == ["running", "running", "succeeded"]
    assert run.steps[1].wall_seconds == 7
    (sent,) = kfp.runs.values()
    assert sent["experiment_id"] == next(iter(kfp.experiments))
    assert sent["service_account"] == "pipeline-runner"
    assert set(sent["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}
    parameters = sent["runtime_config"]["parameters"]
    assert parameters["as_of"] == "2013-03-01"
    assert parameters["config"].startswith("s3://bucket/runs/training-")
    connect().submit("training", {})
    assert len(kfp.experiments) == 1, "the experiment is found again"


def test_a_failed_run_names_its_step(kfp: FakeKfp, connect: Connect) -> None:
    kfp.script, kfp.failing = ("RUNNING", "FAILED"), "validate"
    run = connect().launch("training")
    assert run.state == "failed"
    assert run.cause == "validate: log of pod-validate", "the last that it printed"
    assert connect().log("run-1", "validate") == "log of pod-validate\n"
    with pytest.raises(NotFound, match="no step 'nothing'"):
        connect().log("run-1", "nothing")


def test_a_cancelled_run_ends_the_wait(kfp: FakeKfp, connect: Connect) -> None:
    kfp.script = ("RUNNING", "CANCELED")
    assert connect().launch("training").state == "cancelled"


def test_a_run_that_takes_too_long_is_terminated(kfp: FakeKfp, connect: Connect) -> None:
    kfp.script = ("RUNNING",)
    run = connect(timeout_seconds=0.05).launch("training")
    assert (run.state, run.cause) == ("timed_out", "not done after 0.05 s")
    assert kfp.runs[run.run_id]["state"] == "CANCELED"


def test_resume_retries_the_failed_steps(kfp: FakeKfp, connect: Connect) -> None:
    kfp.script = ("FAILED",)
    failed = connect().launch("training")
    kfp.script = ("RUNNING", "SUCCEEDED")
    assert connect().launch("training", resume=failed.run_id).state == "succeeded"
    assert len(kfp.runs) == 1
    with pytest.raises(UsageError, match="unless it has succeeded"):
        connect().launch("training", resume=failed.run_id)


def test_a_run_is_resumed_by_the_name_of_its_file(kfp: FakeKfp, connect: Connect) -> None:
    kfp.script = ("FAILED",)
    asked = {"model": "m@champion", "data_version": "d", "start": "2013-01-01", "end": "2013-02-01"}
    failed = connect().launch("batch_scoring", asked)
    assert failed.pipeline == "batch_scoring"
    kfp.script = ("SUCCEEDED",)
    assert connect().launch("batch_scoring", resume=failed.run_id).state == "succeeded"


def test_resume_waits_for_a_run_that_still_goes_on(kfp: FakeKfp, connect: Connect) -> None:
    kfp.script = ("RUNNING", "RUNNING", "SUCCEEDED")
    submitted = connect().submit("training", {})
    assert connect().launch("training", resume=submitted).state == "succeeded"
    assert len(kfp.runs) == 1


def test_the_token_is_sent(kfp: FakeKfp, connect: Connect) -> None:
    kfp.token = "s3cret"
    assert connect(token="s3cret").launch("training").state == "succeeded"
    with pytest.raises(ConfigError, match=r"refused: 401 .*request unauthenticated"):
        connect(token="wrong").launch("training")


def test_an_unknown_run_and_a_dead_api_are_told_apart(kfp: FakeKfp, connect: Connect) -> None:
    with pytest.raises(NotFound, match="knows no run nothing"):
        connect().status("nothing")
    closed = connect(kfp={"host": DEAD})
    with pytest.raises(Unavailable, match=r"9 does not answer: [^()]*Connection refused"):
        closed.status("run-1")
    elsewhere = connect(kfp={"host": f"{kfp.url}/pipeline"})
    with pytest.raises(ConfigError, match=r"there is no Kubeflow Pipelines API at .*: 404"):
        elsewhere.submit("training", {})
    with pytest.raises(ConfigError, match=r"execution\.kfp\.host is empty"):
        connect(kfp={}).status("run-1")


def test_nothing_is_stored_for_a_run_that_is_refused(kfp: FakeKfp, root_project: Project) -> None:
    stored: list[str] = []
    for settings, given in (({"host": kfp.url}, {"rollout": "perhaps"}), ({"host": DEAD}, {})):
        runs = KfpRuns(
            root_project.root,
            ExecutionSettings.model_validate({"kfp": settings}),
            "",
            lambda: None,
            lambda name: str(stored.append(name)),
            root_project.clock,
        )
        with pytest.raises(TidemillError, match=r"expected true or false|does not answer"):
            runs.submit("training", given)
    assert not stored


def test_settings_are_checked_before_the_backend_is_asked(
    kfp: FakeKfp, root_project: Project
) -> None:
    host = f"execution.kfp.host={kfp.url}"
    runs = Project.load(root_project.root, assignments=[host]).backend
    with pytest.raises(ConfigError, match=r"pods of a run cannot work.*\n.*storage\.objects is"):
        runs.submit("training", {})
    assert (kfp.experiments, kfp.runs) == ({}, {})


def test_a_dry_run_asks_nobody(kfp: FakeKfp, connect: Connect) -> None:
    run = connect(kfp={}).launch("training", dry_run=True)
    assert run.state == "planned"
    assert "validate" in [step.name for step in run.steps]


def test_the_verbs(kfp: FakeKfp, flows: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """`watch`, `logs` and `cancel` are the same verbs as on one machine."""
    monkeypatch.setenv("KFP_TOKEN", "s3cret")
    kfp.token = "s3cret"
    kfp.script = ("RUNNING",)
    (flows.root / "configs" / "kfp.yaml").write_text(
        f"execution: {{target: kfp, kfp: {{host: '{kfp.url}', token: 'env:KFP_TOKEN'}}}}\n"
    )
    spec = {
        "root": {"dag": {"tasks": {"work": {"componentRef": {"name": "comp-work"}}}}},
        "components": {"comp-work": {}},
        "pipelineInfo": {"name": "chain"},
    }
    run = {"run_id": "run-7", "state": "RUNNING", "pipeline_spec": {"pipeline_spec": spec}}
    kfp.runs["run-7"], kfp.looks["run-7"] = run, 0

    def said(*line: str) -> str:
        output = io.StringIO()
        with redirect_stdout(output), pytest.raises(SystemExit):
            main([*line, "--project", str(flows.root), "--env", "kfp"])
        return output.getvalue()

    assert said("logs", "run-7", "work") == "log of pod-work\n\n"
    printed = "[/tmp] is no markup, and nothing is wrapped" + " …" * 200 + "\n"
    kfp.recorded["/apis/v1alpha1/runs/run-7/nodes/pod-work/log"] = printed
    assert said("logs", "run-7", "work") == printed + "\n"
    assert said("cancel", "run-7") == "run-7 cancelled\n"
    assert "failed" in said("watch", "run-7")
