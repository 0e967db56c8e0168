"""The commands, on a project with a signed bundle, a real log and a replay clock."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from tests.monitoring_world import DAY, MODEL, RELEASE, ROOT, World

from tidemill.adapters.clock import ReplayClock
from tidemill.bundle import digest, revision
from tidemill.cli import main
from tidemill.cli.monitor import _draw
from tidemill.wiring import Project

pytestmark = pytest.mark.slow


@pytest.fixture
def project(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project that served five days; on the last one a feed sent Celsius."""
    root = tmp_path / "project"
    for folder in ("configs", "feature_repo"):
        shutil.copytree(ROOT / folder, root / folder)
    clock = root / "clock.json"
    monkeypatch.setenv("TIDEMILL_CLOCK", str(clock))
    opened = Project.load(root)
    bundle = tmp_path / "signed"
    shutil.copytree(world.flights.bundle, bundle)
    opened.signer.sign(bundle)
    world.revision = revision(digest(bundle))
    (root / ".tidemill" / "bundles").mkdir(parents=True)
    shutil.copytree(bundle, root / ".tidemill" / "bundles" / world.revision)
    world.objects = opened.objects

    def celsius(rows: object) -> object:
        return world.rescored(rows.with_columns(temp=(rows["temp"] - 32) / 1.8))

    for day in range(5):
        world.log(RELEASE + day * DAY, celsius if day == 4 else lambda rows: rows)
    ReplayClock(clock).set(RELEASE + 5 * DAY + timedelta(hours=1))
    return root


def run(
    root: Path, capsys: pytest.CaptureFixture[str], *line: str, draw: str = "false"
) -> tuple[int, str]:
    try:
        main([*line, "--project", str(root), "--set", f"monitoring.draw_reports={draw}"])
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_from_the_log_to_a_resolved_incident(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = run(project, capsys, "monitor", "run")
    assert code == 0
    for line in ("PAGE inc-", "data_quality", "median of temp", "runbooks/data_quality.md", "next"):
        assert line in text
    code, text = run(project, capsys, "monitor", "status", "--json")
    found = json.loads(text)
    assert [v["cause"] for v in found] == ["none"] * 4 + ["data_quality"]
    _, text = run(project, capsys, "incident", "list", "--json")
    (incident,) = json.loads(text)
    _, text = run(project, capsys, "retrain", "status", "--json")
    (asked,) = json.loads(text)
    assert (asked["state"], asked["correlation_id"]) == ("refused", incident["id"])
    _, text = run(project, capsys, "retrain", "why", asked["id"])
    assert "would learn the fault" in text
    code, text = run(project, capsys, "retrain", "request", "-m", "now")
    assert code == 0
    assert "unresolved" in text
    assert run(project, capsys, "incident", "ack", incident["id"], "-m", "seen")[0] == 0
    _, text = run(project, capsys, "incident", "show", incident["id"])
    assert "acknowledged: seen" in text
    assert run(project, capsys, "incident", "resolve", incident["id"], "-m", "mended")[0] == 0
    code, text = run(project, capsys, "incident", "resolve", incident["id"], "-m", "again")
    assert code == 3
    assert "was resolved" in text
    assert run(project, capsys, "monitor", "run") == (0, "no window is due\n")


def test_the_pipeline_draws_a_report_of_each_new_incident(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("components", "pipelines"):
        shutil.copytree(ROOT / folder, project / folder)
    code, text = run(project, capsys, "run", "monitoring", "--on", "local", "--json")
    assert code == 0, text
    _, text = run(project, capsys, "incident", "list", "--json")
    (incident,) = json.loads(text)
    assert incident["cause"] == "data_quality"
    page = Path(incident["report"].removeprefix("file://"))
    assert "temp" in page.read_text()


def test_a_round_draws_a_report_of_each_new_incident(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project, capsys, "monitor", "run", draw="true")[0] == 0
    _, text = run(project, capsys, "incident", "list", "--json")
    (incident,) = json.loads(text)
    page = Path(incident["report"].removeprefix("file://"))
    assert page.suffix == ".html"
    drawn = page.read_text()
    assert f"{incident['id']}: data_quality in {MODEL}" in drawn
    assert "Drift in column 'temp'" in drawn


def test_what_is_not_there_is_named(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(project, capsys, "incident", "show", "inc-0")
    assert (code, "no incident 'inc-0'" in text) == (1, True)
    code, text = run(project, capsys, "retrain", "request", "-m", "x", "--cause", "weather")
    assert code == 2
    shutil.rmtree(project / ".tidemill" / "objects" / "predictions")
    code, text = run(project, capsys, "monitor", "run")
    assert (code, f"no prediction log of {MODEL}" in text) == (1, True)


def test_labels_are_collected(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = run(project, capsys, "labels", "collect", "--json")
    assert json.loads(text)["rows"] > 80_000
    _, text = run(project, capsys, "labels", "collect", "--json")
    assert json.loads(text)["rows"] == 0


def test_a_report_that_takes_too_long_ends_itself(tmp_path: Path) -> None:
    silent = tmp_path / "config.json"
    os.mkfifo(silent)  # whoever reads it waits for ever
    work = (silent, "inc-00000000", 1)
    process = get_context("spawn").Process(target=_draw, args=work, daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGALRM


HELD = """
import multiprocessing, sys, time
from pathlib import Path
from tidemill.cli.monitor import _draw
if __name__ == "__main__":
    work = (Path(sys.argv[1]), "inc-00000000", 60)
    process = multiprocessing.get_context("spawn").Process(target=_draw, args=work)
    process.start()
    print(process.pid, flush=True)
    time.sleep(60)
"""


def test_a_report_stays_behind_everything_and_ends_with_its_monitor(tmp_path: Path) -> None:
    silent, script = tmp_path / "config.json", tmp_path / "monitor.py"
    os.mkfifo(silent)
    script.write_text(HELD)
    line = [sys.executable, str(script), str(silent)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as monitor:
        assert monitor.stdout is not None
        report = psutil.Process(int(monitor.stdout.readline()))
        with silent.open("w"):  # the report has it open, so it has begun
            behind = report.nice(), os.getsid(report.pid)
            monitor.kill()
            report.wait(30)
    assert behind == (10, report.pid)
