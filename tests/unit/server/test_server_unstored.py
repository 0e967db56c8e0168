"""What a killed process had not stored: counted by the next one, once."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.server_app import AS_OF, FULL, NOW, request

from tidemill.server import Unstored, rest
from tidemill.server.build import build_served
from tidemill.server.model import load_model
from tidemill.settings.serving import ServingSettings
from tidemill.testing.clock import FixedClock
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline

KILLED = """
import os, signal, sys
from pathlib import Path
from tidemill.server import Unstored
for model, rows in (("late", 3), ("late", 4), ("taxi", 5), ("idle", 0)):
    tally = Unstored(Path(sys.argv[1])).open(model)
    tally.rows = 9
    tally.rows = rows
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state" / "unstored"


def test_what_killed_processes_held_is_counted_once(folder: Path) -> None:
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", KILLED, folder], check=False).returncode == -9
    unstored = Unstored(folder)
    assert unstored.collect() == {"late": 14, "taxi": 10, "idle": 0}
    assert unstored.collect() == {}
    assert not list(folder.iterdir())


def test_what_a_process_holds_that_lives_is_its_own(folder: Path) -> None:
    tally = Unstored(folder).open("late")
    assert tally
    tally.rows = 7
    assert Unstored(folder).collect() == {}
    assert tally.rows == 7
    tally.close()
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_written_changes_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    unstored = Unstored(tmp_path / "state" / "unstored")
    assert unstored.open("late") is None
    assert unstored.collect() == {}
    assert "will not be counted" in capfd.readouterr().out


def test_a_log_tells_what_it_holds_and_leaves_nothing_when_it_ends(
    tmp_path: Path, folder: Path
) -> None:
    bundle = write_bundle(tmp_path / "b")
    model = load_model(bundle, version="7", threads=1)
    served = build_served(
        model,
        ServingSettings(log={"flush_seconds": 600}),
        reader=MemoryOnline(MANIFEST.features.digest, AS_OF, {}),
        objects=MemoryObjects(),
        clock=FixedClock(NOW),
        unstored=Unstored(folder),
    )
    assert not folder.exists()  # a check of a deployment starts no log
    served.predictions.start()
    (file,) = folder.iterdir()
    body = json.dumps(request(FULL, 3)).encode()
    for rows in (3, 6):
        asyncio.run(served.inference.answer(lambda: rest.read(body, None), rest.write))
        assert int.from_bytes(file.read_bytes()[:8], sys.byteorder) == rows
    assert served.predictions.close(10) == 0
    assert not list(folder.iterdir())
