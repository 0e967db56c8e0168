"""Feature tables and the spine, computed from raw tables by the project's `transforms.py`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import polars as pl

from tidemill.errors import DataError
from tidemill.files import place
from tidemill.ports.features import Transforms
from tidemill.settings.features import FeatureSettings
from tidemill.steps.formats import read_parquet, to_parquet

__all__ = ["compute", "featurize", "scan_raw", "write_tables"]

INSTANT = pl.Datetime("us", "UTC")
AGREE = "transforms.py of the feature repository and the raw tables must agree"
VIEW = "mend the view in transforms.py of the feature repository"


def featurize(
    raw: Path, out: Path, transforms: Transforms, settings: FeatureSettings, as_of: datetime
) -> dict[str, int]:
    """Write `<view>.parquet` for every view and `spine.parquet`; return the rows of each.

    `raw` is a dataset folder, `<table>/<period>.parquet`. Raises DataError when a raw table lacks
    a column or a feature table breaks its contract; then nothing is written.
    """
    frames = scan_raw(raw)
    try:
        tables = compute(frames, transforms, settings, since=None, until=as_of)
        tables |= {"spine": _spine(frames, transforms, settings)}
    except DataError:
        _blame(raw)
        raise
    write_tables(tables, out)
    return {name: table.height for name, table in tables.items()}


def _spine(
    raw: Mapping[str, pl.LazyFrame], transforms: Transforms, settings: FeatureSettings
) -> pl.DataFrame:
    try:
        return transforms.spine(raw, horizon_minutes=settings.horizon_minutes)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the spine cannot be computed: {error}", hint=AGREE) from error


def _blame(raw: Path) -> None:
    """Raise DataError naming the file that cannot be read, if there is one.

    A lazy frame of many files names none of them, and reading each first would read all twice.
    """
    for path in sorted(raw.glob("*/*.parquet")):
        read_parquet(path, again="tidemill data validate")


def scan_raw(folder: Path) -> dict[str, pl.LazyFrame]:
    """Open the raw tables of a dataset folder; raises DataError when there are none."""
    tables = {
        path.name: pl.scan_parquet(sorted(path.glob("*.parquet")))
        for path in sorted(folder.iterdir() if folder.is_dir() else ())
        if any(path.glob("*.parquet"))
    }
    if not tables:
        raise DataError(
            f"{folder} holds no raw tables", hint="ingest them first: tidemill data ingest"
        )
    return tables


def compute(
    raw: Mapping[str, pl.LazyFrame],
    transforms: Transforms,
    settings: FeatureSettings,
    *,
    since: datetime | None,
    until: datetime,
) -> dict[str, pl.DataFrame]:
    """Compute the feature tables and check each; raises DataError."""
    try:
        tables = transforms.tables(
            raw, step_minutes=settings.step_minutes, since=since, until=until
        )
    except KeyError as error:
        raise DataError(
            f"the features need the raw table {error}, which is absent", hint=AGREE
        ) from error
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the features cannot be computed: {error}", hint=AGREE) from error
    for view, table in tables.items():
        _check(view, table, until)
    return tables


def write_tables(tables: Mapping[str, pl.DataFrame], folder: Path) -> None:
    """Write each table as `<name>.parquet`, each replaced whole; raises Unavailable."""
    for name, table in tables.items():
        place(folder / f"{name}.parquet", to_parquet(table))


def _check(view: str, table: pl.DataFrame, until: datetime) -> None:
    """Hold a table to what every view promises: instants in UTC, none after `until`."""
    found = table.schema.get("event_timestamp")
    if found != INSTANT:
        raise DataError(
            f"view '{view}': event_timestamp is {found}, it must be {INSTANT}", hint=VIEW
        )
    without = table["event_timestamp"].null_count()
    if without:
        raise DataError(f"view '{view}': {without} rows have no event_timestamp", hint=VIEW)
    early = table.filter(pl.col("event_timestamp") > until).height
    if early:
        raise DataError(
            f"view '{view}': {early} rows are stamped after {until}: they would leak", hint=VIEW
        )
