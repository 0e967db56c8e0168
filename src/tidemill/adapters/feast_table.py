"""The Parquet file behind a feature view, held to what the view says."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from tidemill.adapters.feast_sdk import FileSource
from tidemill.bundle import FeatureView
from tidemill.errors import DataError, NotFound

__all__ = ["DTYPES", "Table", "check_table"]

BUILD = "compute the feature tables: tidemill features build"

DTYPES: dict[str, pl.DataType] = {
    "Float64": pl.Float64(),
    "Float32": pl.Float32(),
    "Int64": pl.Int64(),
    "Int32": pl.Int32(),
    "String": pl.String(),
    "Bool": pl.Boolean(),
}
"""Feast types of features that can be joined and read online, and their polars type."""


class Table:
    """The Parquet file behind a view, as its source describes it."""

    def __init__(self, source: FileSource) -> None:
        self.file = Path(source.path).name
        self.timestamp: str = source.timestamp_field
        self.created: str | None = source.created_timestamp_column or None

    @property
    def stamps(self) -> list[str]:
        """The timestamp columns."""
        return [self.timestamp, *filter(None, [self.created])]


def check_table(table: Table, view: FeatureView, tables: Path) -> None:
    """Hold a feature table to its view: columns, types, and one row per key and instant."""
    path = tables / table.file
    if not path.is_file():
        raise NotFound(f"the feature table {table.file} is not in {tables}", hint=BUILD)
    identity = [*view.join_keys, *table.stamps]
    try:
        schema = pl.read_parquet_schema(path)
        missing = {*identity, *(field.name for field in view.fields)} - set(schema)
        twice = 0 if missing else pl.read_parquet(path, columns=identity).is_duplicated().sum()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"the feature table {path} cannot be read: {error}", hint=BUILD) from error
    problems = [f"lacks the column '{name}'" for name in sorted(missing)]
    problems += [
        f"has '{field.name}' as {schema[field.name]}, the view says {field.dtype}"
        for field in view.fields
        if field.name in schema and schema[field.name] != DTYPES[field.dtype]
    ]
    if twice:
        problems.append(f"has {twice} rows that share {', '.join(identity)} with another")
    if problems:
        raise DataError(
            f"the feature table {table.file} " + "; ".join(problems),
            hint="definitions.py and transforms.py of the feature repository must agree",
        )
