"""`tidemill labels`: the outcomes that monitoring and rollouts wait for."""

from __future__ import annotations

import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import emit

app = typer.Typer(no_args_is_help=True, help="Collect the outcomes that became known.")


@app.callback()
def _labels() -> None:
    """Collect the outcomes that became known."""


@app.command()
def collect() -> None:
    """Append the labels that became known since the last time."""
    project = open_project()
    now = project.clock.now()
    rows = project.labels.collect(now)
    emit({"rows": rows, "until": now}, f"{rows:,} labels became known until {now:%Y-%m-%d %H:%M}")


@app.command()
def follow() -> None:
    """Append labels every hour of the clock, until stopped."""
    from tidemill.steps.labels import follow as run

    project = open_project()
    run(project.labels, project.clock)
