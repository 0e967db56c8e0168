"""A broken partition is quarantined, the last good one stays in use, and the reason is told."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tidemill.errors import DataError, Unavailable
from tidemill.ports.data import Partition
from tidemill.settings.contract import Contract
from tidemill.steps.ingest import ingest
from tidemill.steps.validate import validate
from tidemill.steps.verdicts import Report
from tidemill.testing.data import MemoryPartitions, MemorySource
from tidemill.testing.objects import MemoryObjects

START = datetime(2013, 1, 1, tzinfo=UTC)
NOW = datetime(2013, 2, 10, tzinfo=UTC)
CONTRACT = Contract.model_validate(
    {
        "tables": {
            "events": {
                "timestamp": "at",
                "key": ["id"],
                "rows": {"previous": [0.5, 2], "ahead": True},
                "columns": {
                    "id": {"dtype": "Int64"},
                    "at": {"dtype": "Datetime"},
                    "amount": {"dtype": "Float64", "range": [0, 10]},
                    "note": {"dtype": "String", "nulls": 1.0, "allowed": ["a"], "severity": "warn"},
                },
            },
            "shops": {"key": ["shop"], "columns": {"shop": {"dtype": "String"}}},
        }
    }
)


def events(month: int = 1, rows: int = 400, **over: Any) -> pl.DataFrame:
    begin = datetime(2013, month, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "id": range(rows),
            "at": [begin + timedelta(hours=i) for i in range(rows)],
            "amount": [5.0] * rows,
            "note": ["a"] * rows,
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    ).with_columns(**over)


class Bench:
    """A project in memory, with a dataset folder on disk."""

    def __init__(self, folder: Path) -> None:
        self.source, self.ledger, self.objects = MemorySource(), MemoryPartitions(), MemoryObjects()
        self.folder = folder
        self.source.deliver("events", "2013-01", START, events())
        self.source.deliver("events", "2013-02", START, events(2))
        self.source.deliver("shops", "static", START, pl.DataFrame({"shop": ["x", "y"]}))

    def run(
        self, as_of: datetime = NOW, months: tuple[str, ...] = ("2013-01", "2013-02")
    ) -> Report:
        ingest(self.source, self.ledger, self.objects, months=months, as_of=as_of)
        return self.validate(as_of, months)

    def validate(
        self,
        as_of: datetime = NOW,
        months: tuple[str, ...] = ("2013-01", "2013-02"),
        whole: bool = True,
    ) -> Report:
        return validate(
            self.ledger,
            self.objects,
            CONTRACT,
            months=months,
            as_of=as_of,
            folder=self.folder,
            whole=whole,
        )

    def dataset(self) -> dict[str, bytes]:
        files = (p for p in self.folder.rglob("*") if p.is_file())
        return {p.relative_to(self.folder).as_posix(): p.read_bytes() for p in files}

    def newest(self, period: str = "2013-01") -> Partition:
        return self.ledger.attempts("events", period)[0]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "raw")


def test_good_months_become_the_dataset(bench: Bench) -> None:
    report = bench.run()
    report.require_valid()
    assert sorted(bench.dataset()) == [
        "events/2013-01.parquet",
        "events/2013-02.parquet",
        "shops/static.parquet",
    ]
    assert bench.newest().status == "valid"
    assert pl.read_parquet(bench.folder / "events" / "2013-01.parquet").equals(events())


def test_a_broken_month_is_quarantined_and_the_last_good_one_stays(bench: Bench) -> None:
    bench.run(NOW)
    before = bench.dataset()
    later = NOW + timedelta(days=1)
    spoiled = pl.when(pl.col("id") < 5).then(-1.0).otherwise("amount")
    bench.source.deliver("events", "2013-01", later, events(amount=spoiled, note=pl.lit("b")))
    report = bench.run(later)
    assert bench.dataset() == before
    assert [a.status for a in bench.ledger.attempts("events", "2013-01")] == [
        "quarantined",
        "valid",
    ]
    with pytest.raises(DataError) as caught:
        report.require_valid()
    message = str(caught.value)
    assert "1 of 3 partitions" in message
    assert "events 2013-01: attempt 2 is quarantined, attempt 1 stays in use" in message
    assert "amount: must lie in [0.0, 10.0] [range, 5 of 400 rows]" in message
    assert message.count("amount=-1.0") == 3
    assert "note" not in message  # a warning breaks nothing, but it is in the report
    assert [f.column for f in report.broken[0].findings] == ["amount", "note"]


def test_a_corrected_month_replaces_the_quarantined_one(bench: Bench) -> None:
    bench.run()
    for day, amount in ((1, -1.0), (2, 7.0)):
        bench.source.deliver("events", "2013-01", NOW + timedelta(days=day), events(amount=amount))
        report = bench.run(NOW + timedelta(days=day))
    report.require_valid()
    assert bench.newest().attempt == 3
    assert pl.read_parquet(bench.folder / "events" / "2013-01.parquet")["amount"][0] == 7.0


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (events().drop("amount"), "amount: the column is missing"),
        (events(amount=pl.lit(None, pl.Float64)), "amount: 100.0% are null"),
        (events(rows=0), "the partition has no rows"),
        (events(amount=pl.lit("five")), "amount: the type is String, expected Float64"),
        (events(rows=100), "expected at least"),
        (events(id=pl.lit(1, pl.Int64)), "id must be unique"),
    ],
)
def test_bad_input_keeps_the_last_good_one(bench: Bench, frame: pl.DataFrame, reason: str) -> None:
    if "expected at least" in reason:  # relative to the month before: break the second month
        frame, period = frame.with_columns(pl.col("at").dt.offset_by("1mo")), "2013-02"
    else:
        period = "2013-01"
    bench.run()
    before = bench.dataset()
    later = NOW + timedelta(days=1)
    bench.source.deliver("events", period, later, frame)
    with pytest.raises(DataError) as caught:
        bench.run(later).require_valid()
    assert reason in str(caught.value)
    assert bench.dataset() == before


def test_without_a_good_attempt_the_month_is_left_out(bench: Bench) -> None:
    bench.source.deliver("events", "2013-01", START, events(amount=-1.0))
    report = bench.run()
    assert "events/2013-01.parquet" not in bench.dataset()
    assert "events/2013-02.parquet" in bench.dataset()
    with pytest.raises(DataError, match="quarantined, nothing is in use"):
        report.require_valid()


def test_a_month_that_was_never_ingested_is_named(bench: Bench) -> None:
    with pytest.raises(
        DataError, match=r"events 2013-01: nothing is in use\n.*nothing was ingested"
    ):
        bench.validate().require_valid()


@pytest.mark.parametrize("change", ["truncate", "remove"])
def test_an_object_that_changed_is_quarantined(bench: Bench, change: str) -> None:
    bench.run()
    key = bench.newest().key
    if change == "truncate":
        bench.objects.kept[key] = bench.objects.kept[key][:-100]
    else:
        del bench.objects.kept[key]
    with pytest.raises(DataError, match=key):
        bench.validate().require_valid()


def test_the_dataset_of_an_earlier_instant_can_be_assembled_again(bench: Bench) -> None:
    bench.run(NOW)
    before = bench.dataset()
    later = NOW + timedelta(days=1)
    bench.source.deliver("events", "2013-01", later, events(amount=6.0))
    bench.run(later)
    assert bench.dataset() != before
    bench.validate(NOW).require_valid()
    assert bench.dataset() == before


def test_judging_one_month_leaves_the_others_alone(bench: Bench) -> None:
    bench.run()
    before = bench.dataset()
    later = NOW + timedelta(days=1)
    bench.source.deliver("events", "2013-01", later, events(amount=-1.0))
    bench.source.deliver("events", "2013-02", later, events(2, amount=6.0))
    ingest(bench.source, bench.ledger, bench.objects, months=["2013-01", "2013-02"], as_of=later)
    report = bench.validate(later, ("2013-02",), whole=False)
    report.require_valid()
    assert [(v.table, v.period) for v in report.verdicts] == [
        ("events", "2013-02"),
        ("shops", "static"),
    ]
    changed = {name for name, content in bench.dataset().items() if content != before[name]}
    assert (bench.dataset().keys(), changed) == (before.keys(), {"events/2013-02.parquet"})


def test_a_judged_month_without_a_good_attempt_leaves_the_dataset(bench: Bench) -> None:
    bench.run()
    before = bench.dataset()
    for attempt in bench.ledger.attempts("events", "2013-02"):
        del bench.objects.kept[attempt.key]
    with pytest.raises(DataError, match="events 2013-02: attempt 1 is quarantined, nothing"):
        bench.validate(months=("2013-02",), whole=False).require_valid()
    assert bench.dataset().keys() == before.keys() - {"events/2013-02.parquet"}


def test_a_whole_dataset_holds_the_months_that_were_asked_for(bench: Bench) -> None:
    bench.run()
    (bench.folder / "events" / "stray.parquet").write_bytes(b"x")
    bench.validate(months=("2013-02",)).require_valid()
    assert sorted(bench.dataset()) == ["events/2013-02.parquet", "shops/static.parquet"]


def test_a_verdict_that_a_new_contract_would_not_give_is_given_anew(bench: Bench) -> None:
    bench.run()
    body = CONTRACT.model_dump()
    body["tables"]["events"]["columns"]["amount"]["range"] = (0, 1)
    strict = Contract.model_validate(body)
    report = validate(
        bench.ledger, bench.objects, strict, months=["2013-01"], as_of=NOW, folder=bench.folder
    )
    assert [v.table for v in report.broken] == ["events"]
    assert bench.newest().status == "quarantined"


def test_the_report_is_kept_as_evidence(bench: Bench, tmp_path: Path) -> None:
    bench.source.deliver("events", "2013-01", START, events(note=pl.lit("<script>")))
    report = bench.run()
    kept = bench.objects.list("evidence/validation/")
    assert [key.rpartition(".")[2] for key in kept] == ["html", "json"]
    body = json.loads(bench.objects.get(kept[1]))
    assert body["valid"]
    assert body["verdicts"][0]["findings"][0]["rows"] == 400
    page = bench.objects.get(kept[0]).decode()
    assert "note=&lt;script&gt;" in page
    assert "<script" not in page
    bench.validate()
    assert bench.objects.list("evidence/validation/") == kept
    report.write(tmp_path / "out")
    assert (tmp_path / "out" / "validation.json").read_bytes() == bench.objects.get(kept[1])


def test_a_folder_that_cannot_be_written_loses_nothing(bench: Bench) -> None:
    bench.folder.parent.mkdir(exist_ok=True)
    bench.folder.write_text("a file in the way")
    with pytest.raises(Unavailable, match=r"2013-01\.parquet cannot be written: Not a directory"):
        bench.run()
    assert bench.folder.read_text() == "a file in the way"
