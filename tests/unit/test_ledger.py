"""The promotion ledger: the chain, the registry held against it, many writers at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, text, update

from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.ledger import StoredLedger
from tidemill.adapters.store.tables import ledger as rows
from tidemill.domain.ledger import Entry, Record, broken, chain, disagreements, newest
from tidemill.errors import Conflict, NotFound, Unavailable
from tidemill.ports.registry import ModelVersion
from tidemill.steps.promote import promote, settle, settle_all
from tidemill.testing.clock import FixedClock
from tidemill.testing.ledger import MemoryLedger
from tidemill.testing.registry import MemoryRegistry

TEXT = st.text(max_size=12)
RECORDS = st.lists(
    st.builds(
        Record,
        at=TEXT,
        action=st.sampled_from(["registered", "moving", "moved", "rejected"]),
        model=TEXT,
        version=TEXT,
        alias=TEXT,
        who=TEXT,
        why=TEXT,
        evidence=TEXT,
        correlation=TEXT,
    ),
    min_size=2,
    max_size=7,
)


def chained(records: list[Record]) -> list[Entry]:
    entries: list[Entry] = []
    for record in records:
        entries.append(chain(record, entries[-1] if entries else None))
    return entries


@given(RECORDS)
def test_an_untouched_chain_holds(records: list[Record]) -> None:
    assert broken(chained(records)) == []


@given(RECORDS, st.data())
def test_an_edited_row_is_found_whichever_column(
    records: list[Record], data: st.DataObject
) -> None:
    entries = chained(records)
    at = data.draw(st.integers(0, len(entries) - 1))
    column = data.draw(st.sampled_from([f for f in Record.__dataclass_fields__ if f != "action"]))
    entries[at] = replace(entries[at], **{column: getattr(entries[at], column) + "x"})
    assert broken(entries) == [f"entry {at + 1} was edited: its content does not have its hash"]


@given(RECORDS, st.data())
def test_a_deleted_row_is_found(records: list[Record], data: st.DataObject) -> None:
    entries = chained(records)
    del entries[data.draw(st.integers(0, len(entries) - 2))]
    assert broken(entries)


@given(RECORDS, st.data())
def test_reordered_rows_are_found(records: list[Record], data: st.DataObject) -> None:
    entries = chained(records)
    at = data.draw(st.integers(0, len(entries) - 2))
    entries[at], entries[at + 1] = entries[at + 1], entries[at]
    assert broken(entries)


@given(RECORDS, st.data())
def test_swapped_contents_with_new_hashes_are_found(
    records: list[Record], data: st.DataObject
) -> None:
    """Whoever can hash can forge one row, but not without every later one."""
    entries = chained(records)
    at = data.draw(st.integers(0, len(entries) - 2))
    forged = replace(records[at], who=records[at].who + "x")
    entries[at] = chain(forged, entries[at - 1] if at else None)
    assert f"entry {at + 2} does not continue entry {at + 1}: one was replaced" in broken(entries)


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryLedger | StoredLedger]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    engine = open_store(store_url(request, tmp_path))
    yield StoredLedger(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return store_url(request, tmp_path)


def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    found: str = request.getfixturevalue("postgres_url")
    engine = open_store(found)
    with engine.begin() as connection:
        connection.execute(delete(rows))
    engine.dispose()
    return found


CLOCK = FixedClock(datetime(2013, 4, 1, tzinfo=UTC))


def record(version: str, alias: str = "", action: str = "registered") -> Record:
    return Record(
        at="2013-04-01T00:00:00+00:00",
        action=action,  # type: ignore[arg-type]
        model="flight-delay",
        version=version,
        alias=alias,
        who="ann",
        why="gates passed",
    )


def test_what_was_appended_comes_back_in_order(ledger: MemoryLedger | StoredLedger) -> None:
    first = ledger.append(record("1"))
    second = ledger.append(record("2"), after=first)
    assert ledger.entries() == [first, second]
    assert broken(ledger.entries()) == []
    with pytest.raises(Conflict, match="entry 1 is no longer the end"):
        ledger.append(record("3"), after=first)


APPEND = """
import sys
from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.ledger import StoredLedger
from tidemill.domain.ledger import Record
ledger = StoredLedger(open_store(sys.argv[1]))
for n in range(20):
    ledger.append(Record(at="now", action="registered", model=sys.argv[2], version=str(n),
                         who="w", why="y"))
"""


def test_processes_that_append_at_once_make_one_chain(url: str) -> None:
    open_store(url).dispose()
    writers = [subprocess.Popen([sys.executable, "-c", APPEND, url, f"m{n}"]) for n in range(4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0, 0]
    engine = open_store(url)
    entries = StoredLedger(engine).entries()
    engine.dispose()
    assert broken(entries) == []
    assert [e.seq for e in entries] == list(range(1, 81))
    for n in range(4):
        assert [e.version for e in entries if e.model == f"m{n}"] == [str(v) for v in range(20)]


def test_a_row_edited_or_deleted_in_the_database_is_found(url: str) -> None:
    engine = open_store(url)
    ledger = StoredLedger(engine)
    for version in ("1", "2", "3"):
        ledger.append(record(version))
    with engine.begin() as connection:
        connection.execute(update(rows).where(rows.c.seq == 2).values(why="no reason"))
    assert broken(ledger.entries()) == ["entry 2 was edited: its content does not have its hash"]
    with engine.begin() as connection:
        connection.execute(delete(rows).where(rows.c.seq == 2))
    assert broken(ledger.entries()) == ["entry 3 follows entry 1: entries are missing or moved"]
    engine.dispose()


def test_a_store_that_is_gone_is_unavailable(tmp_path: Path) -> None:
    engine = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE ledger"))
    with pytest.raises(Unavailable, match="no such table"):
        StoredLedger(engine).entries()
    engine.dispose()


# --- moving aliases -------------------------------------------------------------------------------


def version(number: str) -> ModelVersion:
    return ModelVersion("flight-delay", number, f"sha256:{number}")


@pytest.fixture
def registry(tmp_path: Path) -> MemoryRegistry:
    return MemoryRegistry(tmp_path / "registry")


def move(number: str, ledger: object, aliases: object, correlation: str = "") -> Entry:
    return promote(
        version(number),
        "champion",
        aliases=aliases,  # type: ignore[arg-type]
        ledger=ledger,  # type: ignore[arg-type]
        clock=CLOCK,
        who="rollout",
        why="canary passed",
        correlation=correlation,
    )


def differences(ledger: MemoryLedger | StoredLedger, registry: MemoryRegistry) -> list[str]:
    held = {"flight-delay": registry.aliases("flight-delay")}
    moves = [e for e in ledger.entries() if e.action != "registered"]
    return disagreements(moves, {}, held)


def test_a_promotion_is_intended_done_and_confirmed(registry: MemoryRegistry) -> None:
    ledger = MemoryLedger()
    entry = move("1", ledger, registry)
    assert [e.action for e in ledger.entries()] == ["moving", "moved"]
    assert entry == ledger.entries()[-1]
    assert registry.aliases("flight-delay") == {"champion": "1"}
    assert differences(ledger, registry) == []


def test_the_same_promotion_twice_is_one(registry: MemoryRegistry) -> None:
    ledger = MemoryLedger()
    first = move("1", ledger, registry, "attempt-7")
    assert move("1", ledger, registry, "attempt-7") == first
    assert [e.action for e in ledger.entries()] == ["moving", "moved"]


class Dying(Exception):
    """The process ends here."""


class Crashing:
    """Aliases that end the process before or after the registry was told."""

    def __init__(self, inner: MemoryRegistry, done: bool) -> None:
        self.inner = inner
        self.done = done

    def set_alias(self, name: str, alias: str, version: str) -> None:
        if self.done:
            self.inner.set_alias(name, alias, version)
        raise Dying

    def aliases(self, name: str) -> dict[str, str]:
        return self.inner.aliases(name)


@pytest.mark.parametrize("done", [False, True])
def test_a_promotion_that_a_crash_interrupted_is_found_and_finished(
    done: bool, registry: MemoryRegistry
) -> None:
    ledger = MemoryLedger()
    move("1", ledger, registry)
    with pytest.raises(Dying):
        move("2", ledger, Crashing(registry, done))
    (problem,) = differences(ledger, registry)
    assert "its move to version 2 (entry 3) was begun and not finished" in problem
    (finished,) = settle_all(aliases=registry, ledger=ledger, clock=CLOCK)
    assert (finished.action, finished.version) == ("moved", "2")
    assert registry.aliases("flight-delay") == {"champion": "2"}
    assert differences(ledger, registry) == []
    assert settle_all(aliases=registry, ledger=ledger, clock=CLOCK) == []


class Overtaken:
    """Aliases during whose first call somebody else promotes version 9, from intent to end."""

    def __init__(self, inner: MemoryRegistry, ledger: MemoryLedger, before: bool) -> None:
        self.inner, self.ledger, self.before, self.calls = inner, ledger, before, 0

    def set_alias(self, name: str, alias: str, version: str) -> None:
        self.calls += 1
        if self.calls > 1:
            self.inner.set_alias(name, alias, version)
            return
        if not self.before:
            self.inner.set_alias(name, alias, version)
        self.ledger.append(record("9", "champion", "moving"))
        settle(name, alias, aliases=self.inner, ledger=self.ledger, clock=CLOCK)
        if self.before:
            self.inner.set_alias(name, alias, version)

    def aliases(self, name: str) -> dict[str, str]:
        return self.inner.aliases(name)


@pytest.mark.parametrize("before", [False, True])
def test_of_two_promotions_at_once_the_later_intent_holds(
    before: bool, registry: MemoryRegistry
) -> None:
    ledger = MemoryLedger()
    move("2", ledger, Overtaken(registry, ledger, before))
    assert registry.aliases("flight-delay") == {"champion": "9"}
    assert differences(ledger, registry) == []


def test_an_alias_moved_by_hand_is_found(registry: MemoryRegistry) -> None:
    ledger = MemoryLedger()
    move("1", ledger, registry)
    registry.set_alias("flight-delay", "champion", "2")
    registry.set_alias("flight-delay", "shadow", "2")
    moved, unknown = differences(ledger, registry)
    assert moved == (
        "flight-delay@champion is at version 2, the ledger moved it to version 1 (entry 2): "
        "it was moved by hand"
    )
    assert "flight-delay@shadow is at version 2 and the ledger never set it" in unknown
    registry.held.clear()
    assert "flight-delay@champion is not set" in differences(ledger, registry)[0]


def test_versions_are_held_against_the_ledger() -> None:
    entries = chained([record("1"), record("2")])
    assert disagreements(entries, {"flight-delay": ["1", "2"]}, {}) == []
    assert disagreements(entries[:1], {"flight-delay": ["1", "2"]}, {}) == [
        "flight-delay/2 is in the registry and the ledger does not know it"
    ]
    assert disagreements(entries, {"flight-delay": ["1"]}, {}) == [
        "flight-delay/2 is in the ledger and no longer in the registry"
    ]


def test_an_alias_that_was_never_moved_cannot_be_settled(registry: MemoryRegistry) -> None:
    assert newest([], "flight-delay", "champion") is None
    with pytest.raises(NotFound):
        settle("flight-delay", "champion", aliases=registry, ledger=MemoryLedger(), clock=CLOCK)
