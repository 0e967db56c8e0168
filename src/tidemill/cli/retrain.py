"""`tidemill retrain`: ask for a retraining, see what the governor decided and why."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.actor import actor
from tidemill.cli.app import open_project
from tidemill.cli.output import emit, table
from tidemill.errors import Refused, UsageError

if TYPE_CHECKING:
    from tidemill.domain.governor import Request
    from tidemill.wiring import Project

app = typer.Typer(no_args_is_help=True, help="Ask for, run and explain retrainings.")

POLL_SECONDS = 0.2
"""Wall time between two looks for an accepted request."""


@app.callback()
def _retrain() -> None:
    """Ask for, run and explain retrainings.

    Exit codes: 0 done; 1 the run failed; 3 the governor refused or asks for a person.
    """


@app.command()
def request(
    reason: Annotated[str, typer.Option("--reason", "-m", help="Why; it is recorded.")],
    cause: Annotated[str, typer.Option(help="manual or ci.")] = "manual",
    key: Annotated[str, typer.Option(help="The same key is the same request: a commit.")] = "",
    start: Annotated[bool, typer.Option(help="Run it here at once if it may.")] = True,
) -> None:
    """Ask for a retraining; the governor answers RUN, WAIT, REFUSE or ESCALATE."""
    project = open_project()
    if cause not in ("manual", "ci"):
        raise UsageError(f"--cause {cause}: a person asks with 'manual', a commit with 'ci'")
    asked = project.governor.request(
        "ci" if cause == "ci" else "manual", actor=actor(), reason=reason, key=key
    )
    if asked.state == "pending" and start:
        asked = _launch(project, asked)
    emit(asked, _line(project, asked))
    _exit(asked)


@app.command()
def run() -> None:
    """Decide again what waits, then run the accepted request, if there is one, to its end."""
    project = open_project()
    project.governor.advance()
    pending = project.governor.pending()
    if pending is None:
        emit(None, "no request may run now: tidemill retrain status")
        return
    done = _launch(project, pending)
    emit(done, _line(project, done))
    _exit(done)


@app.command()
def follow() -> None:
    """Run accepted requests as they come, one at a time, until stopped.

    A run that this command was killed in continues when it starts again.
    """
    from tidemill.errors import RetryableError

    project = open_project()
    decided, told = False, ""
    while True:
        try:
            if not decided:
                project.governor.advance()
                decided = True
            pending = project.governor.pending()
            if pending is not None:
                _launch(project, pending)
                told = ""
        except RetryableError as error:
            if error.message != told:
                told = error.message
                typer.echo(f"nothing could be run, trying again: {error}", err=True)
        time.sleep(POLL_SECONDS)


@app.command()
def status() -> None:
    """Show every request and where it stands."""
    project = open_project()
    found = project.requests.all(project.settings.registry.model)
    rows = [
        (r.id, r.state, r.trigger, r.requested_at[:16], r.run_id, _why(project, r)) for r in found
    ]
    headers = ("request", "state", "cause", "asked", "run", "why")
    emit(found, table(headers, rows) if rows else "nobody asked for a retraining yet")


@app.command()
def why(
    request: Annotated[str, typer.Argument(help="req-…, from `retrain status`.")],
) -> None:
    """Show every decision on a request, oldest first."""
    project = open_project()
    found = project.requests.decisions(request)
    rows = [(d.at[:16], d.verb, d.rule, d.reason) for d in found]
    emit(found, table(("at", "answer", "rule", "reason"), rows))


def _launch(project: Project, accepted: Request) -> Request:
    from tidemill.cli.progress import progress

    with progress() as watch:
        return project.launcher.launch(accepted, watch)


def _line(project: Project, request: Request) -> str:
    return f"{request.id} is {request.state}: {_why(project, request)}"


def _why(project: Project, request: Request) -> str:
    if request.outcome and request.state not in ("waiting", "pending", "running"):
        return request.outcome
    decisions = project.requests.decisions(request.id)
    return f"{decisions[-1].verb}: {decisions[-1].reason}" if decisions else ""


def _exit(request: Request) -> None:
    if request.state in ("refused", "escalated", "rejected"):
        raise Refused(
            f"{request.id} was {request.state}", hint=f"tidemill retrain why {request.id}"
        )
    if request.state == "waiting" and request.attempts:
        raise typer.Exit(1)
