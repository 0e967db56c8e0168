"""The command line loads nothing heavy and answers mistakes with the next thing to do."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tidemill.cli.actor import actor
from tidemill.cli.app import main, split
from tidemill.errors import UsageError

ROOT = Path(__file__).parents[2]
HEAVY = {
    *("kfp", "mlflow", "feast", "dvc", "evidently", "torch", "kubernetes", "model_signing"),
    *("polars", "pandas", "numpy", "pyarrow", "pandera", "sklearn", "matplotlib"),
    *("onnx", "onnxruntime", "sqlalchemy", "pydantic", "httpx", "grpc", "yaml", "psutil"),
}
"""What costs more to import than the rest of `--help`, or brings what does with it."""


def test_help_loads_nothing_heavy() -> None:
    assert all(map(find_spec, HEAVY)), "a package that is not installed proves nothing"
    code = (
        "import sys, json\nfrom tidemill.cli.app import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Commands" in done.stdout
    assert HEAVY & set(json.loads(done.stderr)) == set()


def test_globals_stand_anywhere() -> None:
    found, rest = split(["run", "--set", "a.b=1", "training", "--json", "--", "--set", "x"])
    assert found.assignments == ["a.b=1"]
    assert found.json
    assert rest == ["run", "training", "--", "--set", "x"]


def test_an_option_without_value_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--set needs a value"):
        split(["config", "--set"])


def test_an_unknown_command_names_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["confg"])
    assert stop.value.code == 2
    assert "did you mean: config" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("run", "training"), ("submit", "training"), ("up",)])
def test_nothing_starts_with_settings_that_clash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with pytest.raises(SystemExit) as stop:
        main(["--project", str(tmp_path), "--set", "gates.slices=[foo]", *words])
    assert stop.value.code == 2
    assert "gates.slices names 'foo'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["configs"]


def test_no_rollout_starts_whose_steps_cannot_see_enough(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "--project",
                str(tmp_path),
                "--set",
                "rollout.expected_rate=1e-9",
                "rollout",
                "start",
                "m",
            ]
        )
    assert stop.value.code == 2
    assert "at rollout.expected_rate = 1e-09/s" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "command"), [("demo", "tidemill --env demo"), ("local", "tidemill")]
)
def test_a_hint_is_about_the_environment_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], env: str, command: str
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    with pytest.raises(SystemExit):
        main(["data", "publish", "--env", env, "--project", str(tmp_path)])
    assert capsys.readouterr().err.splitlines()[-1] == f"  → assemble it: {command} data validate"


def test_events_go_to_standard_error() -> None:
    code = (
        "import structlog\nfrom tidemill.cli.app import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "structlog.get_logger().warning('the store is slow')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "the store is slow" in done.stderr
    assert "the store is slow" not in done.stdout


def test_an_order_names_who_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ann")
    assert actor() == "ann"
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_123)
    assert actor() == "uid 4000123"
