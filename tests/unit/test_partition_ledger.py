"""The ledger keeps every attempt, in order, whoever writes; the fake keeps the same promises."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.partitions import StoredPartitions
from tidemill.errors import Conflict, Unavailable
from tidemill.ports.data import Partition, PartitionLedger
from tidemill.testing.data import MemoryPartitions

START = datetime(2013, 1, 1, tzinfo=UTC)
OPEN: dict[str, Callable[[Path], PartitionLedger]] = {
    "store": lambda folder: StoredPartitions(open_store(f"sqlite:///{folder}/store.db")),
    "memory": lambda _: MemoryPartitions(),
}


@pytest.fixture(params=OPEN)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> PartitionLedger:
    return OPEN[request.param](tmp_path)


def draft(day: int = 0, *, table: str = "events", period: str = "2013-01") -> Partition:
    instant = START + timedelta(days=day, microseconds=day)
    return Partition(table, period, 0, instant, "s", "t", "c" * 64, 7, f"raw/{day}")


def test_the_newest_comes_first_by_instant_then_attempt(ledger: PartitionLedger) -> None:
    for attempt, day in enumerate([5, 9, 9, 2]):
        ledger.record(draft(day), after=attempt)
    found = ledger.attempts("events", "2013-01")
    assert [(a.attempt, a.as_of.day) for a in found] == [(3, 10), (2, 10), (1, 6), (4, 3)]
    assert ledger.attempts("events", "2013-02") == []


def test_what_is_read_is_what_was_recorded(ledger: PartitionLedger) -> None:
    written = ledger.record(draft(3), after=0)
    assert written.attempt == 1
    assert ledger.attempts("events", "2013-01") == [written]


def test_the_second_to_write_an_attempt_is_told(ledger: PartitionLedger) -> None:
    ledger.record(draft(1), after=0)
    with pytest.raises(Conflict, match="attempt 1"):
        ledger.record(draft(2), after=0)
    assert len(ledger.attempts("events", "2013-01")) == 1
    ledger.record(draft(2, period="2013-02"), after=0)


def test_a_verdict_changes_one_attempt(ledger: PartitionLedger) -> None:
    first = ledger.record(draft(1), after=0)
    ledger.record(draft(2), after=1)
    ledger.judge(first, "quarantined")
    ledger.judge(first, "quarantined")
    assert [a.status for a in ledger.attempts("events", "2013-01")] == ["ingested", "quarantined"]


def test_of_many_writers_at_once_one_wins_each_attempt(tmp_path: Path) -> None:
    won: list[Partition] = []
    lost: list[Conflict] = []
    start = Barrier(6, timeout=20)

    def write(day: int) -> None:
        start.wait()
        ledger = OPEN["store"](tmp_path)
        try:
            won.append(ledger.record(draft(day), after=0))
        except Conflict as error:
            lost.append(error)

    threads = [Thread(target=write, args=(day,)) for day in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 5)
    assert OPEN["store"](tmp_path).attempts("events", "2013-01") == won


def test_a_store_that_cannot_write_says_so(tmp_path: Path) -> None:
    engine = open_store(f"sqlite:///{tmp_path}/store.db")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE partition")
    with pytest.raises(Unavailable, match=r"attempt 1 of events 2013-01: the store .* failed"):
        StoredPartitions(engine).record(draft(), after=0)


STEPS = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 4), st.integers(0, 3)), max_size=12
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_store_and_fake_agree(tmp_path_factory: pytest.TempPathFactory, steps: list) -> None:  # type: ignore[type-arg]
    folder = tmp_path_factory.mktemp("ledger")
    ledgers = [opened(folder) for opened in OPEN.values()]
    for table, day, after in steps:
        results = [_record(ledger, draft(day, table=table), after) for ledger in ledgers]
        assert results[0] == results[1]
    for table in ("a", "b"):
        first, second = (ledger.attempts(table, "2013-01") for ledger in ledgers)
        assert first == second


def _record(ledger: PartitionLedger, entry: Partition, after: int) -> Partition | str:
    try:
        return ledger.record(entry, after=after)
    except Conflict:
        return "conflict"
