"""What is loaded of a repository takes a bounded memory, however many versions that are."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
from tests.server_shelf import Shelf, code_of

from tidemill.errors import Unavailable
from tidemill.server.folder import FILE_FACTOR, FIXED_BYTES, weigh

Key = tuple[str, str]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path / "models")
    for name in ("late", "taxi"):
        for version in ("1", "2"):
            made.put(name, version)
    return made


def add_weight(shelf: Shelf, name: str, version: str, megabytes: int) -> None:
    (shelf.folder / name / version / "ballast").write_bytes(bytes(megabytes * 10**6))


def loaded(shelf: Shelf) -> set[Key]:
    return {served.key for served in shelf.models}


def test_a_version_weighs_its_files_and_what_every_version_takes(shelf: Shelf) -> None:
    bundle = shelf.folder / "late/1"
    before = weigh(bundle)
    add_weight(shelf, "late", "1", 3)
    assert weigh(bundle) - before == FILE_FACTOR * 3 * 10**6
    assert before > FIXED_BYTES
    assert weigh(shelf.folder / "gone") == FIXED_BYTES


def test_a_large_version_takes_the_place_of_several_small_ones(shelf: Shelf) -> None:
    add_weight(shelf, "late", "2", 2)  # some 9 MB
    shelf.open(model_memory_mb=14).fill()
    assert loaded(shelf) == {("late", "2"), ("taxi", "2")}
    assert shelf.run(lambda: shelf.infer("taxi", "1")).status == 200
    assert loaded(shelf) == {("taxi", "2"), ("taxi", "1")}  # the large one was used least recently
    assert shelf.run(lambda: shelf.infer("late", "1")).status == 200
    assert loaded(shelf) == {("taxi", "2"), ("taxi", "1"), ("late", "1")}
    assert shelf.run(lambda: shelf.infer("late", "2")).status == 200
    assert loaded(shelf) == {("late", "1"), ("late", "2")}  # two small ones had to go


def test_files_that_are_replaced_while_they_are_served_count_as_they_were_loaded(
    shelf: Shelf,
) -> None:
    shelf.open(model_memory_mb=9).fill()
    assert loaded(shelf) == {("late", "2"), ("taxi", "2")}
    add_weight(shelf, "taxi", "2", 50)
    assert shelf.run(lambda: shelf.infer("taxi", "1")).status == 200
    assert loaded(shelf) == {("taxi", "2"), ("taxi", "1")}


def test_a_version_that_alone_is_too_large_is_refused_with_the_reason(shelf: Shelf) -> None:
    add_weight(shelf, "late", "2", 4)
    with structlog.testing.capture_logs() as lines:
        shelf.open(model_memory_mb=9, fallback=[]).fill()
    (reason,) = [line["reason"] for line in lines if line["event"] == "model not loaded"]
    assert reason == "it takes some 14 MB, more than serving.model_memory_mb"
    assert loaded(shelf) == {("taxi", "2"), ("late", "1")}
    answer = shelf.run(lambda: shelf.infer("late", "2"))
    assert code_of(answer) == (503, "not_loaded")
    assert loaded(shelf) == {("taxi", "2"), ("late", "1")}  # nothing had to go for it


def test_rows_that_a_version_lost_are_still_counted_when_it_is_gone(shelf: Shelf) -> None:
    shelf.open(log={"buffer_rows": 2, "flush_rows": 2}, drain_seconds=1).fill()
    shelf.objects.failure = Unavailable("the store is away")

    async def talk() -> tuple[float, float]:
        for _ in range(3):
            await shelf.infer("late", "2")
        lost = await shelf.metric("tidemill_log_lost_total", model="late", version="2")
        shelf.models._drain_seconds = 0.2
        await shelf.order("unload", "late", "2")
        return lost, await shelf.metric("tidemill_log_lost_unloaded_total", model="late")

    assert shelf.run(talk) == (1, 3)  # one found no room, two were never stored
