"""Publish: give the dataset its version."""

from __future__ import annotations

from pathlib import Path

from tidemill.errors import DataError
from tidemill.ports.data import DatasetVersion, DatasetVersions

__all__ = ["publish"]


def publish(versions: DatasetVersions, folder: Path) -> DatasetVersion:
    """Store the dataset in `folder` and return its version; the same files, the same version.

    Raises DataError for an empty dataset, Unavailable when the remote does not answer.
    """
    if not any(path.suffix == ".parquet" for path in folder.rglob("*")):
        raise DataError(
            f"there is no dataset in {folder}", hint="assemble it: tidemill data validate"
        )
    return versions.publish(folder)
