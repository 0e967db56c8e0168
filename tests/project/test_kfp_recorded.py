"""What a real Kubeflow Pipelines 2.17 answered, read as tidemill reads it.

`kfp_recorded/` holds answers of its API server to the reference project's training: a run whose
step `register` failed, one that was terminated while its step `train` waited for a node, the
archived log of the former step, and what the server says of a log that it has not. Of the runs the
definition, inputs and outputs are left out; addresses are replaced.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.project.kfp_api import FakeKfp

from tidemill.adapters.kfp.backend import KfpRuns
from tidemill.adapters.kfp.printed import without_noise
from tidemill.errors import NotFound
from tidemill.settings.execution import ExecutionSettings
from tidemill.wiring import Project

HERE = Path(__file__).parent
RECORDED = HERE / "kfp_recorded"
FAILED, CANCELLED = "d4aa08ad-d775-4b59-9565-615e16dd33a2", "468b1107-4c97-4026-acca-9e83f8db92b3"

LOG = "/apis/v1alpha1/runs/{}/nodes/training-{}/log"
REGISTER, TRAIN = LOG.format(FAILED, "wxtrv-1256630313"), LOG.format(CANCELLED, "qf8rh-877337152")
NO_LOG = (RECORDED / "no_log.json").read_text()


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    spec = next(yaml.safe_load_all((HERE / "golden" / "training.yaml").read_text()))
    answers = {
        f"/apis/v2beta1/runs/{run}": json.dumps(
            json.loads((RECORDED / name).read_text()) | {"pipeline_spec": spec}
        )
        for run, name in ((FAILED, "failed.json"), (CANCELLED, "cancelled.json"))
    }
    answers[REGISTER] = (RECORDED / "register.log").read_text()
    answers[TRAIN] = NO_LOG
    with FakeKfp(recorded=answers) as server:
        yield server


@pytest.fixture
def runs(kfp: FakeKfp, root_project: Project) -> KfpRuns:
    execution = ExecutionSettings.model_validate({"kfp": {"host": kfp.url}})
    return KfpRuns(root_project.root, execution, "", lambda: None, str, root_project.clock)


def test_a_failed_run_says_of_what(runs: KfpRuns) -> None:
    run = runs.status(FAILED)
    assert (run.pipeline, run.state) == ("training", "failed"), "a wrong key judges no model"
    assert run.cause.startswith("register: IntegrityError: /project/configs/signing.pub is not the")
    states = {step.name: step.state for step in run.steps}
    assert (states["package"], states["register"]) == ("succeeded", "failed")
    assert states["deploy"] == "skipped", "it is behind a condition that was never reached"
    assert states["conclude"] == "succeeded"
    assert run.step("train").wall_seconds == 15


@pytest.mark.parametrize(
    ("raised", "state"),
    [
        ("Refused: 1 of 8 gates did not pass", "refused"),
        ("IntegrityError: the evidence was changed", "failed"),
        ("Mismatch: the online store holds another definition", "failed"),
        ("DataError: no rows", "failed"),
        ("ValueError", "failed"),
    ],
)
def test_only_a_verdict_on_the_model_is_a_refusal(
    kfp: FakeKfp, runs: KfpRuns, raised: str, state: str
) -> None:
    kfp.recorded[REGISTER] = f"Traceback (most recent call last):\ntidemill.errors.{raised}\n"
    run = runs.status(FAILED)
    assert (run.state, run.cause) == (state, f"register: {raised}")


def test_what_keeps_a_log_from_being_read_is_said(kfp: FakeKfp, runs: KfpRuns) -> None:
    kfp.recorded[REGISTER] = NO_LOG
    assert runs.status(FAILED).cause.startswith("register: it left no log; why: kubectl describe")
    denied = NO_LOG.replace("NotFound", "PermissionDenied").replace("NoSuchKey", "AccessDenied")
    kfp.recorded[REGISTER] = denied
    said = "register: its log cannot be read: the backend gives no log of register: AccessDenied"
    assert runs.status(FAILED).cause.startswith(said)
    kfp.down.add(REGISTER)
    run = runs.status(FAILED)
    assert (run.state, run.step("register").state) == ("failed", "failed")
    assert run.cause.startswith("register: its log cannot be read: the Kubeflow Pipelines API at ")
    assert run.cause.endswith("said 503 Service Unavailable: the archive is down")


@pytest.mark.parametrize("first", [True, False])
def test_an_attempt_without_a_log_hides_no_other(kfp: FakeKfp, runs: KfpRuns, first: bool) -> None:
    """Of an attempt whose pod was killed, before or after one that failed."""
    path = f"/apis/v2beta1/runs/{FAILED}"
    answer = json.loads(kfp.recorded[path])
    (step,) = (t for t in answer["run_details"]["task_details"] if t["display_name"] == "register")
    step["child_tasks"].insert(0 if first else 1, {"pod_name": "training-lost"})
    kfp.recorded |= {path: json.dumps(answer), LOG.format(FAILED, "lost"): NO_LOG}
    assert runs.status(FAILED).cause.startswith("register: IntegrityError: ")
    kfp.recorded[REGISTER] = NO_LOG
    with pytest.raises(NotFound, match="gives no log of register"):
        runs.log(FAILED, "register")


def test_a_terminated_run_is_told_from_a_failed_one(runs: KfpRuns) -> None:
    run = runs.status(CANCELLED)
    assert (run.state, run.cause) == ("cancelled", "it was terminated")
    states = {step.name: step.state for step in run.steps}
    assert (states["train"], states["conclude"]) == ("failed", "succeeded")
    assert {states[name] for name in ("export", "evaluate", "gate", "deploy")} == {"skipped"}


def test_a_log_is_what_the_step_printed(runs: KfpRuns) -> None:
    said = runs.log(FAILED, "register").splitlines()
    assert said[0].endswith("INFO]: Found credentials in environment variables.")
    assert said[-2].startswith("tidemill.errors.IntegrityError: ")
    assert len(said) == 26, "neither launcher nor executor nor their input"


def test_a_log_that_the_backend_has_not(runs: KfpRuns) -> None:
    with pytest.raises(NotFound, match="gives no log of train: NoSuchKey: The specified") as raised:
        runs.log(CANCELLED, "train")
    assert f"--selector pipeline/runid={CANCELLED}" in raised.value.hint


def test_noise_is_the_launchers_too() -> None:
    said = [
        'time=2026-11-23T08:29:04.246Z level=INFO msg="capturing logs" argo=true',
        "I1123 08:29:04.274281      15 main.go:67] Setting log level to: '1'",
        "2026-11-23 08:33:21 [info     ] epoch",
        "I1123 08:33:25.105144      10 launcher_v2.go:1230] ExecutorOutput: {",
        '  "artifacts": {',
        "  }",
        "}",
        "\x1b[31mlast\x1b[0m",
    ]
    assert list(without_noise(said)) == ["2026-11-23 08:33:21 [info     ] epoch", "last"]
