"""A folder of objects: whole or not at all, and nothing outside the folder."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.adapters.objects import FolderStore
from tidemill.errors import NotFound, UsageError


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


def test_what_was_put_is_found(store: FolderStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"from a file")
    url = store.put("a/b/one", b"1")
    store.put("a/two", tmp_path / "file")
    assert Path(url.removeprefix("file://")).read_bytes() == b"1"
    assert store.get("a/two") == b"from a file"
    assert store.list("a/") == ["a/b/one", "a/two"]
    assert store.list("a/t") == ["a/two"]
    assert store.list("") == ["a/b/one", "a/two"]
    assert store.list("z/") == []


def test_a_put_replaces_whole(store: FolderStore) -> None:
    store.put("key", b"old and long")
    store.put("key", b"new")
    assert store.get("key") == b"new"
    assert store.list("") == ["key"]


def test_stamps_follow_the_content(store: FolderStore) -> None:
    store.put("a", b"1")
    before = store.stamps("")
    os.utime(Path(store.put("a", b"1").removeprefix("file://")), (0, 0))
    assert store.stamps("") == before
    store.put("a", b"2")
    assert store.stamps("") != before


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x"])
def test_keys_stay_inside(store: FolderStore, key: str) -> None:
    with pytest.raises(UsageError, match="is no key"):
        store.put(key, b"")


@pytest.mark.parametrize("key", ["nothing", "folder", "folder/file/below"])
def test_an_unknown_key_is_named(store: FolderStore, key: str) -> None:
    store.put("folder/file", b"")
    with pytest.raises(NotFound, match=f"no object '{key}'"):
        store.get(key)


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from tidemill.adapters.objects import FolderStore
from tidemill.errors import Unavailable
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    FolderStore(Path(sys.argv[1])).put("key", b"x" * 20_000)
except Unavailable as error:
    sys.exit(str(error))
"""


def test_a_full_disk_leaves_the_old_object(store: FolderStore, tmp_path: Path) -> None:
    store.put("key", b"old")
    child = [sys.executable, "-c", FULL_DISK, str(tmp_path / "objects")]
    done = subprocess.run(child, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'key' (20,000 bytes) cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert store.get("key") == b"old"
    assert [p.name for p in (tmp_path / "objects").iterdir()] == ["key"]


ENDLESS = """
import sys
from pathlib import Path
from tidemill.adapters.objects import FolderStore
store = FolderStore(Path(sys.argv[1]))
print("go", flush=True)
while True:
    for letter in (b"a", b"b"):
        store.put("key", letter * 300_000)
"""


def test_a_killed_writer_leaves_a_whole_object(store: FolderStore, tmp_path: Path) -> None:
    for _ in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path / "objects")], stdout=subprocess.PIPE
        )
        assert child.stdout
        child.stdout.readline()
        while not store.list("key"):
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        content = store.get("key")
        assert content in (b"a" * 300_000, b"b" * 300_000)
        assert store.list("") == ["key"]
