"""A backfill by the command line: months that are there already stay what they are."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from tests.command_line import Line

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
AS_OF = "2013-05-10T00:00:00+00:00"
OLD, NEW = ("2013-03", "2013-04"), ("2013-01", "2013-02")


@pytest.fixture
def data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Line:
    """Return `tidemill data` in a project of two months."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.setenv("TIDEMILL_PROJECT", str(tmp_path))
    monkeypatch.setenv("TIDEMILL_DATA__START", OLD[0])
    monkeypatch.setenv("TIDEMILL_DATA__END", OLD[1])
    line = Line(capsys, "data")
    line("ingest", "--as-of", AS_OF)
    line("validate", "--as-of", AS_OF)
    return line


def dataset(root: Path) -> dict[str, str]:
    folder = root / "data" / "raw"
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def monthly(months: tuple[str, ...]) -> set[str]:
    return {f"{table}/{month}.parquet" for table in ("flights", "weather") for month in months}


def test_a_range_is_judged_and_no_other_month_changes(
    data: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = dataset(tmp_path)
    assert monthly(OLD) < before.keys()
    version = data.json("publish")["id"]
    data("validate", "--from", OLD[1], "--to", OLD[1], "--as-of", AS_OF)
    assert dataset(tmp_path) == before
    period = ("--from", NEW[0], "--to", NEW[1], "--as-of", AS_OF)
    ingested = data.json("ingest", *period)
    assert {one["partition"]["period"] for one in ingested} == {*NEW, "static"}
    report = data.json("validate", *period)
    assert {verdict["period"] for verdict in report["verdicts"]} == {*NEW, "static"}
    after = dataset(tmp_path)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == monthly(NEW)

    monkeypatch.setenv("TIDEMILL_DATA__START", NEW[0])
    data("validate", "--as-of", AS_OF)
    assert dataset(tmp_path) == after, "the same as a validation of everything"
    published = data.json("publish")
    assert published["id"] != version
    assert published["files"] == len(after)
    assert json.loads((tmp_path / "data" / "version.json").read_text())["id"] == published["id"]
