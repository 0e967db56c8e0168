"""Settings, loaded: defaults < configs/base.yaml < configs/<env>.yaml < environment < --set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tidemill.errors import ConfigError
from tidemill.settings.base import looks_secret, redact
from tidemill.settings.keys import unknown_key
from tidemill.settings.paths import Paths
from tidemill.settings.schema import Settings
from tidemill.settings.sources import Layer, Origin, environment, overrides, yaml_file

__all__ = ["Loaded", "Origin", "default_env", "find_project", "load"]

DEFAULT = Origin("default", "")
LOCAL = "local"
"""The environment that needs no overlay."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A project's settings, and the trace of where each value came from."""

    settings: Settings
    paths: Paths
    env: str
    origins: dict[str, Origin]
    """Origin of every dotted key that some layer set; all others are defaults."""

    def origin(self, dotted: str) -> Origin:
        """Where the value of `dotted` came from; a part of a list came with the list."""
        if dotted not in self.origins and not any(part.isdigit() for part in dotted.split(".")):
            return DEFAULT
        return _nearest(dotted, self.origins)


def find_project(start: Path | None = None) -> Path:
    """Find the project's root: the closest folder at or above `start` with `configs/base.yaml`.

    Raises ConfigError that says where was looked.
    """
    named = os.environ.get("TIDEMILL_PROJECT")
    begin = Path(named) if start is None and named else (start or Path.cwd())
    begin = begin.absolute()
    for folder in (begin, *begin.parents):
        if (folder / "configs" / "base.yaml").is_file():
            return folder
    raise ConfigError(
        f"no tidemill project at {begin} or above it (a project has configs/base.yaml)",
        hint="change into a project, or make one: tidemill init NAME",
    )


def load(
    root: Path | None = None,
    *,
    env: str | None = None,
    assignments: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Loaded:
    """Load and validate a project's settings.

    `env` names the overlay `configs/<env>.yaml` (default: `default_env`; the overlay `local` may be
    absent). Raises ConfigError that names file, line and the closest valid key.
    """
    root = find_project(root)
    variables = os.environ if variables is None else variables
    env = env or default_env(variables)
    layers = [yaml_file(root / "configs" / "base.yaml", root)]
    overlay = root / "configs" / f"{env}.yaml"
    if overlay.is_file():
        layers.append(yaml_file(overlay, root))
    elif env != LOCAL:
        known = sorted(p.stem for p in (root / "configs").glob("*.yaml") if p.stem != "base")
        raise ConfigError(
            f"there is no environment '{env}': configs/{env}.yaml does not exist",
            hint=f"known: {', '.join(known) or 'none'}",
        )
    layers += [environment(variables), overrides(list(assignments))]
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for layer in layers:
        _merge(values, layer.values, origins, layer, "")
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, origins)) from error
    return Loaded(settings, Paths(root, settings), env, origins)


def default_env(variables: Mapping[str, str]) -> str:
    """Return the environment of a command that is not told one: `TIDEMILL_ENV`, else `local`."""
    return variables.get("TIDEMILL_ENV") or LOCAL


def _merge(
    base: dict[str, Any], over: dict[str, Any], origins: dict[str, Origin], layer: Layer, at: str
) -> None:
    """Merge `over` into `base`: mappings key by key, everything else replaced whole."""
    for key, value in over.items():
        dotted = f"{at}{key}"
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value, origins, layer, dotted + ".")
            continue
        for known in [k for k in origins if k == dotted or k.startswith(dotted + ".")]:
            del origins[known]
        origins[dotted] = _nearest(dotted, layer.origins)
        origins.update({k: o for k, o in layer.origins.items() if k.startswith(dotted + ".")})
        base[key] = value


def _nearest(dotted: str, origins: Mapping[str, Origin]) -> Origin:
    while dotted not in origins and dotted:
        dotted = dotted.rpartition(".")[0]
    return origins.get(dotted, DEFAULT)


def _explain(error: ValidationError, origins: Mapping[str, Origin]) -> str:
    lines = []
    for problem in error.errors():
        dotted, origin = _locate(problem["loc"], origins)
        where = f"{origin}: " if origin else ""
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}{unknown_key(dotted, problem['loc'], Settings)}")
        elif problem["type"] == "missing":
            lines.append(f"{where}'{dotted}' is required and not set")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"{where}'{dotted}' needs 'type' ({_found(problem)})")
        else:
            lines.append(f"{where}'{dotted}': {problem['msg']} ({_found(problem)})")
    return "the settings are wrong:\n" + "\n".join(f"  - {line}" for line in lines)


def _found(problem: ErrorDetails) -> str:
    """Say what was given, unless it may be a secret; of a mapping the keys, of a list the length.

    A value of the wrong shape may hold a secret further down.
    """
    value = problem["input"]
    if any(looks_secret(str(part)) for part in problem["loc"]):
        return "what was given is not shown"
    if isinstance(value, Mapping):
        return f"found a mapping of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, list):
        return f"found a list of {len(value)}"
    return f"found {redact(repr(value)):.80}"


def _locate(loc: tuple[int | str, ...], origins: Mapping[str, Origin]) -> tuple[str, Origin | None]:
    """Dotted key and origin of a pydantic location, skipping the tags of unions."""
    parts: list[str] = []
    found: Origin | None = None
    loc = tuple(part for part in loc if part != "[key]")
    for index, part in enumerate(loc):
        dotted = ".".join([*parts, str(part)])
        tag = dotted not in origins and parts and index < len(loc) - 1
        if tag and ".".join([*parts, str(loc[index + 1])]) in origins:
            continue
        parts.append(str(part))
        found = origins.get(dotted, found)
    return ".".join(parts), found
