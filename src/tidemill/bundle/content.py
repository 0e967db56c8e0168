"""The files of a bundle and the digest that identifies them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tidemill.errors import IntegrityError, Unavailable

__all__ = [
    "FETCH",
    "GOLDEN",
    "SIGNATURE",
    "WARM_UP",
    "digest",
    "hashes",
    "identity",
    "read",
    "revision",
    "unreadable",
]

SIGNATURE = "model.sig"
WARM_UP = "warmup.json"
"""A list of requests as a server of the Open Inference Protocol takes them; optional."""
GOLDEN = "golden.json"
"""Rows with the scores that they must get (`bundle.golden`); older bundles lack it."""
FETCH = "remove the folder and fetch the bundle again: tidemill registry fetch NAME/VERSION FOLDER"


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a bundle but its signature, by `/`-separated name.

    Raises IntegrityError for what a bundle cannot hold: links, devices, names with line breaks;
    and when the folder holds no file. Raises Unavailable when it is not there or cannot be read.
    """
    found = {n: _sha256(folder, n) for n in _files(folder) if n != SIGNATURE}
    if not found:
        raise IntegrityError(f"{folder} is no model bundle: it holds no file", hint=FETCH)
    return found


def identity(files: Mapping[str, str]) -> str:
    """Return the digest of a bundle whose files have these hashes; see the package's docstring."""
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def digest(folder: Path) -> str:
    """Return the bundle's identity; raises IntegrityError and Unavailable like `hashes`."""
    return identity(hashes(folder))


def revision(bundle_digest: str) -> str:
    """Return the short name of a digest, as servers report it."""
    return bundle_digest.removeprefix("sha256:")[:10]


def read(folder: Path, name: str, most: int = -1) -> bytes | None:
    """Return a file of a bundle, `most` bytes of it; None when the folder does not hold it.

    Raises Unavailable when it cannot be read, as when the folder itself is not there.
    """
    try:
        if folder / name not in folder.iterdir():
            return None
        with (folder / name).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise unreadable(folder, name, error) from error


def unreadable(folder: Path, name: str, error: OSError) -> Unavailable:
    """Return the error of a bundle that cannot be read now.

    It is no IntegrityError: nothing was read that is wrong, and a volume may still come.
    """
    return Unavailable(
        f"the bundle cannot be read: {error.filename or folder / name}: {error.strerror}",
        hint="is its volume there and in order? to fetch a copy: "
        "tidemill registry fetch NAME/VERSION FOLDER",
    )


def _files(folder: Path) -> Iterator[str]:
    """Yield the `/`-separated names of all files."""

    def refuse(error: OSError) -> None:
        raise error

    try:
        for parent, folders, names in os.walk(folder, onerror=refuse):
            within = Path(parent).relative_to(folder)
            for entry in (*folders, *names):
                _check_entry(folder, (within / entry).as_posix())
            yield from ((within / name).as_posix() for name in names)
    except OSError as error:
        raise unreadable(folder, "", error) from error


def _check_entry(folder: Path, name: str) -> None:
    path = folder / name
    if path.is_symlink() or not (path.is_dir() or path.is_file()):
        raise IntegrityError(f"{folder}: '{name}' is a link or no regular file", hint=FETCH)
    if "\n" in name or "\r" in name:
        raise IntegrityError(f"{folder}: the name {name!r} holds a line break", hint=FETCH)


def _sha256(folder: Path, name: str) -> str:
    try:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(folder, name, error) from error
