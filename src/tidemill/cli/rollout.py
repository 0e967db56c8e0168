"""`tidemill rollout`: bring a model version to all traffic, watched."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import console, emit, table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tidemill.domain.rollout.model import Decision, State
    from tidemill.wiring import Project

app = typer.Typer(no_args_is_help=True, help="Bring a model version to all traffic, watched.")

Wait = Annotated[float, typer.Option(help="Seconds to follow it; 0 returns at once.")]


@app.callback()
def _rollout() -> None:
    """Bring a model version to all traffic, watched.

    Exit codes: 0 done or promoted; 1 a service is down; 2 usage; 3 refused or rolled back; 4 still
    undecided when the time was over.
    """


@app.command()
def start(
    reference: Annotated[str, typer.Argument(help="NAME (the newest), NAME@ALIAS, NAME/VERSION.")],
    wait: Wait = 0.0,
) -> None:
    """Want a version: the first one is deployed, any other one is a canary first."""
    project = open_project()
    revision = project.revision(reference)
    project.orders.start(revision, project.rollout_plan)
    emit(revision, f"wanted: {revision.model}/{revision.version} (revision {revision.revision})")
    if wait:
        _follow(project, revision.revision, wait)


@app.command()
def status() -> None:
    """Show phase, weights, conditions, evidence and the decision log."""
    project = open_project()
    name = project.settings.name
    state, _ = project.rollouts.state(name)
    decisions = project.rollouts.decisions(name)
    spec = project.rollouts.spec(name)
    emit({"spec": spec, "state": state, "decisions": decisions}, _status(state, decisions))


@app.command()
def watch(
    timeout: Annotated[float, typer.Option(help="Seconds until exit code 4.")] = 86400.0,
) -> None:
    """Print each decision until the wanted version is promoted or given up."""
    project = open_project()
    spec = project.rollouts.spec(project.settings.name)
    if spec is None:
        emit([], "no version was wanted yet: tidemill rollout start MODEL")
        return
    _follow(project, spec.desired.revision, timeout)


@app.command()
def approve(
    step: Annotated[str, typer.Argument(help="Name of the step; default: the present one.")] = "",
) -> None:
    """Approve the step that waits for it."""
    open_project().orders.command("approve", step)


@app.command()
def pause() -> None:
    """Freeze the weight; a harmful canary is still rolled back."""
    open_project().orders.pause()


@app.command()
def resume() -> None:
    """Go on after a pause; an undecided step gets its time again."""
    open_project().orders.resume()


@app.command()
def promote() -> None:
    """Skip the remaining gates, on your own authority; it is recorded as that."""
    open_project().orders.command("promote")


@app.command()
def abort() -> None:
    """Send all traffic back to stable."""
    open_project().orders.command("abort")


@app.command()
def retry() -> None:
    """Try the revision that failed last once more, as a new attempt."""
    open_project().orders.command("retry")


@app.command()
def plan() -> None:
    """Show the steps, and how much evidence each metric needs at each weight."""
    from rich.console import Group

    from tidemill.domain.rollout.forecast import events_to_harm, events_to_pass

    made = open_project().rollout_plan
    rows = [
        (
            *(step.name, f"{step.weight / 100:g} %", metric.name),
            "yes" if metric.name in step.gate else "",
            f"{events_to_pass(metric, made.tolerance, step.weight):,.0f}",
            f"{events_to_harm(metric, step.weight, 1.5):,.0f}",
            f"{events_to_harm(metric, step.weight, 3.0):,.0f}",
        )
        for step in made.steps
        for metric in made.metrics
    ]
    headers = ("step", "weight", "metric", "gate", "pass, equal", "harm ×1.5", "harm ×3")
    note = "\nbad events of both arms together until the decision, roughly the mean"
    view = Group(table(headers, rows), note)
    emit(made, view)


@app.command()
def controller() -> None:
    """Run the controller until a signal ends it; `tidemill up` does."""
    import signal
    from threading import Event

    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    open_project().controller.run(stop)


def _follow(project: Project, revision: str, seconds: float) -> None:
    """Print decisions as they are taken; the exit code tells how it ended."""
    name, deadline, shown = project.settings.name, time.monotonic() + seconds, 0
    while time.monotonic() < deadline:
        state, _ = project.rollouts.state(name)
        fresh = [d for d in project.rollouts.decisions(name) if d.seq > shown]
        for decision in fresh:
            shown = decision.seq
            console().print(_line(decision), highlight=False)
        if state.phase == "stable" and state.stable and state.stable.revision == revision:
            return
        if state.phase == "stable" and state.closed == revision:
            raise typer.Exit(3)
        time.sleep(0.2)
    raise typer.Exit(4)


def _line(decision: Decision) -> str:
    share = f"{decision.weight / 100:g} %"
    return (
        f"{decision.clock:%Y-%m-%d %H:%M:%S}  {decision.action:<11} {share:>6}  "
        f"{decision.revision}  {decision.reason}"
    )


def _status(state: State, decisions: list[Decision]) -> RenderableType:
    from rich.console import Group

    head: list[tuple[str, Any]] = [
        ("phase", state.phase),
        ("stable", state.stable and f"{state.stable.version} ({state.stable.revision})"),
    ]
    parts: list[RenderableType] = []
    if state.attempt:
        attempt = state.attempt
        head += [
            ("canary", f"{attempt.canary.version} ({attempt.canary.revision})"),
            ("step", attempt.plan.steps[attempt.step].name),
            ("weight", f"{state.weight / 100:g} %"),
        ]
        rows = [
            (
                *(a.metric, a.verdict, f"{a.ratio[0]:.2f} – {a.ratio[1]:.2f}"),
                *(
                    f"{a.log_e_harm:.2f} of {a.harm_at:.2f}",
                    f"{a.log_e_pass:.2f} of {a.pass_at:.2f}",
                ),
                *(f"{a.bad[0]:g} of {a.trials[0]:,}", f"{a.bad[1]:g} of {a.trials[1]:,}", a.reason),
            )
            for a in attempt.assessments
        ]
        headers = ("metric", "verdict", "ratio", "harm", "pass", "stable", "canary", "reason")
        parts.append(table(headers, rows))
    parts.insert(0, table(("", ""), head))
    conditions = [(c.type, c.status, c.reason, c.message) for c in state.conditions]
    parts.append(table(("condition", "status", "reason", "message"), conditions))
    parts.append("\n".join(_line(decision) for decision in decisions[-12:]))
    return Group(*parts)
