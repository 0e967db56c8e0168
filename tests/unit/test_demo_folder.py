"""The demo removes only what it made, and says what its loop lacks."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from tests.command_line import Line

from tidemill.adapters.clock import ReplayClock
from tidemill.adapters.reference import copy_reference
from tidemill.demo.play import CLOCK, START, _clear, _not_seen
from tidemill.demo.story import Story
from tidemill.demo.witness import Witness
from tidemill.errors import UsageError
from tidemill.local.platform import Platform
from tidemill.ports.processes import ProcessSpec
from tidemill.wiring import Project


def test_a_foreign_folder_is_refused_and_untouched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = tmp_path / "letter.txt"
    letter.write_text("mine")
    with pytest.raises(UsageError, match="is not empty and no old demo"):
        _clear(tmp_path)
    _, err = Line(capsys, "demo")("--into", str(tmp_path), code=2)
    assert f"{tmp_path} is not empty and no old demo" in err
    assert "--into FOLDER" in err
    assert list(tmp_path.iterdir()) == [letter]
    assert letter.read_text() == "mine"


def test_an_empty_or_absent_folder_is_fine(tmp_path: Path) -> None:
    _clear(tmp_path)
    _clear(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_an_old_demo_is_removed_with_what_it_left_running(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    ReplayClock(folder / CLOCK).set(START)
    platform = Platform(folder / ".tidemill" / "platform", folder / ".tidemill" / "logs")
    sleeper = ProcessSpec("sleeper", (sys.executable, "-c", "import time; time.sleep(600)"))
    pid = platform.up([sleeper])["sleeper"].pid
    _clear(folder)
    assert not folder.exists()
    assert not psutil.pid_exists(pid)


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    copy_reference(tmp_path / "demo")
    return Witness(Project.load(tmp_path / "demo", env="demo"), Story(lambda _: None))


def test_a_loop_that_closed_lacks_nothing(witness: Witness) -> None:
    witness.ran = {"schedule", "concept_drift"}
    witness.promoted, witness.rolled_back = ["3"], ["2"]
    assert _not_seen(witness, poisoned="2") == []


def test_each_thing_that_was_not_seen_is_named(witness: Witness) -> None:
    assert _not_seen(witness, poisoned="2") == [
        "a drift-caused retraining",
        "a scheduled retraining",
        "a retrained model promoted by canary",
        "the poisoned model rolled back by canary",
    ]


def test_a_poisoned_model_that_got_through_closes_nothing(witness: Witness) -> None:
    witness.ran = {"schedule", "concept_drift"}
    witness.promoted, witness.rolled_back = ["2"], ["3"]
    assert _not_seen(witness, poisoned="2") == [
        "a retrained model promoted by canary",
        "the poisoned model rolled back by canary",
    ]
