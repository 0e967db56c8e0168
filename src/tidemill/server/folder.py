"""The folder of a repository: a bundle per version, `<folder>/<model>/<version>/`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Key", "list_bundles", "newest_first", "order", "weigh"]

Key = tuple[str, str]
"""A model's name and a version."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""A model or a version: a folder's name, and no way out of the repository."""
FIXED_BYTES = 4 * 2**20
"""Memory of a loaded version beside its graph: threads, counters and the prediction log's buffer
took 0.1 to 5.4 MB after traffic."""
FILE_FACTOR = 2.5
"""Memory per byte of a bundle's files: 0.9 to 2.5 at models of 1 to 128 MB, the largest of it while
they are loaded."""


def weigh(bundle: Path) -> float:
    """Return the bytes of memory that a bundle takes when it is loaded, about.

    Measured around a load the same model took 8 MB once and 20 the next time, as allocators keep
    what a load needed for a while; by the files it is the same each time, and known before it.
    """
    try:
        files = sum(path.stat().st_size for path in bundle.iterdir())
    except OSError:  # it has just gone: its load will say so
        files = 0
    return FIXED_BYTES + FILE_FACTOR * files


def list_bundles(folder: Path) -> frozenset[Key]:
    """Return the models and versions whose bundles a folder holds; none if it cannot be read."""
    try:
        return frozenset(
            (path.parent.parent.name, path.parent.name)
            for path in folder.glob("*/*/manifest.json")
            if NAME.fullmatch(path.parent.name) and NAME.fullmatch(path.parent.parent.name)
        )
    except OSError:
        return frozenset()


def order(version: str) -> tuple[int, str]:
    """Order versions as people count: numbers by their value, above everything else."""
    if not (version.isascii() and version.isdecimal()):
        return -1, version
    digits = version.lstrip("0")  # by length, then digits: a client may name a number of any length
    return len(digits), digits


def newest_first(keys: Iterable[Key]) -> list[Key]:
    """Order versions so that the newest of each model come first, then the next."""
    place: Counter[str] = Counter()
    ranked: list[tuple[int, Key]] = []
    for key in sorted(keys, key=lambda key: order(key[1]), reverse=True):
        ranked.append((place[key[0]], key))
        place[key[0]] += 1
    return [key for _, key in sorted(ranked)]
