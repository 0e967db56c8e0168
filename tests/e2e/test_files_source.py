"""Other people's data, in a folder and in a bucket: nothing but YAML makes it a project."""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import boto3
import polars as pl
import pytest
import yaml

from tidemill.adapters.files import Files
from tidemill.adapters.objects import FolderStore, S3Store, StampedStore
from tidemill.cli import main
from tidemill.errors import DataError, NotFound, Unavailable
from tidemill.settings.contract import Contract
from tidemill.settings.data import FilesTable
from tidemill.steps.ingest import ingest
from tidemill.steps.publish import publish
from tidemill.steps.validate import validate
from tidemill.steps.verdicts import Report
from tidemill.wiring import Project

ROOT = Path(__file__).parents[2]
NOW = datetime(2024, 6, 1, tzinfo=UTC)
TABLES = {
    "rides": {
        "path": "rides/*.csv",
        "format": "csv",
        "timestamp": "started",
        "timezone": "Europe/Berlin",
    },
    "stations": {"path": "stations.parquet"},
}
CONTRACT = {
    "tables": {
        "rides": {
            "timestamp": "started",
            "key": ["ride"],
            "rows": {"per_day": [20, 30]},
            "columns": {
                "ride": {"dtype": "Int64"},
                "started": {"dtype": "Datetime"},
                "station": {"dtype": "String", "allowed": ["north", "south"]},
                "minutes": {"dtype": "Float64", "range": [0, 600]},
                "rider": {"dtype": "String", "tags": ["pii"], "pattern": "[A-Z][a-z]+"},
            },
        },
        "stations": {
            "key": ["station"],
            "columns": {"station": {"dtype": "String"}, "docks": {"dtype": "Int64"}},
        },
    }
}


def rides(month: int) -> pl.DataFrame:
    """Hourly rides of a month by Berlin's clock: integers, and times without a zone."""
    begin = datetime(2024, month, 1)
    hours = (datetime(2024, month + 1, 1) - begin) // timedelta(hours=1)
    at = [begin + timedelta(hours=h) for h in range(hours)]
    skipped = datetime(2024, 3, 31, 2)  # no clock in Berlin showed this hour
    frame = pl.DataFrame({"started": [t for t in at if t != skipped]}).with_row_index("ride")
    return frame.select(
        pl.col("ride").cast(pl.Int64) + month * 10_000,
        "started",
        station=pl.when(pl.col("ride") % 2 == 0).then(pl.lit("north")).otherwise(pl.lit("south")),
        minutes=(pl.col("ride") % 60).cast(pl.Int64),
        rider=pl.lit("Ada"),
    )


def as_csv(frame: pl.DataFrame) -> bytes:
    return frame.write_csv(datetime_format="%Y-%m-%dT%H:%M:%S").encode()


class Place:
    """Where the files are: a store to put them in, and its settings."""

    def __init__(self, store: StampedStore, settings: dict[str, str]) -> None:
        self.store, self.settings = store, settings
        for month in (2, 3):
            self.deliver(month, rides(month))
        stations = pl.DataFrame({"station": ["north", "south"], "docks": [10, 20]})
        buffer = io.BytesIO()
        stations.write_parquet(buffer)
        store.put("stations.parquet", buffer.getvalue())

    def deliver(self, month: int, frame: pl.DataFrame) -> None:
        self.store.put(f"rides/2024-{month:02d}.csv", as_csv(frame))


def folder(tmp_path: Path, _request: pytest.FixtureRequest) -> Place:
    return Place(FolderStore(tmp_path / "inbox"), {"url": str(tmp_path / "inbox")})


def bucket(_tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    endpoint = request.getfixturevalue("s3_url")
    name = f"inbox-{uuid4().hex[:8]}"
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
    url = f"s3://{name}/deliveries"
    return Place(S3Store(url, endpoint), {"url": url, "endpoint_url": endpoint})


@pytest.fixture(params=[folder, bucket], ids=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    make: Callable[[Path, pytest.FixtureRequest], Place] = request.param
    return make(tmp_path, request)


@pytest.fixture
def root(place: Place, tmp_path: Path) -> Path:
    """Return a project about rides: the reference settings, other data."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "configs", root / "configs")
    data = {
        "source": {"type": "files", "tables": TABLES} | place.settings,
        "start": "2024-02",
        "end": "2024-03",
        "contract": "configs/rides-contract.yaml",
    }
    (root / "configs" / "rides.yaml").write_text(yaml.safe_dump({"data": data}))
    (root / "configs" / "rides-contract.yaml").write_text(yaml.safe_dump(CONTRACT))
    return root


def run(root: Path, as_of: datetime = NOW) -> Report:
    project = Project.load(root, env="rides")
    months = ["2024-02", "2024-03"]
    ingest(project.source, project.partitions, project.objects, months=months, as_of=as_of)
    return validate(
        project.partitions,
        project.objects,
        project.contract,
        months=months,
        as_of=as_of,
        folder=project.paths.raw,
    )


def stored(root: Path, month: str) -> pl.DataFrame:
    return pl.read_parquet(root / "data" / "raw" / "rides" / f"{month}.parquet")


def test_files_become_a_dataset_with_a_version(root: Path) -> None:
    run(root).require_valid()
    march = stored(root, "2024-03")
    assert march.schema["started"] == pl.Datetime("us", "UTC")
    assert march.schema["minutes"] == pl.Float64()
    # months are cut in UTC: Berlin's first hours of April are March, of March are February
    assert march["started"].min() == datetime(2024, 3, 1, tzinfo=UTC)
    berlin = march.filter(pl.col("ride") == 30_000 + 24 * 30 + 2)["started"][0]
    assert berlin == datetime(2024, 3, 31, 1, tzinfo=UTC)
    both = stored(root, "2024-02").height + march.height
    before_february = 1  # the first hour of Berlin's February is January in UTC
    assert both == rides(2).height + rides(3).height - before_february
    project = Project.load(root, env="rides")
    version = publish(project.versions, project.paths.raw)
    assert version.files == 3
    assert publish(project.versions, project.paths.raw) == version


def test_the_second_time_nothing_changes_and_a_correction_does(root: Path, place: Place) -> None:
    run(root)
    run(root, NOW + timedelta(days=1))
    project = Project.load(root, env="rides")
    assert len(project.partitions.attempts("rides", "2024-03")) == 1
    place.deliver(3, rides(3).with_columns(minutes=pl.lit(7)))
    run(root, NOW + timedelta(days=2)).require_valid()
    assert len(project.partitions.attempts("rides", "2024-03")) == 2
    assert stored(root, "2024-03")["minutes"].unique().to_list() == [7.0]


def test_a_broken_file_quarantines_its_month_alone(root: Path, place: Place) -> None:
    run(root).require_valid()
    before = stored(root, "2024-03")
    broken = rides(3).with_columns(
        minutes=pl.when(pl.col("ride") < 30_002).then(pl.lit("long")).otherwise("minutes"),
        rider=pl.lit("ada"),
    )
    place.deliver(3, broken)
    with pytest.raises(DataError) as caught:
        run(root, NOW + timedelta(days=1)).require_valid()
    assert "minutes: the type is String, expected Float64" in str(caught.value)
    assert "'long'" in str(caught.value)
    assert "[pattern, 742 of 742 rows]" in str(caught.value)
    assert "ada" not in str(caught.value)
    assert stored(root, "2024-03").equals(before)


def test_an_open_month_holds_what_has_happened(root: Path) -> None:
    now = datetime(2024, 3, 10, 12, tzinfo=UTC)
    run(root, now).require_valid()
    assert stored(root, "2024-03")["started"].max() == now
    run(root, now + timedelta(hours=1)).require_valid()
    assert stored(root, "2024-03")["started"].max() == now + timedelta(hours=1)


def test_the_command_line_runs_the_same(
    root: Path, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    def tidemill(*command: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main([*command, "--project", str(root), "--env", "rides"])
        said = capsys.readouterr()
        return int(done.value.code or 0), said.out, said.err

    assert tidemill("data", "ingest")[0] == 0
    assert tidemill("data", "validate")[0] == 0
    version = json.loads(tidemill("data", "publish", "--json")[1])["id"]
    shutil.rmtree(root / "data" / "raw")
    assert tidemill("data", "fetch", version)[0] == 0
    assert stored(root, "2024-03").height == 742
    place.deliver(3, rides(3).drop("station"))
    assert tidemill("data", "ingest")[0] == 0
    code, _, said = tidemill("data", "validate")
    assert code == 1
    assert "rides 2024-03: attempt 2 is quarantined, attempt 1 stays in use" in said
    assert "station: the column is missing (found: ride, started, minutes, rider)" in said
    listed = json.loads(tidemill("data", "status", "--json", "--from", "2024-03")[1])
    assert [a["status"] for a in listed] == ["quarantined", "valid", "valid"]
    code, _, said = tidemill("data", "fetch", "0" * 32 + ".dir")
    assert (code, "no dataset version" in said) == (1, True)
    assert tidemill("data", "ingest", "--from", "March")[0] == 2
    assert tidemill("data", "ingest", "--as-of", "now")[0] == 2


def files(tmp_path: Path, **over: str) -> Files:
    table = FilesTable.model_validate(TABLES["rides"] | over)
    return Files(FolderStore(tmp_path), {"rides": table}, Contract.model_validate(CONTRACT))


def put(tmp_path: Path, content: bytes, name: str = "2024-03.csv") -> None:
    (tmp_path / "rides").mkdir(exist_ok=True)
    (tmp_path / "rides" / name).write_bytes(content)


def as_parquet(frame: pl.DataFrame, path: Path) -> bytes:
    frame.write_parquet(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"ride,when\n1,2024-03-01\n",
            r"no column 'started' \(found: ride, when\)",
        ),
        (b"ride,started\n1,yesterday\n", r"'started' of rides/2024-03.csv holds no instants"),
        (b"ride,started\n1,2024-03-31T02:30:00\n", r"holds no instants: .*non-existent"),
        (b"ride,started\n1,2024-03-01T00:00:00\n2,\n", r"'started' .* is empty in 1 rows"),
        (b"", r"rides/2024-03.csv \(0 bytes\) is no csv"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    put(tmp_path, content)
    with pytest.raises(DataError, match=message):
        files(tmp_path).read("rides", "2024-03", NOW)


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    whole = as_parquet(rides(3), tmp_path / "whole")
    put(tmp_path, whole[: len(whole) // 2], "a.parquet")
    with pytest.raises(DataError, match=r"rides/a.parquet \([\d,]+ bytes\) is no parquet"):
        files(tmp_path, path="rides/*", format="parquet").read("rides", "2024-03", NOW)


def test_no_file_and_no_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches 'rides/\*.csv' for the table 'rides'"):
        files(tmp_path).read("rides", "2024-03", NOW)
    with pytest.raises(NotFound, match="no table 'ride'"):
        files(tmp_path).digest("ride", "2024-03", NOW)


def test_times_with_a_zone_keep_it(tmp_path: Path) -> None:
    put(tmp_path, b"ride,started\n1,2024-03-05T10:00:00+05:00\n2,2024-03-05T10:00:00Z\n")
    frame = files(tmp_path).read("rides", "2024-03", NOW)
    assert [at.hour for at in frame["started"]] == [5, 10]


def test_a_column_that_one_file_lacks_is_missing_in_its_month_alone(tmp_path: Path) -> None:
    put(tmp_path, as_csv(rides(2)), "2024-02.csv")
    put(tmp_path, as_csv(rides(3).drop("rider").slice(5)), "2024-03.csv")
    source = files(tmp_path)
    assert "rider" in source.read("rides", "2024-02", NOW).columns
    assert "rider" not in source.read("rides", "2024-03", NOW).columns


def test_a_digest_depends_on_content_not_on_file_times(tmp_path: Path) -> None:
    put(tmp_path, as_csv(rides(3)))
    before = files(tmp_path).digest("rides", "2024-03", NOW)
    os.utime(tmp_path / "rides" / "2024-03.csv", (0, 0))
    assert files(tmp_path).digest("rides", "2024-03", NOW + timedelta(days=9)) == before
    put(tmp_path, as_csv(rides(3).with_columns(minutes=1)))
    assert files(tmp_path).digest("rides", "2024-03", NOW) != before


def test_an_object_store_that_is_down_is_named() -> None:
    store = S3Store("s3://bucket/prefix", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"http://127.0.0.1:9 did not answer"):
        store.get("key")


def test_a_bucket_keeps_what_a_folder_keeps(s3_url: str, tmp_path: Path) -> None:
    boto3.client("s3", endpoint_url=s3_url).create_bucket(Bucket="objects")
    store = S3Store("s3://objects/deep/prefix/", s3_url)
    (tmp_path / "file").write_bytes(b"from a file")
    assert store.put("a/b", b"1") == "s3://objects/deep/prefix/a/b"
    store.put("a/c", tmp_path / "file")
    assert store.get("a/c") == b"from a file"
    assert store.list("a/") == ["a/b", "a/c"]
    assert store.list("z") == []
    assert store.stamps("a/b") == {"a/b": hashlib.md5(b"1").hexdigest()}
    with pytest.raises(NotFound, match="s3://objects/deep/prefix/a/x"):
        store.get("a/x")
    with pytest.raises(Unavailable, match="NoSuchBucket"):
        S3Store("s3://no-such-bucket", s3_url).put("a", b"")
