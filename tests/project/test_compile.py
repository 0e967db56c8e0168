"""The reference pipelines as KFP gets them: golden definitions, and what the settings put in."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tidemill.adapters.kfp.compile import compile_pipeline, pipelines_of, step_names
from tidemill.adapters.kfp.lint import lint
from tidemill.cli.compile import app
from tidemill.settings.execution import ExecutionSettings
from tidemill.wiring import Project

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
PROD = """
execution:
  environment: {LEVEL: "3"}
  resources:
    default: {cpu: "2", memory: 3Gi, timeout_seconds: 60}
    double: {gpu: 4, retries: 2, secret_files: {/keys: signing}}
  kfp:
    secrets: {AWS_ACCESS_KEY_ID: s3/access}
"""


def documents(path: Path) -> list[dict[str, object]]:
    """Return the parsed YAML, without what is repeated verbatim in `components/`."""
    found = list(yaml.safe_load_all(path.read_text()))
    for executor in found[0]["deploymentSpec"]["executors"].values():
        executor["container"]["command"][-1] = "…"
    return found


@pytest.mark.parametrize("name", pipelines_of(ROOT))
def test_the_definition_is_the_golden_one(name: str, tmp_path: Path) -> None:
    execution = Project.load(ROOT).settings.execution
    definition = compile_pipeline(ROOT, name, execution, "kfp")
    found = documents(definition.write(tmp_path / "found.yaml"))
    golden = GOLDEN / f"{name}.yaml"
    new = tmp_path / "golden.yaml"
    new.write_text(yaml.safe_dump_all(found, sort_keys=True, allow_unicode=True))
    assert found == list(yaml.safe_load_all(golden.read_text())), (
        f"if the change is meant: cp {new} {golden}"
    )


@pytest.mark.parametrize("name", pipelines_of(ROOT))
def test_the_definition_breaks_no_rule(name: str) -> None:
    assert lint(compile_pipeline(ROOT, name, ExecutionSettings(), "local").ir) == []


def test_the_settings_reach_every_step_also_in_loops(flows: Project) -> None:
    (flows.root / "configs" / "prod.yaml").write_text(PROD)
    line = [Path(sys.executable).with_name("tidemill"), "compile", "branches", "-o", "."]
    subprocess.run([*line, "--env", "prod"], cwd=flows.root, check=True, capture_output=True)
    spec, platform = documents(flows.root / "branches.yaml")
    executors = {name: e["container"] for name, e in spec["deploymentSpec"]["executors"].items()}
    assert len(executors) == 4
    for container in executors.values():
        assert container["env"] == [{"name": "LEVEL", "value": "3"}]
    assert executors["exec-double"]["resources"]["accelerator"]["resourceCount"] == "4"
    assert executors["exec-say"]["resources"]["resourceMemoryLimit"] == "3Gi"
    double = spec["components"]["comp-for-loop-1"]["dag"]["tasks"]["double"]
    assert double["retryPolicy"]["maxRetryCount"] == 2
    assert "enableCache" not in double.get("cachingOptions", {})
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert pods["exec-say"]["activeDeadlineSeconds"] == "60"
    assert pods["exec-double"]["secretAsEnv"][0]["secretName"] == "s3"
    (mounted,) = pods["exec-double"]["secretAsVolume"]
    assert (mounted["secretName"], mounted["mountPath"]) == ("signing", "/keys")
    assert "secretAsVolume" not in pods["exec-say"], "no other step sees it"


def test_an_image_is_replaced_by_its_digest() -> None:
    digest = "registry.example.org/features@sha256:" + "0" * 64
    execution = ExecutionSettings(images={"features": digest})
    ir = compile_pipeline(ROOT, "training", execution, "local").ir
    images = {e["container"]["image"] for e in ir["deploymentSpec"]["executors"].values()}
    assert digest in images
    assert not any(image.startswith("tidemill/features") for image in images)


@pytest.mark.parametrize("image", ["tidemill/features", "tidemill/features:latest"])
def test_an_image_that_moves_is_refused(image: str) -> None:
    with pytest.raises(ValueError, match="no version or digest"):
        ExecutionSettings(images={"features": image})


def test_steps_are_listed_in_the_order_of_their_inputs() -> None:
    names = list(step_names(compile_pipeline(ROOT, "training", ExecutionSettings(), "local").ir))
    for earlier, later in [("ingest", "validate"), ("validate", "publish"), ("featurize", "train")]:
        assert names.index(earlier) < names.index(later)


def test_compile_writes_one_file_per_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(app, ["-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert sorted(p.stem for p in tmp_path.glob("*.yaml")) == pipelines_of(ROOT)
