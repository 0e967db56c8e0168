"""`tidemill registry`, `ledger` and `lineage` on a project with a real MLflow server."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.bundles import DATA, make_bundle
from tests.registering import registered

from tidemill.bundle import digest, revision
from tidemill.cli import main
from tidemill.errors import Conflict
from tidemill.ports.registry import ModelVersion
from tidemill.steps.promote import promote
from tidemill.wiring import Project

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project of its own whose model name no other test uses."""
    root = tmp_path / "project"
    shutil.copytree(REPOSITORY / "configs", root / "configs")
    monkeypatch.setenv("TIDEMILL_PROJECT", str(root))
    monkeypatch.setenv("TIDEMILL_REGISTRY__URI", mlflow_uri)
    return Project.load(root)


def release(project: Project, folder: Path, name: str, scale: float) -> ModelVersion:
    version = registered(project, make_bundle(folder, name, scale), f"run-{scale}")
    promote(
        version,
        "champion",
        aliases=project.registry,
        ledger=project.ledger,
        clock=project.clock,
        who="rollout",
        why="canary passed",
        correlation=f"attempt-{scale}",
    )
    return version


def run(*args: str, code: int = 0) -> None:
    ended = 0
    try:
        main([*args])
    except SystemExit as exit_:
        ended = int(exit_.code or 0)
    assert ended == code, args


def answer(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    run(*args, "--json")
    return json.loads(capsys.readouterr().out)


def test_a_model_is_followed_from_its_data_to_its_deployments_and_back(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"cli-{tmp_path.name[-12:]}"
    first = release(project, tmp_path / "one", name, 0.001)
    second = release(project, tmp_path / "two", name, 0.002)

    listed = answer(capsys, "registry", "list", name)
    assert [(v["version"], v["aliases"]) for v in listed] == [
        ("2", ["challenger", "champion"]),
        ("1", []),
    ]
    shown = answer(capsys, "registry", "show", f"{name}@champion")
    assert shown["digest"] == digest(tmp_path / "two")

    (told,) = answer(capsys, "lineage", f"{name}/1")
    assert [(link["kind"], link["id"]) for link in told["origin"]] == [
        ("data", DATA),
        ("features", "flights/flight_delay_v1"),
        ("run", "unknown"),
        ("code", "c" * 40),
        ("evidence", first.tags["evidence"]),
        ("model", f"{name}/1"),
        ("onnx", first.tags["onnx"]),
    ]
    assert [(link["kind"], link["id"]) for link in told["deployments"]] == [
        ("registered", f"{name}/1"),
        ("deployed", "challenger"),
        ("deployed", "champion"),
        ("replaced", "challenger"),
        ("replaced", "champion"),
    ]
    assert "canary passed (rollout, attempt-0.001)" in told["deployments"][2]["note"]
    for identifier in (DATA, "c" * 40):
        back = {told["version"] for told in answer(capsys, "lineage", identifier)}
        assert {f"{name}/1", f"{name}/2"} <= back
    own = (second.tags["onnx"], second.tags["evidence"], second.digest, revision(second.digest))
    for identifier in own:
        assert [t["version"] for t in answer(capsys, "lineage", identifier)] == [f"{name}/2"]

    run("lineage", f"{name}@champion")
    tree = capsys.readouterr().out
    assert tree.index("data: ") < tree.index("code: ") < tree.index("onnx: ")
    run("lineage", "0" * 32 + ".dir", code=1)
    assert "no registered model came from" in capsys.readouterr().err


def test_a_bundle_is_fetched_verified_and_refused_when_tampered(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"cli-{tmp_path.name[-12:]}"
    release(project, tmp_path / "one", name, 0.001)
    folder = tmp_path / "fetched"
    assert answer(capsys, "registry", "fetch", name, str(folder))["version"] == f"{name}/1"
    assert answer(capsys, "registry", "verify", str(folder))["digest"] == digest(folder)
    (folder / "model.onnx").write_bytes(b"EVIL")
    run("registry", "verify", str(folder), code=3)
    assert "'model.onnx' is not what was signed" in capsys.readouterr().err
    run("registry", "sign", str(folder))
    run("registry", "verify", str(folder))


def test_the_ledger_is_verified_row_by_row_and_against_mlflow(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sqlalchemy import update

    from tidemill.adapters.store.tables import ledger

    name = f"cli-{tmp_path.name[-12:]}"
    release(project, tmp_path / "one", name, 0.001)
    release(project, tmp_path / "two", name, 0.002)
    assert len(answer(capsys, "ledger", "show", name)) == 10

    def problems() -> str:
        run("ledger", "verify", code=3)
        said = capsys.readouterr().err
        return "\n".join(line for line in said.splitlines() if name in line or "entry" in line)

    # Other tests publish to the same server from projects of their own.
    assert problems() == ""
    project.registry.set_alias(name, "champion", "1")
    assert problems().endswith("(entry 10): it was moved by hand")
    run("ledger", "settle")
    assert "nothing was left unfinished" in capsys.readouterr().out
    project.registry.set_alias(name, "champion", "2")
    assert problems() == ""
    with project.store.begin() as connection:
        connection.execute(update(ledger).where(ledger.c.seq == 4).values(who="nobody"))
    assert "entry 4 was edited" in problems()


def test_an_interrupted_promotion_is_settled(
    project: Project, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"cli-{tmp_path.name[-12:]}"
    release(project, tmp_path / "one", name, 0.001)
    second = registered(project, make_bundle(tmp_path / "two", name, 0.002), "run-0.002")

    class Dead:
        def set_alias(self, name: str, alias: str, version: str) -> None:
            raise Conflict("the network went away")

        def aliases(self, name: str) -> dict[str, str]:
            return {}

    with pytest.raises(Conflict):
        promote(
            second,
            "champion",
            aliases=Dead(),
            ledger=project.ledger,
            clock=project.clock,
            who="rollout",
            why="canary passed",
        )
    run("ledger", "verify", code=3)
    assert "was begun and not finished" in capsys.readouterr().err
    run("ledger", "settle")
    assert f"{name}@champion is at version 2" in capsys.readouterr().out
    assert project.registry.aliases(name)["champion"] == "2"


def test_a_dead_mlflow_is_named_with_the_next_command(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEMILL_REGISTRY__URI", "http://127.0.0.1:9")
    run("registry", "list", code=1)
    said = capsys.readouterr().err
    assert "MLflow at http://127.0.0.1:9 does not answer" in said
    assert "tidemill up" in said
