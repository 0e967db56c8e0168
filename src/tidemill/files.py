"""Files and folders that are replaced whole or not at all, whatever stops the writer.

A file is written beside its place and renamed: readers see the old bytes or the new ones. A killed
writer leaves a hidden `.put-…` file beside it, which may be deleted.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tidemill.errors import Unavailable

__all__ = ["PARTIAL", "place", "placing", "replace", "restore", "swap"]

PARTIAL = ".put-"
"""What the name of a file begins with that is still being written."""


def place(path: Path, content: bytes, *, durable: bool = False) -> Path:
    """Make `path` hold `content`, whole or not at all, and return it; makes its folder.

    `durable` as in `replace`. Raises Unavailable, with the file and the reason, when the disk is
    full or forbids it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace(path, content, durable=durable)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _unwritable(path: Path, error: OSError) -> Unavailable:
    """Return the error of a file or folder that could not be written and is what it was."""
    return Unavailable(
        f"{path} cannot be written: {error.strerror}",
        hint="free space or mend the folder, then run the same command again; nothing was lost",
    )


def replace(path: Path, content: bytes, *, durable: bool = False) -> None:
    """Do what `place` does in a folder that is there; raises OSError.

    `durable`: flushed to the disk, so that the machine may stop, too. It took 13 ms a file where
    this was written, too much for what can be computed again.
    """
    fresh = path.with_name(f"{PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        with fresh.open("xb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    if durable:
        _flush(path.parent)


def _flush(folder: Path) -> None:
    parent = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


@contextmanager
def placing(folder: Path) -> Iterator[Path]:
    """Lend an empty folder that takes the place of `folder` when the block ends well.

    Raises Unavailable when the block cannot write there; then `folder` is what it was.
    """
    fresh = folder.with_name(f".{folder.name}.writing")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        swap(fresh, folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def swap(fresh: Path, folder: Path) -> None:
    """Put the folder `fresh` where `folder` is; both on one file system. Raises OSError.

    What was there is kept beside it until the new one is in its place. Killed between the two
    renames there is no `folder`, and `restore` brings the old one back.
    """
    restore(folder)
    if folder.exists():
        folder.rename(_aside(folder))
    try:
        fresh.rename(folder)
    finally:
        restore(folder)


def restore(folder: Path) -> None:
    """End a `swap` that was killed or failed: bring back what was set aside, unless it is replaced.

    Raises OSError.
    """
    if folder.exists():
        shutil.rmtree(_aside(folder), ignore_errors=True)
    elif _aside(folder).exists():
        _aside(folder).rename(folder)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")
