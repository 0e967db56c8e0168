"""The parameters of a run: completed from the context, typed as the pipeline declares, checked."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tidemill.errors import UsageError

__all__ = ["bind", "context", "git_commit"]

MAX_BYTES = 10_000
"""The API server's default limit on all parameters of a run together."""


def context(root: Path, config: str, now: datetime, run: str) -> dict[str, str]:
    """Return the parameters that a pipeline may declare and nobody need give."""
    return {
        "config": config,
        "as_of": now.isoformat(),
        "correlation_id": run,
        "git_commit": git_commit(root),
    }


def git_commit(root: Path) -> str:
    """Return the commit of the project's code, `<sha>-dirty` if it was changed since, or ""."""
    line = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(line, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def bind(
    pipeline: str, ir: Mapping[str, Any], given: Mapping[str, Any], context: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a run: the given ones over those of the context it has.

    A text is read as the declared type. Raises UsageError for a parameter that is unknown,
    missing, of the wrong type, or that KFP would change.
    """
    declared = ir["root"].get("inputDefinitions", {}).get("parameters", {})
    bound = {name: value for name, value in context.items() if name in declared}
    for name, value in given.items():
        if name not in declared:
            raise UsageError.among(f"parameter of '{pipeline}'", name, declared)
        bound[name] = _typed(name, value, declared[name]["parameterType"])
    missing = [n for n, spec in declared.items() if n not in bound and not spec.get("isOptional")]
    if missing:
        raise UsageError(
            f"'{pipeline}' needs the parameter {', '.join(missing)}",
            hint=f"tidemill run {pipeline} -p {missing[0]}=…",
        )
    size = sum(len(str(value).encode()) for value in bound.values())
    if size > MAX_BYTES:
        raise UsageError(
            f"the parameters take {size} bytes, KFP takes {MAX_BYTES}",
            hint="put what is long into the settings, which every step opens",
        )
    return bound


def _boolean(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


READERS: dict[str, tuple[type | tuple[type, ...], Callable[[str], Any]]] = {
    "STRING": (str, str),
    "NUMBER_INTEGER": (int, int),
    "NUMBER_DOUBLE": (float, float),
    "BOOLEAN": (bool, _boolean),
    "LIST": (list, json.loads),
    "STRUCT": (dict, json.loads),
}
KINDS = {
    "STRING": "a text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a list as JSON",
    "STRUCT": "an object as JSON",
}


def _typed(name: str, value: Any, declared: str) -> Any:
    kind, read = READERS[declared]
    wrong = UsageError(f"{name}={value!r}: expected {KINDS[declared]}")
    if "python3" in str(value):
        raise UsageError(f"{name}: a local run replaces 'python3' in values by a path")
    if isinstance(value, str):
        try:
            value = read(value)
        except (ValueError, KeyError) as error:
            raise wrong from error
    if declared == "NUMBER_DOUBLE" and type(value) is int:
        return float(value)
    if not isinstance(value, kind) or (type(value) is bool) != (declared == "BOOLEAN"):
        raise wrong
    return value
