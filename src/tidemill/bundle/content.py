"""The files of a bundle and the digest that identifies them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from tidemill.errors import IntegrityError

__all__ = [
    "FETCH",
    "GOLDEN",
    "SIGNATURE",
    "WARM_UP",
    "digest",
    "hashes",
    "identity",
    "revision",
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
    and when the folder cannot be read or holds no file.
    """
    found = {name: _sha256(path, name) for name, path in _files(folder) if name != SIGNATURE}
    if not found:
        raise IntegrityError(f"{folder} is no model bundle: it holds no file", hint=FETCH)
    return found


def identity(files: Mapping[str, str]) -> str:
    """Return the digest of a bundle whose files have these hashes; see the package's docstring."""
    lines = "".join(f"{files[name]}  {name}\n" for name in sorted(files))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def digest(folder: Path) -> str:
    """Return the bundle's identity; raises IntegrityError like `hashes`."""
    return identity(hashes(folder))


def revision(bundle_digest: str) -> str:
    """Return the short name of a digest, as servers report it."""
    return bundle_digest.removeprefix("sha256:")[:10]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    def refuse(error: OSError) -> None:
        raise IntegrityError(
            f"the bundle {folder} cannot be read: {error.filename}: {error.strerror}", hint=FETCH
        ) from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        for entry in (*folders, *names):
            path = Path(parent, entry)
            name = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise IntegrityError(f"{folder}: '{name}' is a link or no regular file", hint=FETCH)
            if "\n" in name or "\r" in name:
                raise IntegrityError(f"{folder}: the name {name!r} holds a line break", hint=FETCH)
        yield from (
            (Path(parent, n).relative_to(folder).as_posix(), Path(parent, n)) for n in names
        )


def _sha256(path: Path, name: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise IntegrityError(
            f"{path.parent}: '{name}' cannot be read: {error.strerror}", hint=FETCH
        ) from error
