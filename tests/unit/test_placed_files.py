"""A file or folder is replaced whole or not at all, whatever stops the writer."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.full_disk import files_end_at

from tidemill.errors import Unavailable
from tidemill.files import place, placing, restore, swap

KILL = """
import os, signal, sys
from pathlib import Path
from tidemill.files import place, swap

what, root, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
seen = 0

def watch(name, args):
    global seen
    writes = name == "open" and isinstance(args[2], int) and args[2] & os.O_WRONLY
    if (writes or name in ("os.rename", "shutil.rmtree")) and str(root) in str(args[0]):
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
if what == "place":
    place(root / "file", b"new")
else:
    swap(root / "fresh", root / "folder")
print(seen)
"""


def run(what: str, root: Path, last: int) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", KILL, what, str(root), str(last)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def folders(root: Path) -> Path:
    for name in ("folder", "fresh"):
        (root / name).mkdir(parents=True)
        (root / name / "content").write_text({"folder": "old", "fresh": "new"}[name])
    return root / "folder"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_placed_with_its_folder(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "a" / "b" / "file"
    for content in (b"one", b""):
        assert place(path, content, durable=durable) == path
        assert path.read_bytes() == content
    assert names(path.parent) == ["file"]


def test_without_room_the_old_file_stays_and_the_error_names_it(tmp_path: Path) -> None:
    path = place(tmp_path / "file", b"old")
    with (
        files_end_at(10),
        pytest.raises(Unavailable, match=rf"{re.escape(str(path))} cannot be written: File too"),
    ):
        place(path, b"x" * 100)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_filled_stays_what_it_was(tmp_path: Path) -> None:
    folder = folders(tmp_path)
    with (
        files_end_at(10),
        pytest.raises(Unavailable, match=rf"{re.escape(str(folder))} cannot be written: File too"),
        placing(folder) as fresh,
    ):
        (fresh / "content").write_text("x" * 100)
    assert (folder / "content").read_text() == "old"
    assert names(tmp_path) == ["folder", "fresh"]
    with placing(folder) as fresh:
        (fresh / "other").write_text("newest")
    assert names(folder) == ["other"]
    assert names(tmp_path) == ["folder", "fresh"]


def test_kill_9_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    steps = int(run("place", tmp_path, 0).stdout)
    assert steps == 2
    for last in range(1, steps + 1):
        path = place(tmp_path / str(last) / "file", b"old")
        assert run("place", path.parent, last).returncode == -signal.SIGKILL
        assert path.read_bytes() == b"old"


def test_a_swap_that_was_killed_is_healed(tmp_path: Path) -> None:
    whole = folders(tmp_path / "whole")
    steps = int(run("swap", whole.parent, 0).stdout)
    assert steps >= 3
    assert (whole / "content").read_text() == "new"
    assert names(whole.parent) == ["folder"]
    gone = set()
    for last in range(1, steps + 1):
        folder = folders(tmp_path / str(last))
        assert run("swap", folder.parent, last).returncode == -signal.SIGKILL
        gone.add(folder.exists())
        restore(folder)
        assert (folder / "content").read_text() in ("old", "new")
        fresh = folder.with_name("again")
        fresh.mkdir()
        swap(fresh, folder)
        assert names(folder) == []
        assert set(names(folder.parent)) <= {"folder", "fresh"}
    assert gone == {True, False}, "one kill must fall between the two renames"


def test_there_is_nothing_to_heal_in_a_folder_that_is_there(tmp_path: Path) -> None:
    folder = folders(tmp_path)
    (tmp_path / ".folder.old").mkdir()
    restore(folder)
    assert (folder / "content").read_text() == "old"
    restore(tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_swap_that_fails_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    place(folder / "file", b"old")
    with pytest.raises(FileNotFoundError):
        swap(tmp_path / "nothing", folder)
    assert (folder / "file").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [folder]


def test_what_a_killed_swap_left_beside_the_new_folder_never_comes_back(tmp_path: Path) -> None:
    folder, old = tmp_path / "folder", tmp_path / ".folder.old"
    place(folder / "file", b"new")
    place(old / "file", b"old")
    restore(folder)
    (folder / "file").unlink()
    folder.rmdir()
    restore(folder)
    assert not list(tmp_path.iterdir())
