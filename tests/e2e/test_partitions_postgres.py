"""The partition ledger on a real PostgreSQL server."""

from datetime import UTC, datetime
from threading import Barrier, Thread

import pytest

from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.partitions import StoredPartitions
from tidemill.errors import Conflict
from tidemill.ports.data import Partition

pytestmark = pytest.mark.postgres


def test_of_two_writers_at_once_one_wins(postgres_url: str) -> None:
    instant = datetime(2013, 1, 2, tzinfo=UTC)
    draft = Partition("events", "2013-01", 0, instant, "s", "t", "c", 1, "k")
    start = Barrier(4, timeout=20)
    outcomes: list[Partition | None] = []

    def write() -> None:
        start.wait()
        engine = open_store(postgres_url)
        try:
            outcomes.append(StoredPartitions(engine).record(draft, after=0))
        except Conflict:
            outcomes.append(None)
        engine.dispose()

    threads = [Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (won,) = filter(None, outcomes)
    assert len(outcomes) == 4
    engine = open_store(postgres_url)
    ledger = StoredPartitions(engine)
    assert ledger.attempts("events", "2013-01") == [won]
    ledger.judge(won, "valid")
    assert ledger.attempts("events", "2013-01")[0].status == "valid"
    engine.dispose()
