"""How the files between steps are written and read: Parquet and JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from tidemill.errors import DataError

__all__ = ["read_json", "read_parquet", "readable", "to_json", "to_parquet"]

UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, pl.exceptions.PolarsError)
"""What a file that is absent, truncated or malformed makes of a read."""


def to_parquet(frame: pl.DataFrame, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a frame as Parquet; equal frames give equal bytes in any process."""
    buffer = io.BytesIO()
    frame.write_parquet(
        buffer,
        compression="zstd",
        compression_level=3,
        row_group_size=131_072,
        metadata=dict(metadata) if metadata else None,
    )
    return buffer.getvalue()


def to_json(body: Mapping[str, Any]) -> bytes:
    """Write a mapping as JSON for machines and people; equal ones give equal bytes."""
    return (json.dumps(body, indent=1, sort_keys=True) + "\n").encode()


def read_parquet(path: Path, *, again: str) -> pl.DataFrame:
    """Read a Parquet file whole; raises DataError as `readable` does."""
    with readable(path, again=again):
        return pl.read_parquet(path)


def read_json(path: Path, *, again: str) -> dict[str, Any]:
    """Read a JSON object; raises DataError as `readable` does."""
    with readable(path, again=again):
        body = json.loads(path.read_bytes())
        if not isinstance(body, dict):
            raise TypeError(f"it holds a {type(body).__name__}, expected an object")
        return body


@contextmanager
def readable(path: Path, *also: type[Exception], again: str) -> Iterator[None]:
    """Raise DataError that names `path` when the block finds it absent, truncated or malformed.

    `again` is the command that writes it; `also` are what a library raises besides.
    """
    failures: tuple[type[Exception], ...] = (*UNREADABLE, *also)
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", hint=f"write it: {again}") from error
    except failures as error:
        raise DataError(
            f"{path} cannot be read: {_reason(error)}",
            hint=f"write it again: {again}, or start the run anew",
        ) from error


def _reason(error: Exception) -> str:
    """Return the first line of what a library said; it may say more of itself than of the file."""
    said = str(error).strip().partition("\n")[0]
    return said if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {said}"
