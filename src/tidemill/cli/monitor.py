"""`tidemill monitor`: judge windows of the prediction log, show what was found."""

from __future__ import annotations

from multiprocessing import active_children, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.app import globals_of, open_project
from tidemill.cli.output import console, emit, table

if TYPE_CHECKING:
    from rich.table import Table

    from tidemill.domain.governor import Request
    from tidemill.domain.incidents import Incident
    from tidemill.domain.verdicts import WindowVerdict
    from tidemill.steps.monitor import Judged
    from tidemill.steps.watch import Round
    from tidemill.wiring import Project

app = typer.Typer(no_args_is_help=True, help="Judge windows of the prediction log.")

REPORT_SECONDS = 600
"""A report that takes longer ends itself; the alert stands without it."""


@app.callback()
def _monitor() -> None:
    """Judge windows of the prediction log; open and close incidents; ask for retraining.

    Exit codes: 0 all windows were judged; 1 a window could not be judged, or a platform is down.
    """


@app.command()
def run() -> None:
    """Judge every window that is due, then decide again which retraining requests may run."""
    from tidemill.cli.incident import page

    project = open_project()

    def seen(judged: Judged, requests: tuple[Request, ...]) -> None:
        answers = {request.correlation_id: request for request in requests}
        for incident in () if globals_of().json else judged.incidents:
            console().print(page(project, incident, answers.get(incident.id)), highlight=False)

    done = rounds(project).run(seen)
    for process in active_children():
        process.join()
    verdicts = [judged.verdict for judged in done]
    emit(verdicts, _verdicts(verdicts) if verdicts else "no window is due")
    if any(verdict.status == "not_evaluable" for verdict in verdicts):
        raise typer.Exit(1)


@app.command()
def follow() -> None:
    """Run a round every hour of the clock, until stopped; before there is a log, wait for it."""
    from tidemill.steps.watch import follow as run_on

    project = open_project()
    run_on(rounds(project), project.clock)


@app.command()
def status(last: Annotated[int, typer.Option(help="Windows to show.")] = 14) -> None:
    """Show the last verdicts. What could not be judged is said, never shown as fine."""
    project = open_project()
    verdicts = project.windows.last(project.settings.registry.model, last)
    emit(verdicts, _verdicts(verdicts) if verdicts else "no window was judged yet")
    if verdicts and verdicts[-1].status == "not_evaluable":
        raise typer.Exit(1)


@app.command()
def report(
    incident: Annotated[str, typer.Argument(help="Incident; default: the last window.")] = "",
) -> None:
    """Draw the Evidently report of an incident, or of the last window (for a weekly schedule)."""
    reporter = open_project().reporter
    if incident:
        drawn = reporter.of_incident(incident)
        emit(drawn, drawn.report)
        if drawn.report.startswith("none:"):
            raise typer.Exit(1)
        return
    url = reporter.of_last_window()
    emit({"report": url}, url)


def rounds(project: Project) -> Round:
    """Return the project's round of monitoring; each report is drawn in a process of its own."""
    from tidemill.steps.watch import Round

    config = project.save(project.paths.state / "monitor.json")

    def draw(incident: Incident) -> None:
        if project.settings.monitoring.draw_reports:
            work = (config, incident.id, REPORT_SECONDS)
            # starting one also reaps those that ended since
            get_context("spawn").Process(target=_draw, args=work, daemon=True).start()

    return Round(project.monitor, project.governor, draw)


def _draw(config: Path, incident: str, seconds: int) -> None:
    """Draw a report within `seconds`, behind everything else on the machine."""
    import os
    import signal
    import threading

    from tidemill.priority import keep_priority

    signal.alarm(seconds)  # its default action ends this process, wherever it is
    os.setsid()
    os.nice(10)
    keep_priority()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from tidemill.wiring import Project

    Project.open(str(config)).reporter.of_incident(incident)


def _end_with_parent() -> None:
    """End this process when the monitor ends: their sessions differ, so no signal does."""
    import os
    from multiprocessing import parent_process

    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _verdicts(verdicts: list[WindowVerdict]) -> Table:
    rows = [
        (
            verdict.end[:16],
            verdict.revision,
            verdict.rows,
            verdict.status,
            verdict.cause if verdict.status == "judged" else "",
            ", ".join((*verdict.fired, *(f"{tier}?" for tier in verdict.unevaluated))),
            _first(verdict),
        )
        for verdict in verdicts
    ]
    return table(("until", "revision", "rows", "status", "cause", "fired, ? not judged", ""), rows)


def _first(verdict: WindowVerdict) -> str:
    if verdict.findings:
        return verdict.top(1)[0].text
    return next(iter(verdict.unevaluated.values()), "")
