"""`tidemill labels`: the outcomes that monitoring and rollouts wait for."""

from __future__ import annotations

import time

import structlog
import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import emit

app = typer.Typer(no_args_is_help=True, help="Collect the outcomes that became known.")

POLL_SECONDS = 0.2
"""Wall time between two looks at the clock: a replay may run a day in a second."""


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
    from datetime import timedelta

    from tidemill.errors import RetryableError

    log = structlog.get_logger(__name__)
    project = open_project()
    last = None
    while True:
        now = project.clock.now()
        if last is None or now >= last + timedelta(hours=1):
            try:
                rows = project.labels.collect(now)
                last = now
                log.info("labels", rows=rows, until=now.isoformat())
            except RetryableError as error:
                log.warning("labels failed, trying again", reason=str(error))
        time.sleep(POLL_SECONDS)
