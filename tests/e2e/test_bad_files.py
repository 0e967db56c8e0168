"""A disk that is full and a file that is cut: each is named, and no good file is lost."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
from tests import full_disk
from tests.full_disk import Attempt, Outcome

from tidemill.cli import main

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SMALL = {
    "data.end": "2013-01",
    "features.step_minutes": "360",
    "training.epochs": "1",
    "training.folds": "2",
    "training.validation_days": "5",
    "training.test_days": "7",
    "training.threads": "1",
    "export.parity_rows": "5000",
    "registry.uri": "http://127.0.0.1:9",
}
"""Seconds instead of minutes; nobody listens at port 9, so no champion is known."""
SETTINGS = tuple(word for key, value in SMALL.items() for word in ("--set", f"{key}={value}"))
AS_OF = ("--as-of", "2013-01-30T00:00:00+00:00")
VERBS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "ingest": (("data", "ingest", *AS_OF), ("ingest.json",)),
    "validate": (("data", "validate", *AS_OF), ("validation.json", "validation.html")),
    "publish": (("data", "publish"), ("raw",)),
    "build": (("features", "build", *AS_OF), ("features",)),
    "join": (("features", "join", *AS_OF), ("training_set.parquet",)),
    "train": (("model", "train", *AS_OF), ("model/trained", "model/baselines")),
    "export": (("model", "export"), ("model/exported",)),
    "evaluate": (("model", "evaluate"), ("model/evaluated",)),
    "gate": (("model", "gate", "--force", "a test"), ("model/gated",)),
    "package": (("model", "package"), ("model/bundle",)),
}
"""Name → command, and what it writes below data/ (or copies, of `publish`), in their order."""


def tidemill(root: Path, *words: str) -> tuple[int, str]:
    """Run the command line in this process; return its exit code and what it said."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            main(["--project", str(root), *words, *SETTINGS])
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project in which every step has written its files."""
    root = tmp_path_factory.mktemp("made") / "project"
    for folder in ("configs", "feature_repo"):
        shutil.copytree(ROOT / folder, root / folder)
    for words, _ in VERBS.values():
        code, said = tidemill(root, *words)
        assert code == 0, said
    return root


FULL = "No space left on device|database or disk is full|disk I/O error"
"""What the system says, and SQLite, the last without room for its shared index."""


def size(path: Path) -> int:
    return sum(p.stat().st_size for p in (path, *path.rglob("*")) if p.is_file())


@pytest.fixture(scope="module")
def outcomes(
    made: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, bool], Outcome]:
    """Return how each command ended without any room, and with room for half of what it writes."""
    full_disk.skip_unless_possible()
    attempts = {
        (name, some): Attempt(
            (*words, *SETTINGS), some * sum(size(made / "data" / path) for path in written) // 2
        )
        for name, (words, written) in VERBS.items()
        for some in (False, True)
    }
    place = tmp_path_factory.mktemp("full")
    found = full_disk.try_all(made, list(attempts.values()), place)
    return dict(zip(attempts, found, strict=True))


@pytest.mark.parametrize("some", [False, True], ids=["no-room", "some-room"])
@pytest.mark.parametrize("name", VERBS)
def test_a_full_disk_is_named_and_takes_no_good_file(
    outcomes: dict[tuple[str, bool], Outcome], name: str, some: bool
) -> None:
    outcome = outcomes[name, some]
    assert "Traceback" not in outcome.said
    assert outcome.code == 1, outcome.said
    assert re.search(FULL, outcome.said), outcome.said
    assert re.search(r"project/(data|\.tidemill)/?\S* ", outcome.said), outcome.said
    assert outcome.changed == ()
    assert set(outcome.left) <= {"data/model/trained/checkpoint.pt"}


BROKEN = {
    "raw/flights/2013-01.parquet": "build",
    "features/spine.parquet": "join",
    "features/carrier_delay.parquet": "join",
    "training_set.parquet": "export",
    "version.json": "export",
    "model/trained/training.json": "export",
    "model/trained/model.pt": "export",
    "model/trained/oof.parquet": "package",
    "model/baselines/baselines.parquet": "evaluate",
    "model/exported/model.onnx": "evaluate",
    "model/exported/parity.json": "evaluate",
    "model/evaluated/evaluation.json": "gate",
    "model/evaluated/scores.parquet": "gate",
    "model/gated/evidence.json": "package",
}
"""File below data/ → a command that reads it."""
WRITERS = (
    "data validate|data publish|features build|features join|model (train|export|evaluate|gate)"
)


@pytest.mark.parametrize("file", BROKEN)
def test_a_truncated_file_is_named_with_the_command_that_writes_it(made: Path, file: str) -> None:
    path = made / "data" / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    try:
        code, said = tidemill(made, *VERBS[BROKEN[file]][0])
    finally:
        path.write_bytes(content)
    assert code == 1, said
    error = said[said.index("tidemill: ") :]
    assert path.name in error.partition("→")[0]
    assert str(path.parent) in error.partition("→")[0]
    assert re.search(f"tidemill ({WRITERS})|training step", error.partition("→")[2]), error


def test_a_truncated_checkpoint_is_named(made: Path) -> None:
    checkpoint = made / "data" / "model" / "trained" / "checkpoint.pt"
    checkpoint.write_bytes((checkpoint.parent / "model.pt").read_bytes()[:1000])
    try:
        code, said = tidemill(made, *VERBS["train"][0])
    finally:
        checkpoint.unlink()
    assert code == 1
    assert f"{checkpoint} cannot be read" in said
    assert f"rm {checkpoint}" in said
