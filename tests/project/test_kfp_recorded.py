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


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    spec = next(yaml.safe_load_all((HERE / "golden" / "training.yaml").read_text()))
    answers = {
        f"/apis/v2beta1/runs/{run}": json.dumps(
            json.loads((RECORDED / name).read_text()) | {"pipeline_spec": spec}
        )
        for run, name in ((FAILED, "failed.json"), (CANCELLED, "cancelled.json"))
    }
    log = "/apis/v1alpha1/runs/{}/nodes/training-{}/log"
    answers[log.format(FAILED, "wxtrv-1256630313")] = (RECORDED / "register.log").read_text()
    answers[log.format(CANCELLED, "qf8rh-877337152")] = (RECORDED / "no_log.json").read_text()
    with FakeKfp(recorded=answers) as server:
        yield server


@pytest.fixture
def runs(kfp: FakeKfp, root_project: Project) -> KfpRuns:
    execution = ExecutionSettings.model_validate({"kfp": {"host": kfp.url}})
    return KfpRuns(root_project.root, execution, "", str, root_project.clock)


def test_a_failed_run_says_of_what(runs: KfpRuns) -> None:
    run = runs.status(FAILED)
    assert (run.pipeline, run.state) == ("training", "refused"), "an IntegrityError is a refusal"
    assert run.cause.startswith("register: IntegrityError: /project/configs/signing.pub is not the")
    states = {step.name: step.state for step in run.steps}
    assert (states["package"], states["register"]) == ("succeeded", "failed")
    assert states["deploy"] == "skipped", "it is behind a condition that was never reached"
    assert states["conclude"] == "succeeded"
    assert run.step("train").wall_seconds == 15


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
    with pytest.raises(NotFound, match="has no log of train: NoSuchKey: The specified") as raised:
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
