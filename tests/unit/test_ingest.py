"""Ingest changes nothing twice, keeps every version, and loses nothing to a bad partition."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import Conflict, DataError
from tidemill.ports.data import Partition
from tidemill.steps.formats import to_parquet
from tidemill.steps.ingest import ingest
from tidemill.testing.data import MemoryPartitions, MemorySource
from tidemill.testing.objects import MemoryObjects

START = datetime(2013, 1, 10, tzinfo=UTC)


def frame(*values: int) -> pl.DataFrame:
    return pl.DataFrame({"value": list(values)}, schema={"value": pl.Int64})


class Bench:
    """A source, a ledger and an object store to ingest between."""

    def __init__(self) -> None:
        self.source, self.ledger, self.objects = MemorySource(), MemoryPartitions(), MemoryObjects()
        self.source.deliver("events", "2013-01", START, frame(1))

    def ingest(self, as_of: datetime = START, *, again: bool = False) -> list[tuple[str, int]]:
        done = ingest(
            self.source,
            self.ledger,
            self.objects,
            months=["2013-01", "2013-02"],
            as_of=as_of,
            again=again,
        )
        return [(one.outcome, one.partition.attempt) for one in done]

    def stored(self, partition: Partition) -> pl.DataFrame:
        return pl.read_parquet(self.objects.get(partition.key))


def test_the_second_time_nothing_changes() -> None:
    bench = Bench()
    assert bench.ingest() == [("recorded", 1)]
    before = dict(bench.objects.kept)
    assert bench.ingest(START + timedelta(days=5)) == [("unchanged", 1)]
    assert bench.objects.kept == before


def test_a_correction_is_a_new_attempt_and_the_old_object_stays() -> None:
    bench = Bench()
    bench.ingest()
    later = START + timedelta(days=1)
    bench.source.deliver("events", "2013-01", later, frame(1, 2))
    assert bench.ingest(later) == [("recorded", 2)]
    newest, oldest = bench.ledger.attempts("events", "2013-01")
    assert bench.stored(newest).equals(frame(1, 2))
    assert bench.stored(oldest).equals(frame(1))


def test_a_run_for_an_earlier_instant_reads_what_was_known_then() -> None:
    bench = Bench()
    later = START + timedelta(days=1)
    bench.source.deliver("events", "2013-01", later, frame(1, 2))
    assert bench.ingest(later) == [("recorded", 1)]
    assert bench.ingest(START) == [("recorded", 2)]
    assert bench.ingest(later) == [("unchanged", 1)]
    assert [a.attempt for a in bench.ledger.attempts("events", "2013-01")] == [1, 2]


def test_months_that_have_not_begun_are_skipped() -> None:
    bench = Bench()
    bench.source.deliver("events", "2013-02", START, frame(9))
    assert len(bench.ingest(START)) == 1
    assert len(bench.ingest(datetime(2013, 2, 1, tzinfo=UTC))) == 2


def test_reading_again_restores_a_lost_object() -> None:
    bench = Bench()
    bench.ingest()
    before = dict(bench.objects.kept)
    bench.objects.kept.clear()
    assert bench.ingest(again=True) == [("recorded", 2)]
    assert bench.objects.kept == before


def test_a_partition_that_cannot_be_read_hides_no_other() -> None:
    class Torn(MemorySource):
        def read(self, table: str, period: str, as_of: datetime) -> pl.DataFrame:
            if table == "torn":
                raise DataError("torn.parquet is truncated")
            return super().read(table, period, as_of)

        def digest(self, table: str, period: str, as_of: datetime) -> str:
            return f"{table}{period}"

    bench = Bench()
    bench.source = Torn()
    for table in ("torn", "whole"):
        bench.source.deliver(table, "2013-01", START, frame(1))
    with pytest.raises(
        DataError, match=r"1 of 2 .*\n.*torn 2013-01: torn.parquet is truncated"
    ) as e:
        ingest(bench.source, bench.ledger, bench.objects, months=["2013-01"], as_of=START)
    assert "the others are ingested" in e.value.hint
    assert len(bench.ledger.attempts("whole", "2013-01")) == 1


class Crowded(MemoryPartitions):
    """A ledger in which another process writes first, `times` times."""

    def __init__(self, entries: Iterator[Partition]) -> None:
        super().__init__()
        self._entries = entries

    def record(self, draft: Partition, *, after: int) -> Partition:
        if entry := next(self._entries, None):
            super().record(entry, after=after)
        return super().record(draft, after=after)


def rival(source_digest: str) -> Partition:
    return Partition("events", "2013-01", 0, START, source_digest, "t", "c", 1, "raw/other")


def test_two_ingests_of_the_same_data_agree() -> None:
    bench = Bench()
    digest = bench.source.digest("events", "2013-01", START)
    bench.ledger = Crowded(iter([rival(digest)]))
    assert bench.ingest() == [("unchanged", 1)]


def test_two_ingests_of_different_data_both_succeed() -> None:
    bench = Bench()
    bench.ledger = Crowded(iter([rival("other")]))
    assert bench.ingest() == [("recorded", 2)]


def test_an_ingest_that_never_wins_says_so() -> None:
    bench = Bench()
    bench.ledger = Crowded(rival(str(n)) for n in range(99))
    with pytest.raises(Conflict, match="first"):
        bench.ingest()


ACTIONS = st.lists(
    st.tuples(st.sampled_from(["deliver", "ingest"]), st.integers(0, 3), st.integers(0, 2)),
    max_size=20,
)


@settings(max_examples=60)
@given(ACTIONS)
def test_what_is_current_is_what_was_known(actions: list[tuple[str, int, int]]) -> None:
    """Whatever the order of deliveries and ingests, for any instants and with repetitions."""
    bench = Bench()
    for action, day, value in actions:
        at = START + timedelta(days=day)
        if action == "deliver":
            bench.source.deliver("events", "2013-01", at, frame(value))
            continue
        bench.ingest(at)
        current = next(a for a in bench.ledger.attempts("events", "2013-01") if a.as_of <= at)
        assert bench.stored(current).equals(bench.source.read("events", "2013-01", at))
        assert bench.ingest(at) == [("unchanged", current.attempt)]
    numbers = [a.attempt for a in bench.ledger.attempts("events", "2013-01")]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))


def test_equal_frames_give_equal_bytes() -> None:
    rows = frame(*range(1000))
    pieces = pl.concat([rows[:300], rows[300:]], rechunk=False)
    assert to_parquet(rows) == to_parquet(pieces)
