"""The chart's values as values.yaml documents them: a comment above a key is its description."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from tests.charts.rendering import CHART

KEY = re.compile(r"^( *)([A-Za-z]\w*):")


@dataclass(frozen=True)
class Value:
    """A key with a comment."""

    path: tuple[str, ...]
    default: Any
    description: str

    @property
    def dotted(self) -> str:
        """Return its name."""
        return ".".join(self.path)


def defaults() -> dict[str, Any]:
    """Return what values.yaml says."""
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


def documented() -> list[Value]:
    """Return every key that has a comment, in the file's order."""
    tree = defaults()
    return [
        Value(path, lookup(tree, path), description)
        for path, description in _keys((CHART / "values.yaml").read_text())
        if description
    ]


def rows() -> list[Value]:
    """Return the documented keys that hold no documented keys."""
    found = documented()
    parents = {one.path[:-1] for one in found}
    return [one for one in found if one.path not in parents]


def leaves(tree: Any, at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of everything in a tree that is no mapping, and of empty mappings."""
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from leaves(value, (*at, key))
    else:
        yield at


def lookup(tree: Any, path: tuple[str, ...]) -> Any:
    """Return what lies at a path."""
    for key in path:
        tree = tree[key]
    return tree


def _keys(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of every key that has a line of its own, and the comment above it."""
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip().removeprefix("#").strip())
        elif found := KEY.match(line):
            indent = len(found[1])
            path = [*((at, name) for at, name in path if at < indent), (indent, found[2])]
            yield tuple(name for _, name in path), " ".join(comment)
            comment = []
        else:
            comment = []
