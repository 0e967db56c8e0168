"""Which files a container sees in place of an image."""

from __future__ import annotations

import fnmatch
import json
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Image:
    """A root file system and what an image's config says about it."""

    root: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    cmd: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: int = 0
    copies: dict[str, str] = field(default_factory=dict)
    """Folders of this machine that lie over the root, by their place there: a Dockerfile's COPY."""


class NoImage(Exception):
    """The table says that this image cannot be pulled."""


class Images:
    """A JSON table, image name or glob to `Image`'s fields, read anew for each container.

    `null` is an image that cannot be pulled. Any other name stands for this machine's own files.
    """

    def __init__(self, table: Path) -> None:
        self._table = table

    def find(self, name: str) -> Image:
        """Return the first entry that matches.

        Raises:
            NoImage: The entry is null.
        """
        table = json.loads(self._table.read_text()) if self._table.exists() else {}
        for glob, entry in table.items():
            if fnmatch.fnmatch(name, glob):
                if entry is None:
                    raise NoImage(f"no such image: {name}")
                return Image(**entry)
        return Image()
