"""`tidemill incident`: what stands, what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.actor import actor
from tidemill.cli.app import open_project
from tidemill.cli.output import emit, table

if TYPE_CHECKING:
    from tidemill.domain.governor import Request
    from tidemill.domain.incidents import Incident
    from tidemill.wiring import Project

app = typer.Typer(no_args_is_help=True, help="List, show, acknowledge and resolve incidents.")

Id = Annotated[str, typer.Argument(metavar="INCIDENT", help="inc-…, from `incident list`.")]
Note = Annotated[str, typer.Option("--note", "-m", help="What you know or did.")]

NEXT = {
    "code_bug": "tidemill rollout status; deploy the registered version again",
    "data_quality": "tidemill data status; mend the feed; three clean windows end the incident",
    "skew": "tidemill features leaks; compare transforms.py with what the online store got",
    "concept_drift": "tidemill retrain status",
    "covariate_shift": "tidemill monitor status; ask whether traffic changed on purpose",
}
"""Cause → what to do first."""


@app.callback()
def _incident() -> None:
    """List, show, acknowledge and resolve incidents.

    An incident resolves itself after three windows without its cause.
    """


@app.command("list")
def list_(every: Annotated[bool, typer.Option("--all", help="Resolved ones too.")] = False) -> None:
    """List the incidents that stand."""
    project = open_project()
    found = project.incidents.all(project.settings.registry.model, unresolved=not every)
    rows = [
        (i.id, i.state, i.cause, i.revision, i.first_seen[:16], i.last_seen[:16], _about(i))
        for i in found
    ]
    headers = ("incident", "state", "cause", "revision", "since", "last seen", "about")
    emit(found, table(headers, rows) if rows else "no incident stands")


@app.command()
def show(incident: Id) -> None:
    """Show one incident's page."""
    project = open_project()
    found = project.incidents.get(incident)
    requests = project.requests.all(found.model)
    answer = next((r for r in requests if r.correlation_id == found.id), None)
    emit(found, page(project, found, answer))


@app.command()
def ack(incident: Id, note: Note = "") -> None:
    """Say that you have seen it. A level to which a feature jumped counts as normal from now on."""
    from tidemill.domain.incidents import acknowledge

    project = open_project()
    changed = acknowledge(project.incidents.get(incident), actor(), note)
    project.incidents.save(changed)
    emit(changed, f"{incident} is acknowledged by {changed.actor}")


@app.command()
def resolve(incident: Id, note: Note) -> None:
    """Say that it is over; if it is not, the next window opens a new one."""
    from tidemill.domain.incidents import resolve as end

    project = open_project()
    found = project.incidents.get(incident)
    changed = end(found, actor(), note, project.clock.now())
    project.incidents.save(changed)
    emit(changed, f"{incident} is resolved")


def page(project: Project, incident: Incident, answer: Request | None) -> str:
    """Return the incident as an on-call engineer gets it: what, since when, what to do."""
    kind = "PAGE" if incident.page else "TICKET"
    others = f" (or {', '.join(incident.hypotheses)})" if incident.hypotheses else ""
    state = incident.resolution if incident.state == "resolved" else incident.note
    runbook = f"{project.settings.monitoring.runbooks}/{incident.cause}.md"
    lines = [
        f"{kind} {incident.id}  {incident.cause}{others}  {incident.model} {incident.revision}",
        *(f"  {number}" for number in incident.numbers),
        f"  since    {incident.first_seen[:16]}, last seen {incident.last_seen[:16]} UTC",
        f"  state    {incident.state}{f': {state}' if state else ''}",
        f"  retrain  {_answer(answer)}",
        f"  report   {incident.report or f'tidemill monitor report {incident.id}'}",
        f"  runbook  {runbook}",
        f"  next     {NEXT[incident.cause]}",
    ]
    return "\n".join(lines)


def _answer(request: Request | None) -> str:
    if request is None:
        return "not asked"
    return f"{request.state}: tidemill retrain why {request.id}"


def _about(incident: Incident) -> str:
    return ", ".join(incident.columns) or (incident.numbers[0] if incident.numbers else "")
