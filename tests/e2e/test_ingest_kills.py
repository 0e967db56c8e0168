"""Killed at any effect, an ingest leaves each partition old or new, and the next completes."""

import hashlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
import yaml
from tests.ingest_deaths import MONTHS

from tidemill.ports.data import Partition
from tidemill.wiring import Project

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OLD, NEW = "2024-03-01T00:00:00+00:00", "2024-03-02T00:00:00+00:00"
DATA = {
    "source": {
        "type": "files",
        "url": "inbox",
        "tables": {"rides": {"path": "*.csv", "format": "csv", "timestamp": "at"}},
    },
    "contract": "configs/rides.yaml",
    "start": MONTHS[0],
    "end": MONTHS[-1],
}
COLUMNS = {
    "ride": {"dtype": "Int64"},
    "at": {"dtype": "Datetime"},
    "minutes": {"dtype": "Float64"},
}
CONTRACT = {"tables": {"rides": {"timestamp": "at", "key": ["ride"], "columns": COLUMNS}}}

Ingest = Callable[..., tuple[int, int]]
"""Root, instant, effect to die at: the exit code, and how many effects began."""


@pytest.fixture(scope="module")
def ingest() -> Iterator[Ingest]:
    argv = [sys.executable, "-m", "tests.ingest_deaths"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdin
        assert process.stdout

        def ask(root: Path, as_of: str, dies_at: int = 0) -> tuple[int, int]:
            print(root, as_of, dies_at, file=process.stdin, flush=True)
            code, begun = map(int, process.stdout.readline().split())
            return code, begun

        yield ask
        process.stdin.close()


def deliver(root: Path, minutes: float) -> None:
    """Put a file for each month into the project's inbox, over the one that is there."""
    for month in MONTHS:
        begin = datetime.fromisoformat(f"{month}-01")
        at = pl.datetime_range(begin, begin.replace(day=28), "1d", eager=True).alias("at")
        rides = at.to_frame().with_row_index("ride", begin.month * 100)
        rides.with_columns(minutes=pl.lit(minutes)).write_csv(root / "inbox" / f"{month}.csv")


def dataset(root: Path) -> dict[str, str]:
    """Return the digest of each partition of the dataset."""
    files = (root / "data" / "raw").rglob("*.parquet")
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def ledger(root: Path) -> dict[str, list[Partition]]:
    """Return each month's attempts, after a look at whether what they tell of is there, whole."""
    project = Project.load(root)
    for key in project.objects.list("raw/"):
        digest = hashlib.sha256(project.objects.get(key)).hexdigest()
        assert f"-{digest[:16]}." in key, f"{key} is half an object"
    found = {month: project.partitions.attempts("rides", month) for month in MONTHS}
    for attempt in (one for attempts in found.values() for one in attempts):
        content = project.objects.get(attempt.key)
        assert hashlib.sha256(content).hexdigest() == attempt.content_digest
    return found


def contents(attempts: list[Partition]) -> list[tuple[int, str, str]]:
    """Return what matters of a month's attempts, the status aside: another step gives that."""
    return [(one.attempt, one.as_of.isoformat(), one.content_digest) for one in attempts]


def test_killed_before_any_effect_each_partition_is_old_or_new(
    ingest: Ingest, tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(ROOT / "configs", old / "configs")
    reference = yaml.safe_load((old / "configs" / "base.yaml").read_text())
    (old / "configs" / "base.yaml").write_text(yaml.safe_dump(reference | {"data": DATA}))
    (old / "configs" / "rides.yaml").write_text(yaml.safe_dump(CONTRACT))
    (old / "inbox").mkdir()
    deliver(old, minutes=5)
    assert ingest(old, OLD)[0] == 0
    deliver(old, minutes=6)
    clean = shutil.copytree(old, tmp_path / "clean")
    code, effects = ingest(clean, NEW)
    assert code == 0
    before, after = dataset(old), dataset(clean)
    known, wanted = ledger(old), ledger(clean)
    assert before.keys() == after.keys() == set(MONTHS)
    assert all(before[month] != after[month] for month in MONTHS)

    held, recorded = set(), set()
    for dies_at in range(1, effects + 1):
        root = shutil.copytree(old, tmp_path / "killed")
        assert ingest(root, NEW, dies_at) == (-signal.SIGKILL, dies_at)
        left, told = dataset(root), ledger(root)
        for month in MONTHS:
            assert left[month] in (before[month], after[month]), f"half at effect {dies_at}"
            both = contents(known[month]), contents(wanted[month])
            assert contents(told[month]) in both, f"the ledger is neither at effect {dies_at}"
        held.add(tuple(left[month] == after[month] for month in MONTHS))
        recorded.add(tuple(len(told[month]) for month in MONTHS))
        assert ingest(root, NEW)[0] == 0, f"nothing completes what died at effect {dies_at}"
        assert dataset(root) == after
        assert ledger(root) == wanted
        shutil.rmtree(root)
    assert held == {(False, False), (True, False), (True, True)}
    assert recorded == {(1, 1), (2, 1), (2, 2)}
