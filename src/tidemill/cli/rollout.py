"""`tidemill rollout`: bring a model version to all traffic, watched."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import emit, emit_line, table
from tidemill.errors import Refused, Timeout

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tidemill.domain.rollout.model import Decision, Spec, State
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
    wanted = f"wanted: {revision.model}/{revision.version} (revision {revision.revision})"
    emit_line(revision, wanted if wait else f"{wanted}; follow it: tidemill rollout watch")
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
    _say("approve", open_project().orders.command("approve", step))


@app.command()
def pause() -> None:
    """Freeze the weight; a harmful canary is still rolled back."""
    _say("pause", open_project().orders.pause())


@app.command()
def resume() -> None:
    """Go on after a pause; an undecided step gets its time again."""
    _say("resume", open_project().orders.resume())


@app.command()
def promote() -> None:
    """Skip the remaining gates, on your own authority; it is recorded as that."""
    _say("promote", open_project().orders.command("promote"))


@app.command()
def abort() -> None:
    """Send all traffic back to stable."""
    _say("abort", open_project().orders.command("abort"))


@app.command()
def retry() -> None:
    """Try the revision that failed last once more, as a new attempt."""
    _say("retry", open_project().orders.command("retry"))


@app.command()
def plan(
    bad: Annotated[
        float, typer.Option(min=0.0001, max=1, help="Assumed share of bad requests.")
    ] = 0.05,
) -> None:
    """Show the steps, how much evidence each metric needs at each weight, and how long it takes."""
    from rich.console import Group

    from tidemill.domain.rollout.forecast import events_to_harm, events_to_pass, seconds_to_leave

    project = open_project()
    made, rate = project.rollout_plan, project.settings.rollout.expected_rate
    seconds = {step.name: seconds_to_leave(made, step, rate, bad) for step in made.steps}
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
    note = "\nbad events of both arms together until the decision, roughly the mean\n"
    stays = [
        (
            step.name,
            _duration(seconds[step.name]),
            _duration(step.max_seconds),
            "would time out: raise the limit or the weight, or mend what is assumed below"
            if seconds[step.name] > step.max_seconds
            else "",
        )
        for step in made.steps
    ]
    how = (
        f"\nof the project's clock, for a canary as good as stable, at {rate:g} requests/s"
        f" (rollout.expected_rate), {bad:.2%} of them bad (--bad), with the step's evidence alone"
    )
    view = Group(table(headers, rows), note, table(("step", "expected", "at most", ""), stays), how)
    emit({"plan": made, "expected_seconds": seconds}, view)


@app.command()
def controller(
    on: Annotated[
        Literal["local", "kubernetes"], typer.Option(help="This machine, or a cluster.")
    ] = "local",
    namespace: Annotated[
        str, typer.Option(help="Namespace of the rollouts on a cluster; default: all.")
    ] = "",
    listen: Annotated[
        str, typer.Option(help="HOST:PORT of /healthz, /readyz and /metrics on a cluster.")
    ] = "127.0.0.1:8081",
) -> None:
    """Run the controller until a signal ends it; `tidemill up` does.

    On a cluster it runs all rollouts, as the service account of its pod or as the kubeconfig says;
    several of them elect one that acts.
    """
    import signal
    from threading import Event

    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    project = open_project()
    if on == "local":
        project.controller.run(stop)
        return
    host, _, port = listen.rpartition(":")
    project.rollout_fleet(namespace, (host, int(port))).run(stop)


@app.command()
def judge(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8090,
) -> None:
    """Tell Argo Rollouts or Flagger what the evidence says, until a signal ends it.

    Who may ask is as for the model server: serving.auth.
    """
    import signal
    from threading import Event

    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with open_project().rollout_judge((host, port)) as server:
        emit_line(
            {"url": f"http://{host}:{server.port}"}, f"judging on http://{host}:{server.port}"
        )
        stop.wait()


def _say(action: str, spec: Spec) -> None:
    """Say what was ordered about which revision; the decision log tells what came of it."""
    order = spec.command if action != "pause" else None
    revision = order.revision if order else spec.desired.revision
    emit(
        {"action": action, "revision": revision, "generation": spec.generation},
        f"ordered: {action} {revision}; the controller answers at its next look: "
        "tidemill rollout status",
    )


def _follow(project: Project, revision: str, seconds: float) -> None:
    """Print decisions as they are taken, then how it ended; raises Refused or Timeout."""
    name, deadline, shown = project.settings.name, time.monotonic() + seconds, 0
    while True:
        state, _ = project.rollouts.state(name)
        for decision in project.rollouts.decisions(name):
            if decision.seq > shown:
                shown = decision.seq
                emit_line(decision, _line(decision))
        if state.phase == "stable" and state.stable and state.stable.revision == revision:
            done = {"outcome": "promoted", "revision": revision}
            emit_line(done, f"promoted: {revision} serves all traffic")
            return
        if state.phase == "stable" and state.closed == revision:
            raise _given_up(state, revision)
        if time.monotonic() >= deadline:
            raise _undecided(state, revision, seconds)
        time.sleep(0.2)


def _given_up(state: State, revision: str) -> Refused:
    last = state.history[0]
    hint = "tidemill rollout status shows the evidence; once more: tidemill rollout retry"
    outcome = last.outcome.replace("_", " ")
    return Refused(f"{revision} was {outcome}: {last.reason}", hint=hint)


def _undecided(state: State, revision: str, seconds: float) -> Timeout:
    waiting = next((c.message for c in state.conditions if c.type == "Progressing"), "")
    what = f"{revision} is undecided after {seconds:g} s, the rollout is {state.phase}"
    if state.phase == "empty":
        return Timeout(what, hint="tidemill up starts the controller")
    hint = "go on: tidemill rollout watch; what it waits for: tidemill rollout status"
    return Timeout(f"{what}: {waiting}" if waiting else what, hint=hint)


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


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
