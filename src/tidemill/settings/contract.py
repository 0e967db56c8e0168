"""The data contract: what each raw table must look like, in YAML."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from tidemill.errors import ConfigError
from tidemill.settings.base import Group
from tidemill.settings.keys import unknown_key
from tidemill.settings.sources import Layer, yaml_file

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "ColumnContract",
    "Condition",
    "Contract",
    "DType",
    "RowsContract",
    "Severity",
    "TableContract",
    "Treatment",
    "load_contract",
]

Severity = Literal["error", "warn"]
Treatment = Literal["mask", "hash", "drop"]
DType = Literal["Boolean", "Date", "Datetime", "Float64", "Int64", "String"]


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from error
    return pattern


def _ordered(pair: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = pair
    if low is not None and high is not None and low > high:
        raise ValueError("the lower bound is above the upper one")
    return pair


Bounds = Annotated[tuple[float | None, float | None], AfterValidator(_ordered)]
"""Lower and upper bound, both allowed values; null means unbounded."""


class ColumnContract(Group):
    """What one column must hold."""

    dtype: DType
    """Polars type; `Datetime` is in microseconds, UTC."""
    nulls: float = Field(default=0.0, ge=0, le=1)
    """Largest allowed share of nulls among the rows that are due."""
    due_hours: float = Field(default=0.0, ge=0)
    """A row is due this long after its timestamp: outcomes are null before."""
    range: Bounds = (None, None)
    """Smallest and largest allowed value."""
    allowed: list[str] = Field(default_factory=list)
    """The only allowed values; empty means any."""
    pattern: Annotated[str, AfterValidator(_regex)] = ""
    """Regular expression that each value must match whole; empty means any."""
    severity: Severity = "error"
    """Of nulls, range, allowed and pattern; a missing column or wrong type is always an error."""
    tags: list[str] = Field(default_factory=list)
    """Free labels; values of a column tagged `pii` are never shown in a report, nor kept in a
    bundle's profile and the prediction log."""
    log: Treatment | None = None
    """What the log keeps of a column tagged `pii`: `mask` (the default) whether there was a value,
    `hash` a keyed hash of a text (`serving.log.hash_key`), so that equal values stay equal, `drop`
    nothing."""

    @property
    def treatment(self) -> Treatment:
        """What the log keeps of the column, if it is tagged `pii`."""
        return self.log or "mask"

    @model_validator(mode="after")
    def _private(self) -> ColumnContract:
        if self.log is not None and "pii" not in self.tags:
            raise ValueError("'log' belongs to columns with 'tags: [pii]'; others are logged whole")
        if self.log == "hash" and self.dtype in ("Boolean", "Float64"):
            raise ValueError(f"the log keeps {self.dtype} as a number: mask or drop it")
        return self

    @property
    def polars_type(self) -> pl.DataType:
        """The type that `dtype` names."""
        import polars as pl

        if self.dtype == "Datetime":
            return pl.Datetime("us", "UTC")
        found: pl.DataType = getattr(pl, self.dtype)()
        return found


class RowsContract(Group):
    """How many rows a partition must have."""

    total: Bounds = (1, None)
    """Rows of a static table."""
    per_day: Bounds = (None, None)
    """Rows per day of the part of the month that is due."""
    previous: Bounds = (None, None)
    """Rows per day, as a multiple of those of the month before."""
    lag_hours: float = Field(default=0.0, ge=0)
    """Rows of the last so many hours before the run's instant may still be missing."""
    ahead: bool = False
    """The whole month is due from its first instant on: a schedule, not a feed."""
    severity: Severity = "error"
    """Of all of the above."""


class Condition(Group):
    """A rule over several columns."""

    name: str
    """What must hold, in words; shown when it does not."""
    sql: str
    """Polars SQL expression that must not be false in any row; null passes."""
    severity: Severity = "error"
    """Of the rule."""


class TableContract(Group):
    """What one table must look like."""

    timestamp: str = ""
    """Column of the event's instant, which must lie in the partition; empty: a static table."""
    key: list[str] = Field(min_length=1)
    """Columns that together are unique and never null."""
    rows: RowsContract = RowsContract()
    """Number of rows."""
    columns: dict[str, ColumnContract] = Field(min_length=1)
    """Every column; others are reported with `unknown`."""
    unknown: Severity = "warn"
    """Severity of a column that is not listed."""
    conditions: list[Condition] = Field(default_factory=list)
    """Rules over several columns."""

    @model_validator(mode="after")
    def _known(self) -> TableContract:
        for name in [*self.key, *filter(None, [self.timestamp])]:
            if name not in self.columns:
                raise ValueError(f"'{name}' is part of the key or the timestamp, but no column")
        if self.timestamp and self.columns[self.timestamp].dtype != "Datetime":
            raise ValueError(f"the timestamp '{self.timestamp}' must have the dtype Datetime")
        return self


class Contract(Group):
    """What all raw tables must look like."""

    tables: dict[str, TableContract] = Field(min_length=1)
    """Contract of each table that a dataset consists of."""

    @model_validator(mode="after")
    def _agreed(self) -> Contract:
        treatments: dict[str, Treatment] = {}
        for name, column in self._columns():
            if (
                "pii" in column.tags
                and treatments.setdefault(name, column.treatment) != column.treatment
            ):
                raise ValueError(
                    f"two tables have a column '{name}' tagged pii, one with log: "
                    f"{treatments[name]}, one with {column.treatment}: the log has one column"
                )
        return self

    @property
    def pii(self) -> dict[str, Treatment]:
        """Columns tagged `pii` in any table, and what the prediction log keeps of them."""
        return {name: column.treatment for name, column in self._columns() if "pii" in column.tags}

    def _columns(self) -> Iterator[tuple[str, ColumnContract]]:
        for table in self.tables.values():
            yield from table.columns.items()

    @property
    def digest(self) -> str:
        """SHA-256 of the contract's content, whatever its layout."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def load_contract(path: Path) -> Contract:
    """Read a contract; raises ConfigError that names file, line and what is wrong."""
    layer = yaml_file(path, path.parent.parent)
    try:
        return Contract.model_validate(layer.values)
    except ValidationError as error:
        lines = [_problem(layer, problem) for problem in error.errors()]
        raise ConfigError("the data contract is wrong:\n  - " + "\n  - ".join(lines)) from error


def _problem(layer: Layer, problem: ErrorDetails) -> str:
    loc = problem["loc"]
    dotted = ".".join(map(str, loc))
    known = dotted
    while known and known not in layer.origins:
        known = known.rpartition(".")[0]
    place = f"{layer.origins[known]}: " if known else ""
    if problem["type"] == "extra_forbidden":
        return place + unknown_key(dotted, loc, Contract)
    if problem["type"] == "missing":
        return f"{place}'{dotted}' is required and not set"
    return f"{place}'{dotted}': {problem['msg']}"
