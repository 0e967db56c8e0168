"""What a killed process had not stored: counted by the next one, once."""

from __future__ import annotations

import asyncio
import errno
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from structlog.testing import capture_logs
from tests.server_app import AS_OF, FULL, NOW, request

from tidemill.errors import Unavailable
from tidemill.server import Repository, Unstored, rest
from tidemill.server import unstored as unstored_module
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
    assert "will not be counted" in "".join(capfd.readouterr())


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


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_one_file_that_cannot_be_read_hides_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = (3).to_bytes(8, sys.byteorder)
    for name in ("a", "b", "c"):
        write(folder / f"{name}.rows", number + name.encode())
    take = unstored_module._take

    def refuse(path: Path) -> bytes:
        if path.name == "b.rows":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return take(path)

    monkeypatch.setattr(unstored_module, "_take", refuse)
    with capture_logs() as lines:
        assert Unstored(folder).collect() == {"a": 3, "c": 3}
    (warning,) = [line for line in lines if line["log_level"] == "warning"]
    assert warning["reason"] == f"Input/output error: {folder / 'b.rows'}"
    assert [path.name for path in folder.iterdir()] == ["b.rows"]


def test_rows_in_a_file_that_cannot_be_removed_are_not_counted_at_each_start(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "a.rows", bytes(8) + b"late")
    refused = OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(Path, "unlink", mock.Mock(side_effect=refused))
    assert Unstored(folder).collect() == {}


def test_a_name_that_is_no_text_is_counted_and_what_was_never_whole_is_removed(
    folder: Path,
) -> None:
    number = (3).to_bytes(8, sys.byteorder)
    write(folder / "a.rows", number + b"lat\xff")
    write(folder / "b.rows", b"")
    write(folder / "c.rows", number)
    assert Unstored(folder).collect() == {"lat\ufffd": 3}
    assert not list(folder.iterdir())


def test_a_file_that_could_not_be_made_is_removed_and_closed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = OSError(errno.ENOMEM, "Cannot allocate memory")
    monkeypatch.setattr(mmap, "mmap", mock.Mock(side_effect=refused))
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    assert Unstored(folder).open("late") is None
    assert len(list(Path("/proc/self/fd").iterdir())) == open_files
    assert not list(folder.iterdir())


def test_what_a_kill_left_of_a_file_that_was_being_made_is_removed(folder: Path) -> None:
    old, young = (write(folder / f"{name}.new", b"") for name in ("old", "young"))
    os.utime(old, (0, 0))
    assert Unstored(folder).collect() == {}
    assert list(folder.iterdir()) == [young]


class Down(MemoryObjects):
    """A store that takes nothing."""

    def put(self, key: str, content: bytes | Path) -> None:
        raise Unavailable(f"no store for {key}, {content!r:.20}")


class Refusing(MemoryObjects):
    """A store that wants nothing."""

    def put(self, key: str, content: bytes | Path) -> None:
        raise PermissionError(f"{key}, {content!r:.20}")


@pytest.mark.parametrize("objects", [Down(), Refusing()], ids=["down", "refusing"])
@pytest.mark.parametrize("last", [True, False], ids=["the process ends", "unloaded"])
def test_what_is_lost_at_the_end_is_counted_by_one_process(
    tmp_path: Path, folder: Path, objects: MemoryObjects, last: bool
) -> None:
    served = build_served(
        load_model(write_bundle(tmp_path / "b"), version="7", threads=1),
        ServingSettings(log={"flush_seconds": 600}),
        reader=MemoryOnline(MANIFEST.features.digest, AS_OF, {}),
        objects=objects,
        clock=FixedClock(NOW),
        unstored=Unstored(folder),
    )
    repository = Repository(lambda *_: served, drain_seconds=1)
    repository._adopt(served)
    body = json.dumps(request(FULL, 3)).encode()
    asyncio.run(served.inference.answer(lambda: rest.read(body, None), rest.write))
    if last:
        repository.close()
    else:
        served.finish(1)
    assert served.predictions.counts() == (0, 0 if last else 3)
    name = served.key[0]
    assert Unstored(folder).collect() == ({name: 3} if last else {})
    assert not list(folder.iterdir())
