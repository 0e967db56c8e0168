"""Instants on the command line."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.errors import UsageError

if TYPE_CHECKING:
    from tidemill.wiring import Project

__all__ = ["AsOf", "instant"]

AsOf = Annotated[str, typer.Option(metavar="INSTANT", help="As known then, ISO 8601 [the clock].")]


def instant(project: Project, text: str) -> datetime:
    """Read an instant, UTC unless it says otherwise; empty is the project's clock."""
    if not text:
        return project.clock.now()
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"'{text}' is no instant", hint="write 2013-04-01T00:00+00:00") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
