"""How a run is shown: a live table on a terminal, one line per change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tidemill.cli.app import globals_of
from tidemill.cli.output import emit, table
from tidemill.ports.runs import RunResult, StepResult, Watcher

__all__ = ["finish", "progress", "step_table"]

COLOURS = {"succeeded": "green", "reused": "cyan", "failed": "red", "running": "yellow"}
EXIT_CODES = {"succeeded": 0, "planned": 0, "running": 0, "refused": 3, "timed_out": 4}
INTERRUPTED = 130


@contextmanager
def progress() -> Iterator[Watcher]:
    """Yield what to call with each state of the run; shows it on standard error.

    Ctrl-C ends the command with exit code 130, after the run was stopped.
    """
    view = _View() if sys.stderr.isatty() else _Lines()
    try:
        if globals_of().json or isinstance(view, _Lines):
            yield view.see
        else:
            with Live(view, console=Console(stderr=True), transient=True):
                yield view.see
    except KeyboardInterrupt as error:
        if view.run:
            _tell_end(view.run)
        raise SystemExit(INTERRUPTED) from error


class _View:
    """A table that tells the seconds of the running step at every refresh."""

    def __init__(self) -> None:
        self.run: RunResult | None = None

    def see(self, run: RunResult) -> None:
        self.run = run

    def __rich__(self) -> Table | str:
        return step_table(self.run) if self.run else "compiling …"


class _Lines(_View):
    """One line for each step that starts or ends; none with `--json`."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: set[tuple[str, str]] = set()

    def see(self, run: RunResult) -> None:
        self.run = run
        for step in run.steps:
            if step.state == "pending" or (step.name, step.state) in self.shown:
                continue
            self.shown.add((step.name, step.state))
            if not globals_of().json:
                took = f"{step.wall_seconds:.1f} s" if step.wall_seconds else ""
                typer.echo(f"{time.strftime('%H:%M:%S')} {step.name} {step.state} {took}", err=True)


def step_table(run: RunResult) -> Table:
    """Return the steps of a run with their states and times."""
    rows = [
        (
            f"[{COLOURS.get(step.state, 'dim')}]{step.state}[/]",
            step.name,
            f"{_seconds(step):.1f} s" if step.started_at and step.state != "reused" else "",
            f"{step.cpu_seconds:.1f} s" if step.cpu_seconds else "",
        )
        for step in run.steps
    ]
    return table(("state", "step", "wall", "cpu"), rows)


def _seconds(step: StepResult) -> float:
    if step.state != "running":
        return step.wall_seconds
    return (datetime.now(UTC) - datetime.fromisoformat(step.started_at)).total_seconds()


def finish(run: RunResult, on: str = "") -> None:
    """Print how a run ended and exit with the code of its state; the cause is the last line.

    `on` is where it ran, if the command was told.
    """
    emit(asdict(run) | {"work_seconds": run.work_seconds}, step_table(run))
    _tell_end(run, on)
    raise SystemExit(EXIT_CODES.get(run.state, 1))


def _same(run: RunResult, on: str) -> str:
    """Return the run's id with what chose its place on the command line."""
    given = {"--on": on, "--env": globals_of().env}
    return " ".join(
        [run.run_id, *(f"{option} {value}" for option, value in given.items() if value)]
    )


def _tell_end(run: RunResult, on: str = "") -> None:
    if run.state == "succeeded":
        share = 1 - run.work_seconds / run.wall_seconds if run.wall_seconds else 0.0
        typer.echo(
            f"{run.run_id} succeeded in {run.wall_seconds:.1f} s, {share:.0%} of it orchestration",
            err=True,
        )
    elif run.state not in ("planned", "running"):
        for step in run.steps:
            if step.state == "failed" and step.log:
                typer.echo(f"log: {step.log}", err=True)
        if run.state != "refused":  # as it was started, it would be refused again
            typer.echo(f"resume: tidemill run {run.pipeline} --resume {_same(run, on)}", err=True)
        cause = " ".join(run.cause.split())
        typer.secho(f"{run.run_id} {run.state.replace('_', ' ')}: {cause}", fg="red", err=True)
