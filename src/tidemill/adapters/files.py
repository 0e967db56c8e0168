"""Raw tables from Parquet or CSV files in a folder or an S3-compatible prefix.

A file may hold rows of several months, and a month's rows may come in several files. A row is
known once its timestamp has passed. Columns get the contract's types where no value is lost;
where one would be, the column is left as it is and validation says so.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from datetime import datetime
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

import polars as pl

from tidemill.adapters.objects import StampedStore
from tidemill.domain.months import STATIC, bounds
from tidemill.errors import DataError, NotFound
from tidemill.ports.data import Cadence
from tidemill.settings.contract import ColumnContract, Contract
from tidemill.settings.data import FilesTable

__all__ = ["Files"]


class Files:
    """The connector over an object store that holds other people's files."""

    def __init__(
        self, store: StampedStore, tables: Mapping[str, FilesTable], contract: Contract
    ) -> None:
        self._store = store
        self._tables = tables
        self._contract = contract
        self._seen: dict[str, tuple[dict[str, str], list[pl.DataFrame]]] = {}

    def tables(self) -> Mapping[str, Cadence]:
        """Return the configured tables."""
        return {n: "monthly" if t.timestamp else "static" for n, t in self._tables.items()}

    def read(self, table: str, period: str, as_of: datetime) -> pl.DataFrame:
        """Return the rows of a month up to `as_of`, in the order of the files and their rows."""
        settings = self._settings(table)
        frames = self._read(table, settings)
        if settings.timestamp:
            begin, end = bounds(period)
            at = pl.col(settings.timestamp)
            cut = [frame.filter(at >= begin, at < end, at <= as_of) for frame in frames]
            frames = [frame for frame in cut if frame.height] or cut[:1]
        return _stack(table, frames)

    def digest(self, table: str, period: str, as_of: datetime) -> str:
        """Hash the files' own digests, the wanted types and how much of the month was over."""
        settings = self._settings(table)
        known = period if period == STATIC else f"{period} {min(as_of, bounds(period)[1])}"
        dtypes = {name: column.dtype for name, column in self._columns(table).items()}
        text = f"{table} {known} {settings!r} {dtypes} {self._stamps(settings)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def _settings(self, table: str) -> FilesTable:
        if table not in self._tables:
            raise NotFound.among("table", table, self._tables)
        return self._tables[table]

    def _columns(self, table: str) -> Mapping[str, ColumnContract]:
        wanted = self._contract.tables.get(table)
        return wanted.columns if wanted else {}

    def _stamps(self, settings: FilesTable) -> dict[str, str]:
        """Return the digest of every file of a table, by key."""
        fixed = settings.path.partition("*")[0].partition("?")[0].partition("[")[0]
        found = self._store.stamps(fixed)
        return {k: v for k, v in sorted(found.items()) if fnmatchcase(k, settings.path)}

    def _read(self, table: str, settings: FilesTable) -> list[pl.DataFrame]:
        """Read all files of a table, once per process and state of the files."""
        stamps = self._stamps(settings)
        if not stamps:
            raise DataError(
                f"no file matches '{settings.path}' for the table '{table}'",
                hint=f"check data.source.url and data.source.tables.{table}.path",
            )
        if self._seen.get(table, ({}, []))[0] != stamps:
            columns = self._columns(table)
            self._seen[table] = stamps, [self._file(key, settings, columns) for key in stamps]
        return self._seen[table][1]

    def _file(
        self, key: str, settings: FilesTable, columns: Mapping[str, ColumnContract]
    ) -> pl.DataFrame:
        content = self._store.get(key)
        try:
            frame = _parse(content, settings.format)
        except pl.exceptions.PolarsError as error:
            raise DataError(
                f"the file {key} ({len(content):,} bytes) is no {settings.format}: {error}",
                hint="deliver the file again",
            ) from error
        if settings.timestamp:
            frame = _with_instants(key, frame, settings)
        return frame.with_columns(
            _converted(frame[name], column.polars_type)
            for name, column in columns.items()
            # an instant without a zone means one in its own table alone
            if name in frame.columns and column.dtype != "Datetime"
        )


def _parse(content: bytes, kind: str) -> pl.DataFrame:
    if kind == "parquet":
        return pl.read_parquet(io.BytesIO(content))
    return pl.read_csv(content, null_values=["", "NA"], infer_schema_length=None)


def _converted(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Convert a column if that loses no value, else return it as it is."""
    if column.dtype == dtype:
        return column
    try:
        cast = column.cast(dtype, strict=False)
        same = cast.cast(column.dtype, strict=False)
    except pl.exceptions.PolarsError:
        return column
    kept = cast.null_count() == column.null_count()
    if column.dtype == pl.String or dtype == pl.String:
        return cast if kept else column
    return cast if kept and same.equals(column) else column


def _with_instants(key: str, frame: pl.DataFrame, settings: FilesTable) -> pl.DataFrame:
    """Turn the timestamp column into UTC microseconds; raises DataError."""
    name = settings.timestamp
    if name not in frame.columns:
        raise DataError(
            f"the file {key} has no column '{name}' (found: {', '.join(frame.columns)})",
            hint="check the table's `timestamp` in data.source.tables",
        )
    try:
        instants = _instants(frame[name], settings.timezone)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"the column '{name}' of {key} holds no instants: {str(error).splitlines()[0]}",
            hint="write ISO 8601, such as 2013-01-31T12:00:00Z",
        ) from error
    if instants.null_count():
        raise DataError(
            f"the column '{name}' of {key} is empty in {instants.null_count():,} rows",
            hint="give every row its instant, or name another column as the table's `timestamp`",
        )
    return frame.with_columns(instants)


def _instants(column: pl.Series, timezone: str) -> pl.Series:
    if column.dtype == pl.String:
        zoned = column.str.contains(r"(Z|[+-]\d\d:?\d\d)$").all()
        column = column.str.to_datetime(time_unit="us", time_zone="UTC" if zoned else None)
    stamped = column.cast(pl.Datetime("us", getattr(column.dtype, "time_zone", None)))
    if getattr(stamped.dtype, "time_zone", None) is None:
        stamped = stamped.dt.replace_time_zone(ZoneInfo(timezone).key)
    return stamped.dt.convert_time_zone("UTC")


def _stack(table: str, frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Put files of one month under each other, types widened where they differ."""
    try:
        return pl.concat(frames, how="diagonal_relaxed", rechunk=True)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"the files of the table '{table}' do not fit together: {error}",
            hint="deliver each column with one type in all files",
        ) from error
