"""The layers that settings come from, each read into a tree with the origin of every key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tidemill.errors import ConfigError

__all__ = ["RESERVED", "Layer", "Origin", "environment", "overrides", "yaml_file"]

PREFIX = "TIDEMILL_"
RESERVED = frozenset({"TIDEMILL_ENV", "TIDEMILL_PROJECT", "TIDEMILL_CLOCK", "TIDEMILL_SUPERVISED"})
"""Variables with the prefix that are no settings; also all that begin with `TIDEMILL_TEST_`."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: the layer, and the place within it."""

    layer: str
    place: str

    def __str__(self) -> str:
        return f"{self.layer} ({self.place})" if self.place else self.layer


@dataclass(frozen=True, slots=True)
class Layer:
    """A tree of values and the origin of each of its keys, by dotted path."""

    values: dict[str, Any]
    origins: dict[str, Origin]


def yaml_file(path: Path, root: Path) -> Layer:
    """Read one YAML file; raises ConfigError that names file and line."""
    shown = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"cannot read {shown}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{shown} is not UTF-8 text: {error.reason}", hint="save the file as UTF-8"
        ) from error
    except yaml.MarkedYAMLError as error:
        raise _invalid(shown, error) from error
    if node is None:
        return Layer({}, {})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(
            f"{shown}:1 holds no mapping of settings at its top level",
            hint="write one `key: value` a line",
        )
    origins: dict[str, Origin] = {}
    for dotted, line in _lines(node, "", shown):
        origins[dotted] = Origin(shown, f"line {line}")
    try:
        values = yaml.SafeLoader("").construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _invalid(shown, error) from error
    return Layer(values, origins)


def _invalid(shown: str, error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark
    where = f"{shown}:{mark.line + 1}" if mark else shown
    return ConfigError(
        f"{where} is not valid YAML: {error.problem}", hint="mend the file at that line"
    )


def _lines(node: yaml.Node, prefix: str, shown: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            name = str(key.value)
            if name in seen:
                raise ConfigError(
                    f"{shown}:{line} sets '{prefix}{name}' twice", hint="keep one of the two"
                )
            seen.add(name)
            yield prefix + name, line
            yield from _lines(value, f"{prefix}{name}.", shown)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield f"{prefix}{index}", value.start_mark.line + 1
            yield from _lines(value, f"{prefix}{index}.", shown)


def environment(variables: Mapping[str, str]) -> Layer:
    """Read `TIDEMILL_GROUP__KEY=value`: two underscores between levels, values in YAML."""
    layer = Layer({}, {})
    for name in sorted(variables):
        if not name.startswith(PREFIX) or name in RESERVED or name.startswith("TIDEMILL_TEST_"):
            continue
        dotted = name.removeprefix(PREFIX).lower().replace("__", ".")
        _put(layer, dotted, variables[name], Origin("environment", name))
    return layer


def overrides(assignments: list[str]) -> Layer:
    """Read `--set a.b=value` assignments; values in YAML."""
    layer = Layer({}, {})
    for assignment in assignments:
        dotted, equals, value = assignment.partition("=")
        if not equals or not dotted.strip():
            raise ConfigError(
                f"--set {dotted!r} is not of the form key=value",
                hint="write --set training.epochs=5",
            )
        _put(layer, dotted.strip(), value, Origin("--set", dotted.strip()))
    return layer


def _put(layer: Layer, dotted: str, text: str, origin: Origin) -> None:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {origin} is not valid YAML", hint="quote it") from error
    *parents, last = dotted.split(".")
    tree = layer.values
    for depth, parent in enumerate(parents):
        layer.origins.setdefault(".".join(parents[: depth + 1]), origin)
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(
                f"{origin} sets '{dotted}', and another one sets "
                f"'{'.'.join(parents[: depth + 1])}' to a plain value",
                hint="keep one of the two",
            )
    tree[last] = value
    layer.origins[dotted] = origin
