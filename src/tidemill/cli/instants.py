"""Instants on the command line."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.domain import instants

if TYPE_CHECKING:
    from tidemill.wiring import Project

__all__ = ["AsOf", "instant"]

AsOf = Annotated[str, typer.Option(metavar="INSTANT", help="As known then, ISO 8601 [the clock].")]


def instant(project: Project, text: str) -> datetime:
    """Read an instant, UTC unless it says otherwise; empty is the project's clock."""
    return instants.instant(text) if text else project.clock.now()
