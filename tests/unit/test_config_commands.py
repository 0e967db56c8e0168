"""`tidemill config show` and `schema`: what is in force, and where each value came from."""

import json
import re
from pathlib import Path

import pytest
import yaml

from tidemill.cli.app import main
from tidemill.settings import load
from tidemill.settings.export import SCHEMA_FILE, schema_text

BASE = """\
name: demo
training:
  epochs: 5
  inputs:
    - {name: distance, origin: request, encoding: log}
"""


ASSIGNED = "gates.non_inferiority_margin=0.004"
ORIGINS = {
    "gateway.admin_port": ("9901", "default"),
    "training.epochs": ("5", "configs/base.yaml (line 3)"),
    "training.inputs.0.name": ("distance", "configs/base.yaml (line 5)"),
    "gateway.port": ("9100", "configs/prod.yaml (line 2)"),
    "training.seed": ("7", "environment (TIDEMILL_TRAINING__SEED)"),
    "gates.non_inferiority_margin": ("0.004", "--set (gates.non_inferiority_margin)"),
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").write_text(BASE)
    (tmp_path / "configs" / "prod.yaml").write_text("gateway:\n  port: 9100\n")
    monkeypatch.setenv("TIDEMILL_TRAINING__SEED", "7")
    return tmp_path


def say(project: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command as the console script does and return what it printed."""
    with pytest.raises(SystemExit) as stop:
        main(["--project", str(project), "--env", "prod", "--set", ASSIGNED, *words])
    assert stop.value.code in (None, 0)
    return capsys.readouterr().out


def test_show_prints_the_settings_in_force(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    in_force = load(project, env="prod", assignments=[ASSIGNED]).settings.model_dump(mode="json")
    shown = yaml.safe_load(say(project, capsys, "config", "show"))
    assert shown == in_force
    assert shown == json.loads(say(project, capsys, "--json", "config", "show"))
    assert (shown["training"]["seed"], shown["gateway"]["port"]) == (7, 9100)


def test_explain_tells_where_each_value_came_from(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header, *rows = say(project, capsys, "config", "show", "--explain").splitlines()
    assert header.split() == ["key", "value", "from"]
    told = {row[0]: tuple(row[1:]) for row in (re.split(" {2,}", r.strip()) for r in rows)}
    assert {key: told[key] for key in ORIGINS} == ORIGINS
    explained = json.loads(say(project, capsys, "--json", "config", "show", "--explain"))
    by_key = {row["key"]: (str(row["value"]), row["origin"]) for row in explained}
    assert {key: by_key[key] for key in ORIGINS} == ORIGINS


def test_schema_is_printed_and_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = say(project, capsys, "config", "schema")
    assert printed == schema_text()
    assert "non_inferiority_margin" in printed
    assert str(project / SCHEMA_FILE) in say(project, capsys, "config", "schema", "--write")
    assert (project / SCHEMA_FILE).read_text() == printed
