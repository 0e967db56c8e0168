"""How a run is shown while it runs and when it has ended: on a terminal and without one."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tests.terminal import ENVIRONMENT, Screen, terminal

from tidemill.cli.app import Globals
from tidemill.cli.progress import finish, progress
from tidemill.ports.runs import RunResult, RunState, StepResult

BEGAN = datetime.now(UTC) - timedelta(hours=1)
"""An hour ago: what a running step's time is counted from."""
STEPS = (
    StepResult("ingest", "reused", BEGAN.isoformat(), 12.0, 11.0),
    StepResult("train", "succeeded", BEGAN.isoformat(), 61.25, 58.04),
    StepResult("gate", "running", BEGAN.isoformat()),
    StepResult("register"),
)
RUN = RunResult("training-7", "training", "running", steps=STEPS)
CAUSE = "gate: Refused: auc 0.5 is below 0.62\n  → look at the evidence"
REFUSED = replace(
    RUN,
    state="refused",
    cause=CAUSE,
    wall_seconds=80.0,
    steps=(
        *STEPS[:2],
        replace(STEPS[2], state="failed", wall_seconds=3.3, cause="…", log="/logs/gate.log"),
        replace(STEPS[3], state="skipped"),
    ),
)
SHORT = [
    "log: /logs/gate.log",
    "training-7 refused: gate: Refused: auc 0.5 is below 0.62 → look at the evidence",
]
"""What is said last of a run that was refused."""


@contextmanager
def no_terminal() -> Iterator[Screen]:
    """Leave standard error as it is."""
    yield Screen()


@contextmanager
def on_terminal() -> Iterator[Screen]:
    """Make standard error a terminal; its screen can be read afterwards."""
    with terminal() as (stream, screen), pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setattr(sys, "stderr", stream)
        yield screen


def test_a_terminal_shows_states_and_times_of_all_steps() -> None:
    with on_terminal() as screen, progress() as watch:
        watch(RUN)
    assert screen.lines[0] == "compiling …", "before the run has told its steps"
    header, *rows = screen.lines[-5:]
    assert header.split() == ["state", "step", "wall", "cpu"]
    assert rows[0].split() == ["reused", "ingest", "11.0", "s"], "its time is an earlier attempt's"
    assert rows[1].split() == ["succeeded", "train", "61.2", "s", "58.0", "s"]
    state, step, seconds, _ = rows[2].split()
    assert (state, step) == ("running", "gate")
    assert float(seconds) >= 3600, "a running step's time goes on"
    assert rows[3].split() == ["pending", "register"]
    assert "\x1b[32msucceeded" in screen.written
    assert "\x1b[33mrunning" in screen.written


def test_the_live_view_draws_over_itself_and_leaves_nothing() -> None:
    with on_terminal() as screen, progress() as watch:
        watch(RUN)
    assert screen.written.endswith("\x1b[1A\x1b[2K" * 5), "header and four steps are wiped"


def test_without_a_terminal_each_change_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as watch:
        for run in (RUN, RUN, REFUSED):
            watch(run)
    lines = capsys.readouterr().err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in lines)
    assert [line.split(maxsplit=1)[1].rstrip() for line in lines] == [
        "ingest reused 12.0 s",
        "train succeeded 61.2 s",
        "gate running",
        "gate failed 3.3 s",
        "register skipped",
    ]


@pytest.mark.parametrize("place", [on_terminal, no_terminal])
def test_nothing_is_shown_with_json(
    place: Callable[[], AbstractContextManager[Screen]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("tidemill.cli.app._globals", Globals(json=True))
    with place() as screen, progress() as watch:
        watch(RUN)
    assert (screen.written, *capsys.readouterr()) == ("", "", "")


@pytest.mark.parametrize("place", [on_terminal, no_terminal])
def test_ctrl_c_tells_the_end_and_is_exit_code_130(
    place: Callable[[], AbstractContextManager[Screen]], capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        with progress() as watch:
            watch(RUN)
            watch(replace(REFUSED, state="cancelled", cause="interrupted"))
            raise KeyboardInterrupt

    with place() as screen, pytest.raises(SystemExit) as stop:
        interrupted()
    assert stop.value.code == 130
    lines = screen.lines or capsys.readouterr().err.splitlines()
    resume = "resume: tidemill run training --resume training-7"
    assert lines[-3:] == [SHORT[0], resume, "training-7 cancelled: interrupted"]


def test_the_last_line_is_the_cause_and_names_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        finish(REFUSED)
    told = capsys.readouterr()
    assert told.err.splitlines() == SHORT
    assert [line.split() for line in told.out.splitlines()][3] == ["failed", "gate", "3.3", "s"]


@pytest.mark.parametrize("state", ["failed", "timed_out", "cancelled"])
def test_the_hint_resumes_in_the_same_place(
    state: RunState, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tidemill.cli.app._globals", Globals(env="prod"))
    with pytest.raises(SystemExit):
        finish(replace(REFUSED, state=state), "kfp")
    assert (
        "resume: tidemill run training --resume training-7 --on kfp --env prod\n"
        in capsys.readouterr().err
    )


def test_a_success_tells_its_time_and_the_share_of_orchestration(
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = replace(RUN, state="succeeded", wall_seconds=80.0, steps=STEPS[:2])
    with pytest.raises(SystemExit) as stop:
        finish(done)
    assert stop.value.code == 0
    told = capsys.readouterr().err.splitlines()
    assert told == ["training-7 succeeded in 80.0 s, 23% of it orchestration"]


@pytest.mark.parametrize(
    ("state", "code"),
    [("succeeded", 0), ("failed", 1), ("cancelled", 1), ("refused", 3), ("timed_out", 4)],
)
def test_the_exit_code_is_that_of_the_state(state: RunState, code: int) -> None:
    with pytest.raises(SystemExit) as stop:
        finish(replace(REFUSED, state=state))
    assert stop.value.code == code
