"""Whatever stops an ingest, each partition is the old one or the new one; nothing is lost."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from tidemill.steps.ingest import ingest
from tidemill.steps.validate import validate
from tidemill.wiring import Project

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OLD, NEW = datetime(2013, 1, 20, tzinfo=UTC), datetime(2013, 2, 3, tzinfo=UTC)
MONTHS = ["2013-01", "2013-02"]
TABLES = {"flights", "weather"}

CHILD = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from sqlalchemy import event
from tidemill.wiring import Project
from tidemill.steps.ingest import ingest
from tidemill.steps.validate import validate

root, instant, last = Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2]), int(sys.argv[3])
project = Project.load(root)
project.source.read("flights", "2013-01", instant)
seen = 0

def step(*_):
    global seen
    seen += 1
    if seen == last:
        os.kill(os.getpid(), signal.SIGKILL)

def watch(name, args):
    writes = name == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
    if (writes or name in ("os.rename", "os.remove", "os.mkdir")) and str(root) in str(args[0]):
        step()

for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
    event.listen(project.store, name, step)
sys.addaudithook(watch)
months = ["2013-01", "2013-02"]
ingest(project.source, project.partitions, project.objects, months=months, as_of=instant)
validate(
    project.partitions, project.objects, project.contract,
    months=months, as_of=instant, folder=project.paths.raw,
)
print(seen)
"""


def run_child(root: Path, last: int = 0) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", CHILD, str(root), NEW.isoformat(), str(last)]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def run_here(root: Path, instant: datetime) -> None:
    project = Project.load(root)
    ingest(project.source, project.partitions, project.objects, months=MONTHS, as_of=instant)
    validate(
        project.partitions,
        project.objects,
        project.contract,
        months=MONTHS,
        as_of=instant,
        folder=project.paths.raw,
    ).require_valid()


def dataset(root: Path) -> dict[str, str]:
    folder = root / "data" / "raw"
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*.parquet")
    }


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that stands at the older instant."""
    root = tmp_path_factory.mktemp("old") / "project"
    shutil.copytree(ROOT / "configs", root / "configs")
    run_here(root, OLD)
    return root


@pytest.fixture(scope="module")
def undisturbed(old: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], int]:
    """Return the dataset at the newer instant and the number of steps to it."""
    root = shutil.copytree(old, tmp_path_factory.mktemp("new") / "project")
    done = run_child(root)
    assert done.returncode == 0, done.stderr
    return dataset(root), int(done.stdout)


@pytest.mark.parametrize("share", range(6))
def test_kill_9_leaves_the_old_or_the_new_partition(
    old: Path, undisturbed: tuple[dict[str, str], int], tmp_path: Path, share: int
) -> None:
    new, steps = undisturbed
    assert steps > 50
    before = dataset(old)
    assert set(before.items()) != set(new.items())
    root = shutil.copytree(old, tmp_path / "project")
    done = run_child(root, last=1 + share * (steps - 1) // 5)
    assert done.returncode == -signal.SIGKILL
    project = Project.load(root)
    for key in project.objects.list("raw/"):
        digest = hashlib.sha256(project.objects.get(key)).hexdigest()
        assert re.search(f"-{digest[:16]}", key), f"{key} is half an object"
    for table in TABLES:
        for month in MONTHS:
            for attempt in project.partitions.attempts(table, month):
                content = project.objects.get(attempt.key)
                assert hashlib.sha256(content).hexdigest() == attempt.content_digest
                assert pl.read_parquet(content).height == attempt.rows
    for name, digest in dataset(root).items():
        assert digest in (before.get(name), new.get(name)), f"{name} is half a partition"
    assert set(before) <= set(dataset(root))
    run_here(root, NEW)
    assert dataset(root) == new


def test_two_ingests_at_once_lose_nothing(
    old: Path, undisturbed: tuple[dict[str, str], int], tmp_path: Path
) -> None:
    root = shutil.copytree(old, tmp_path / "project")
    argv = [sys.executable, "-c", CHILD, str(root), NEW.isoformat(), "0"]
    children = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outcomes = [(child.communicate()[1], child.returncode) for child in children]
    for said, code in outcomes:
        assert code == 0 or "tidemill.errors.Conflict" in said, said
    assert any(code == 0 for _, code in outcomes)
    run_here(root, NEW)
    assert dataset(root) == undisturbed[0]
    attempts = Project.load(root).partitions.attempts("flights", "2013-01")
    assert [a.attempt for a in attempts] == [2, 1]


def full_disk(root: Path, limit: int, *command: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where no file may grow beyond `limit` bytes."""
    code = (
        "import resource, signal, sys\nfrom tidemill.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "main(sys.argv[1:])"
    )
    argv = [sys.executable, "-c", code, *command, "--project", str(root)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment())


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("TIDEMILL_")}


@pytest.mark.parametrize("limit", [200_000, 1_000])
def test_a_full_disk_is_named_and_loses_nothing(
    old: Path, undisturbed: tuple[dict[str, str], int], tmp_path: Path, limit: int
) -> None:
    root = shutil.copytree(old, tmp_path / "project")
    before = dataset(root)
    as_of = ("--as-of", NEW.isoformat(), "--from", "2013-01", "--to", "2013-02")
    done = full_disk(root, limit, "data", "ingest", *as_of)
    assert done.returncode == 1
    assert "tidemill: " in done.stderr
    assert re.search("cannot be (written|opened)|cannot (record|read)", done.stderr)
    assert "Traceback" not in done.stderr
    assert dataset(root) == before
    run_here(root, NEW)
    assert dataset(root) == undisturbed[0]
