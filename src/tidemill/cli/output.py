"""How commands answer: a table or text for people, one JSON document with `--json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from tidemill.cli.app import globals_of

__all__ = ["console", "emit", "emit_line", "table"]


def console() -> Console:
    """Return a console on standard output that does not wrap when piped."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=200)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Build a plain table."""
    view = Table(*headers, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        view.add_row(*("" if cell is None else str(cell) for cell in row))
    return view


def emit(body: Any, human: Any = None) -> None:
    """Print `body` as JSON with `--json`, else `human` (text as it is, or a rich renderable)."""
    if globals_of().json or human is None:
        typer.echo(json.dumps(body, indent=1, default=_plain))
    elif isinstance(human, str):  # rich would wrap it, and take what is in brackets for markup
        typer.echo(human)
    else:
        console().print(human, highlight=False)


def emit_line(body: Any, human: Any) -> None:
    """Print one item of a stream: a line of JSON (JSON Lines) with `--json`, else `human`."""
    if globals_of().json:
        typer.echo(json.dumps(body, default=_plain))
    else:
        console().print(human, highlight=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
