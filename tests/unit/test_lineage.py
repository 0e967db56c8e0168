"""What `tidemill lineage` looks back from: every id of a version that is seen elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.bundle import revision
from tidemill.errors import NotFound
from tidemill.ports.registry import ModelVersion
from tidemill.steps.lineage import versions
from tidemill.testing.registry import MemoryRegistry

COMMIT = "c" * 40
DIRTY = f"{COMMIT}-dirty"
RUN = "training-20130401-060000-0a1b"


def version(number: str, **tags: str) -> ModelVersion:
    digest = "sha256:" + number * 64
    return ModelVersion("m", number, digest, tags={**tags, "digest": digest})


@pytest.fixture
def registry(tmp_path: Path) -> MemoryRegistry:
    kept = [
        version("1", git_commit=COMMIT, run_id="a" * 32, correlation=RUN),
        version("2", git_commit=DIRTY, run_id="b" * 32, correlation="inc-0123abcd"),
        version("3", git_commit="d" * 40, run_id="e" * 32, correlation="req-0123abcd"),
    ]
    return MemoryRegistry(tmp_path, kept)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (COMMIT, {"1", "2"}),
        (DIRTY, {"2"}),
        ("d" * 40, {"3"}),
        ("b" * 32, {"2"}),
        (RUN, {"1"}),
        ("inc-0123abcd", {"2"}),
        ("req-0123abcd", {"3"}),
        (revision("sha256:" + "3" * 64), {"3"}),
        ("m", {"3"}),
        ("m/1", {"1"}),
    ],
)
def test_a_version_is_found_by_its_names_and_by_every_id_it_came_from(
    registry: MemoryRegistry, target: str, found: set[str]
) -> None:
    assert {v.version for v in versions(target, registry, registry)} == found


@pytest.mark.parametrize(
    "target", ["e" * 40, f"{'d' * 40}-dirty", "e" * 10, "inc-ffffffff", f"{RUN[:-4]}ffff"]
)
def test_an_id_that_nothing_came_from_is_not_taken_for_a_name(
    registry: MemoryRegistry, target: str
) -> None:
    with pytest.raises(NotFound, match="no registered model came from"):
        versions(target, registry, registry)
