"""Raw data: where it is read, how its partitions and dataset versions are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Cadence",
    "DatasetVersion",
    "DatasetVersions",
    "Partition",
    "PartitionLedger",
    "PartitionStatus",
    "Source",
]

Cadence = Literal["monthly", "static"]
PartitionStatus = Literal["ingested", "valid", "quarantined"]


class Source(Protocol):
    """A place that raw tables are read from, as they were known at an instant."""

    def tables(self) -> Mapping[str, Cadence]:
        """Return the names of the tables, and which are partitioned by month."""
        ...

    def read(self, table: str, period: str, as_of: datetime) -> pl.DataFrame:
        """Return one partition as known at `as_of`, in an order that never varies.

        `period` is a month in UTC, `YYYY-MM`, or `static`. Raises NotFound for an unknown table,
        DataError when the data cannot be read.
        """
        ...

    def digest(self, table: str, period: str, as_of: datetime) -> str:
        """Return a digest that differs whenever `read` would differ; much cheaper than `read`."""
        ...


@dataclass(frozen=True, slots=True)
class Partition:
    """One attempt at a month of a table: an immutable object and what is known about it."""

    table: str
    period: str
    attempt: int
    """1, 2, … per table and period; 0 in a draft that is not recorded yet."""
    as_of: datetime
    """The instant at which the source was read."""
    source_digest: str
    schema_digest: str
    content_digest: str
    """SHA-256 of the object, hexadecimal."""
    rows: int
    key: str
    """Key of the object in the object store."""
    status: PartitionStatus = "ingested"


class PartitionLedger(Protocol):
    """What was ingested, and what became of it."""

    def attempts(self, table: str, period: str) -> list[Partition]:
        """Return every attempt, the newest (by `as_of`, then attempt) first."""
        ...

    def record(self, draft: Partition, *, after: int) -> Partition:
        """Append `draft` as attempt `after + 1`; raises Conflict if that exists by now."""
        ...

    def judge(self, partition: Partition, status: PartitionStatus) -> None:
        """Set the verdict of the last validation."""
        ...


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """A version of a dataset folder."""

    id: str
    """`<md5>.dir`: equal names and bytes give an equal id, everywhere."""
    files: int
    bytes: int


class DatasetVersions(Protocol):
    """Versions of dataset folders."""

    def publish(self, folder: Path) -> DatasetVersion:
        """Store the folder's files under their version; the same folder again changes nothing."""
        ...

    def fetch(self, version: str, folder: Path) -> DatasetVersion:
        """Make `folder` hold exactly that version.

        Raises NotFound for an unknown version, IntegrityError when stored bytes were changed.
        """
        ...
