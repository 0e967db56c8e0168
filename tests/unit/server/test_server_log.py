"""The prediction log: what was answered is stored or counted as lost, and never slows an answer."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from io import BytesIO
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from tidemill.errors import DataError, IntegrityError, Unavailable
from tidemill.server import predictions
from tidemill.server.encoding import Encoder, Prediction
from tidemill.server.parquet import Chunk
from tidemill.server.predictions import PredictionLog
from tidemill.server.redaction import Redaction
from tidemill.server.sampling import Sampler
from tidemill.settings.serving import PredictionLogSettings
from tidemill.testing.models import MANIFEST
from tidemill.testing.objects import MemoryObjects

NOON = datetime(2013, 4, 1, 12, tzinfo=UTC)
LABELS = ("flight-delay", "7", "abc")


def prediction(number: int, rows: int = 1, at: datetime = NOON, **changes: Any) -> Prediction:
    whole = Prediction(
        request_id=f"r{number}",
        row_ids=[f"f{number}-{row}" for row in range(rows)],
        at=at,
        numbers=np.tile(np.arange(rows, dtype=np.float32) + number, (4, 1)),
        texts=np.full((2, rows), "UA", dtype=object),
        keys={"tailnum": ["N1"] * rows},
        defaulted={},
        features_as_of=None,
        scores=np.full(rows, 0.25, np.float32),
        seconds=0.001,
        trace_id=None,
    )
    for name, value in changes.items():
        setattr(whole, name, value)
    return whole


def make(objects: Any, kind: type[Encoder] = Encoder, **options: Any) -> PredictionLog:
    settings = PredictionLogSettings(**{"flush_seconds": 0.02, **options})
    encoder = kind(MANIFEST, LABELS, Redaction(MANIFEST, ""))
    sampler = Sampler(settings, slow_seconds=0.25)
    prefix = "predictions/flight-delay"
    return PredictionLog(objects, encoder, sampler, prefix=prefix, settings=settings)


def rows_in(objects: MemoryObjects) -> list[str]:
    return [row for frame in frames(objects) for row in frame["row_id"].to_list()]


def frames(objects: MemoryObjects) -> Iterator[pl.DataFrame]:
    for key in objects.list("predictions/"):
        yield pl.read_parquet(objects.get(key))


def wait_until(condition: Any) -> None:
    end = monotonic() + 20
    while not condition():
        assert monotonic() < end
        sleep(0.01)


def test_a_row_holds_what_the_contract_names() -> None:
    objects = MemoryObjects()
    log = make(objects)
    log.start()
    log.append(
        prediction(
            1,
            rows=3,
            features_as_of=NOON - timedelta(hours=3),
            keys={"tailnum": ["N1", None, 7]},
            defaulted={"seats": np.array([False, True, True]), "temp": np.array([0, 0, 1], bool)},
            trace_id="ab" * 16,
        )
    )
    log.append(prediction(2, row_ids=None, keys={}))
    assert log.close(10) == 0
    frame = pl.concat(frames(objects))
    assert frame.schema == {
        "request_id": pl.String,
        "row_id": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "model": pl.String,
        "version": pl.String,
        "revision": pl.String,
        "features_as_of": pl.Datetime("us", "UTC"),
        "sched_minute": pl.Float32,
        "carrier": pl.String,
        "origin": pl.String,
        "carrier_late_rate_7d": pl.Float32,
        "temp": pl.Float32,
        "seats": pl.Float32,
        "tailnum": pl.String,
        "defaulted": pl.List(pl.String),
        "score": pl.Float32,
        "seconds": pl.Float64,
        "trace_id": pl.String,
        "sampled": pl.Boolean,
        "sample_share": pl.Float64,
        "kept": pl.List(pl.String),
    }
    assert frame["request_id"].to_list() == ["r1", "r1", "r1", "r2"]
    assert frame["row_id"].to_list() == ["f1-0", "f1-1", "f1-2", None]
    assert frame["tailnum"].to_list() == ["N1", None, "7", None]
    assert frame["defaulted"].to_list() == [[], ["seats"], ["seats", "temp"], []]
    assert frame["temp"].to_list() == [1.0, 2.0, 3.0, 2.0]
    assert frame["at"].unique().to_list() == [NOON]
    assert frame["trace_id"].to_list() == ["ab" * 16] * 3 + [None]
    assert frame.select("model", "version", "revision").unique().rows() == [LABELS]


def test_row_groups_are_made_while_rows_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no answer waits until a whole file is encoded."""
    monkeypatch.setattr(predictions, "GROUP_REQUESTS", 10)
    encoded: list[int] = []

    class Counted(Encoder):
        """Of this log alone: servers of other tests in this process may still write theirs."""

        def encode(self, predictions: Sequence[Prediction]) -> list[Chunk]:
            encoded.append(len(predictions))
            return super().encode(predictions)

    objects = MemoryObjects()
    log = make(objects, Counted, flush_seconds=3600)
    log.start()
    for number in range(30):
        log.append(prediction(number, rows=2))
        if number % 10 == 9:
            wait_until(lambda upto=number + 1: sum(encoded) == upto)
    assert encoded == [10, 10, 10]
    assert not objects.kept
    assert log.held() == 60
    log.append(prediction(30, rows=2))
    assert log.close(10) == 0
    (content,) = objects.kept.values()
    groups = pq.read_metadata(BytesIO(content))
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)] == [20, 20, 20, 2]
    assert rows_in(objects) == [f"f{number}-{row}" for number in range(31) for row in range(2)]


def test_rows_that_come_slowly_are_stored_when_their_time_is_over() -> None:
    objects = MemoryObjects()
    log = make(objects, flush_seconds=0.05)
    log.start()
    for number in range(3):
        log.append(prediction(number))
        wait_until(lambda upto=number + 1: log.counts() == (upto, 0))
    log.close(10)
    assert len(objects.kept) == 3


def test_partitions_follow_the_clock() -> None:
    objects = MemoryObjects()
    log = make(objects, flush_seconds=60)
    log.append(prediction(1, at=NOON))
    log.append(prediction(2, at=NOON + timedelta(days=1)))
    log.start()
    log.close(10)
    days = {key.split("/")[2] for key in objects.kept}
    assert days == {f"dt={date(2013, 4, 1)}", f"dt={date(2013, 4, 2)}"}
    assert len(rows_in(objects)) == 2


def test_files_are_written_by_rows_and_by_seconds() -> None:
    by_rows, by_seconds = MemoryObjects(), MemoryObjects()
    many, soon = make(by_rows, flush_rows=10, flush_seconds=3600), make(by_seconds)
    many.start()
    soon.start()
    for number in range(10):
        many.append(prediction(number))
    soon.append(prediction(0))
    wait_until(lambda: many.counts() == (10, 0))
    wait_until(lambda: soon.counts() == (1, 0))
    many.append(prediction(10))
    assert len(rows_in(by_rows)) == 10  # the eleventh waits for its file
    many.close(10)
    soon.close(10)
    assert len(rows_in(by_rows)) == 11


def test_a_full_buffer_drops_and_counts() -> None:
    objects = MemoryObjects()
    log = make(objects, buffer_rows=10)
    for number in range(6):
        log.append(prediction(number, rows=3))  # three fit
    assert log.counts() == (0, 9)
    log.start()
    assert log.close(10) == 0
    assert log.counts() == (9, 9)
    assert len(rows_in(objects)) == 9


def test_an_outage_of_the_store_loses_nothing_that_fits_the_buffer() -> None:
    objects = MemoryObjects(failure=Unavailable("the disk is full"))
    log = make(objects, buffer_rows=1000)
    log.start()
    log.append(prediction(0, rows=100))
    wait_until(lambda: objects.puts >= 2)
    log.append(prediction(1, rows=100))
    assert log.counts() == (0, 0)
    objects.failure = None
    assert log.close(20) == 0
    assert log.counts() == (200, 0)
    assert len(set(rows_in(objects))) == 200


def test_a_store_that_stays_down_is_counted_at_the_end() -> None:
    objects = MemoryObjects(failure=Unavailable("the disk is full"))
    log = make(objects)
    log.start()
    for number in range(5):
        log.append(prediction(number))
    assert log.close(1) == 5
    assert log.counts() == (0, 5)
    puts = objects.puts
    assert log.close(20) == 0  # the thread has ended, and nothing is counted twice
    objects.failure = None
    assert (log.counts(), objects.puts) == ((0, 5), puts)


def test_a_store_that_refuses_is_not_asked_again() -> None:
    objects = MemoryObjects(failure=DataError("the key is not allowed"))
    log = make(objects)
    log.start()
    log.append(prediction(0, rows=4))
    wait_until(lambda: log.counts() == (0, 4))
    assert objects.puts == 1
    objects.failure = None
    log.append(prediction(1))
    log.close(10)
    assert log.counts() == (1, 4)


@contextmanager
def stuck() -> Iterator[tuple[MemoryObjects, threading.Event]]:
    release = threading.Event()

    class Stuck(MemoryObjects):
        def put(self, key: str, content: bytes | Path) -> str:
            assert release.wait(60)
            return super().put(key, content)

    yield Stuck(), release
    release.set()


def test_a_stuck_store_fills_the_buffer_and_nothing_else() -> None:
    with stuck() as (objects, release):
        log = make(objects, buffer_rows=50, flush_rows=10)
        log.start()
        for number in range(200):
            log.append(prediction(number))
        assert log.counts() == (0, 150)
        release.set()
        assert log.close(20) == 0
        assert log.counts() == (50, 150)


def test_rows_that_cannot_be_encoded_are_counted_and_the_log_goes_on() -> None:
    objects = MemoryObjects()
    log = make(objects)
    log.start()
    log.append(prediction(0, texts=np.empty((1, 1), dtype=object)))
    wait_until(lambda: log.counts() == (0, 1))
    log.append(prediction(1))
    log.close(10)
    assert log.counts() == (1, 1)


@pytest.mark.parametrize("bad", [{7}, {0, 7, 8, 15}, set(range(16))], ids=["one", "some", "all"])
def test_a_request_that_cannot_be_encoded_takes_no_other_with_it(bad: set[int]) -> None:
    objects = MemoryObjects()
    log = make(objects, flush_rows=32, flush_seconds=60)
    for number in range(16):
        whole = prediction(number, rows=2)
        if number in bad:
            whole.row_ids = ["fine", "\ud800"]  # text that is no UTF-8
        log.append(whole)
    log.start()
    assert log.close(20) == 0
    assert log.counts() == (32 - 2 * len(bad), 2 * len(bad))
    kept = [f"f{number}-{row}" for number in range(16) if number not in bad for row in range(2)]
    assert rows_in(objects) == kept


def test_the_sample_is_a_share_of_requests() -> None:
    objects = MemoryObjects()
    none, some = make(objects, sample=0), make(objects, sample=0.5, buffer_rows=10_000)
    for number in range(2000):
        none.append(prediction(number))
        some.append(prediction(number))
    for log in (none, some):
        log.start()
        log.close(20)
    assert none.counts() == (0, 0)
    stored, lost = some.counts()
    assert lost == 0
    assert 850 < stored < 1150  # 6.7 standard deviations


def test_the_same_request_is_sampled_everywhere_and_at_every_larger_share() -> None:
    def chosen(share: float) -> set[str]:
        objects = MemoryObjects()
        log = make(objects, sample=share)
        for number in range(300):
            log.append(prediction(number))
        log.start()
        log.close(20)
        return set(rows_in(objects))

    tenth, half = chosen(0.1), chosen(0.5)
    assert tenth == chosen(0.1)
    assert tenth < half < chosen(1)


def test_rules_keep_what_is_worth_a_look_and_say_so() -> None:
    objects = MemoryObjects()
    log = make(objects, sample=0, keep=["slow", "invalid", "defaulted"])
    fell_back = {"seats": np.array([False, True])}
    log.append(prediction(1))
    log.append(prediction(2, seconds=0.3))
    log.append(prediction(3, rows=2, scores=[0.5, float("nan")], defaulted=fell_back))
    log.append(prediction(4, seconds=0.2))
    log.start()
    log.close(20)
    frame = pl.concat(frames(objects)).select("request_id", "sampled", "sample_share", "kept")
    assert frame.rows() == [
        ("r2", False, 0.0, ["slow"]),
        ("r3", False, 0.0, ["invalid", "defaulted"]),
        ("r3", False, 0.0, ["invalid", "defaulted"]),
    ]


def test_a_sampled_row_names_its_rules_too() -> None:
    """So that a row's chance to be in the log is known: 1 with a rule, else the share."""
    objects = MemoryObjects()
    log = make(objects, keep=["slow"])
    log.append(prediction(1, seconds=0.3))
    log.append(prediction(2))
    log.start()
    log.close(20)
    frame = pl.concat(frames(objects))
    assert frame["sampled"].to_list() == [True, True]
    assert frame["kept"].to_list() == [["slow"], []]


def test_inputs_may_not_shadow_the_logs_own_columns() -> None:
    first = replace(MANIFEST.inputs[0], name="score")
    shadowing = replace(MANIFEST, inputs=(first, *MANIFEST.inputs[1:]))
    with pytest.raises(IntegrityError, match="score"):
        Encoder(shadowing, LABELS, Redaction(shadowing, ""))
