"""A run's folder on a disk that is full."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.full_disk import files_end_at

from tidemill.adapters.kfp.record import RunFolder
from tidemill.errors import Unavailable
from tidemill.ports.runs import RunResult, StepResult


@pytest.mark.parametrize("room", [0, 10])
def test_a_full_disk_is_named_and_takes_nothing_that_was_written(tmp_path: Path, room: int) -> None:
    run = RunFolder(tmp_path)
    run.append("attempt")
    size = run.file("events.jsonl").stat().st_size
    named = re.escape(f"the run's folder {tmp_path} cannot be written")
    with files_end_at(size + room):
        with pytest.raises(Unavailable, match=named):
            run.append("spawned", pid=1)
        assert [event["event"] for event in run.events()] == ["attempt"]
        with pytest.raises(Unavailable, match=named):
            run.save(RunResult("r", "training", "failed", {"much": "x" * 4096}))
    run.append("spawned", pid=2)
    assert [event.get("pid") for event in run.events()] == [None, 2]


def test_a_line_that_is_still_being_written_is_not_read(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.append("attempt")
    with run.file("events.jsonl").open("a") as file:
        file.write('{"event": "spa')
    assert [event["event"] for event in run.events()] == ["attempt"]


def test_work_is_the_time_in_which_a_step_ran() -> None:
    at = "2026-01-01T00:00:{:02}.000+00:00"
    steps = (
        StepResult("one", "succeeded", at.format(0), 4.0),
        StepResult("beside", "succeeded", at.format(1), 2.0),
        StepResult("overlapping", "failed", at.format(3), 3.0),
        StepResult("apart", "succeeded", at.format(10), 1.0),
        StepResult("before", "reused", at.format(20), 0.0),
        StepResult("never", "skipped"),
    )
    run = RunResult("r", "training", "failed", wall_seconds=12.0, steps=steps)
    assert run.work_seconds == 7.0
