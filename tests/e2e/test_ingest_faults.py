"""Whatever stops an ingest, each partition is the old one or the new one; nothing is lost."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tidemill.steps.ingest import ingest
from tidemill.steps.validate import validate
from tidemill.wiring import Project

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
OLD, NEW = datetime(2013, 1, 20, tzinfo=UTC), datetime(2013, 2, 3, tzinfo=UTC)
MONTHS = ["2013-01", "2013-02"]

CHILD = """
import sys
from datetime import datetime
from pathlib import Path
from tidemill.wiring import Project
from tidemill.steps.ingest import ingest

project, instant = Project.load(Path(sys.argv[1])), datetime.fromisoformat(sys.argv[2])
months = ["2013-01", "2013-02"]
ingest(project.source, project.partitions, project.objects, months=months, as_of=instant)
"""


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
def new(old: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the dataset at the newer instant."""
    root = shutil.copytree(old, tmp_path_factory.mktemp("new") / "project")
    run_here(root, NEW)
    return dataset(root)


def test_two_ingests_at_once_lose_nothing(old: Path, new: dict[str, str], tmp_path: Path) -> None:
    root = shutil.copytree(old, tmp_path / "project")
    argv = [sys.executable, "-c", CHILD, str(root), NEW.isoformat()]
    children = [subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    outcomes = [(child.communicate()[1], child.returncode) for child in children]
    for said, code in outcomes:
        assert code == 0 or "tidemill.errors.Conflict" in said, said
    assert any(code == 0 for _, code in outcomes)
    run_here(root, NEW)
    assert dataset(root) == new
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
    old: Path, new: dict[str, str], tmp_path: Path, limit: int
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
    assert dataset(root) == new
