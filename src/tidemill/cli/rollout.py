"""`tidemill rollout`: bring a model version to all traffic, watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import emit, emit_line, table
from tidemill.errors import NotFound

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tidemill.controller.desk import Desk
    from tidemill.domain.rollout.model import Decision, Spec, State

app = typer.Typer(no_args_is_help=True, help="Bring a model version to all traffic, watched.")

Wait = Annotated[float, typer.Option(help="Seconds to follow it; 0 returns at once.")]
On = Annotated[str, typer.Option(help="local or kubernetes; default: rollout.target.")]
Step = Annotated[str, typer.Argument(help="Name of the step; default: the present one.")]


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
    on: On = "",
) -> None:
    """Want a version: the first one is deployed, any other one is a canary first."""
    from tidemill.settings.check import check_rollout, refuse

    project = open_project()
    refuse(check_rollout(project.settings))
    with project.desk(on) as desk:
        revision = desk.start(reference).desired
        wanted = f"wanted: {revision.model}/{revision.version} (revision {revision.revision})"
        emit_line(revision, wanted if wait else f"{wanted}; follow it: tidemill rollout watch")
        if wait:
            _follow(desk, revision.revision, wait)


@app.command()
def status(on: On = "") -> None:
    """Show phase, weights, conditions, evidence and the decision log."""
    with open_project().desk(on) as desk:
        spec, state, decisions = desk.kept.spec(desk.name), desk.state(), desk.decisions()
        problem = desk.kept.problem(desk.name)
    body = {"spec": spec, "state": state, "decisions": decisions, "problem": problem}
    emit(body, _status(state, decisions, problem))


@app.command()
def watch(
    timeout: Annotated[float, typer.Option(help="Seconds until exit code 4.")] = 86400.0,
    on: On = "",
) -> None:
    """Print each decision until the wanted version is promoted or given up."""
    with open_project().desk(on) as desk:
        spec = desk.spec()
        if spec is None:
            raise NotFound(
                f"no version of {desk.name} was wanted yet", hint="tidemill rollout start MODEL"
            )
        _follow(desk, spec.desired.revision, timeout)


@app.command()
def approve(step: Step = "", on: On = "") -> None:
    """Approve the step that waits for it."""
    with open_project().desk(on) as desk:
        _say("approve", desk.orders.command("approve", step))


@app.command()
def skip(step: Step = "", on: On = "") -> None:
    """Leave the step without its gate, on your own authority; the next one keeps its own."""
    with open_project().desk(on) as desk:
        _say("skip", desk.orders.command("skip", step))


@app.command()
def pause(on: On = "") -> None:
    """Freeze the weight; a harmful canary is still rolled back."""
    with open_project().desk(on) as desk:
        _say("pause", desk.orders.pause())


@app.command()
def resume(on: On = "") -> None:
    """Go on after a pause; an undecided step gets its time again."""
    with open_project().desk(on) as desk:
        _say("resume", desk.orders.resume())


@app.command()
def promote(on: On = "") -> None:
    """Skip the remaining gates, on your own authority; it is recorded as that."""
    with open_project().desk(on) as desk:
        _say("promote", desk.orders.command("promote"))


@app.command()
def abort(on: On = "") -> None:
    """Send all traffic back to stable."""
    with open_project().desk(on) as desk:
        _say("abort", desk.orders.command("abort"))


@app.command()
def retry(on: On = "") -> None:
    """Try the revision that failed last once more, as a new attempt."""
    with open_project().desk(on) as desk:
        _say("retry", desk.orders.command("retry"))


@app.command("break-glass")
def break_glass(
    reason: Annotated[str, typer.Option(help="Why, and who decided it; it goes on the ledger.")],
    on: On = "",
) -> None:
    """Let the rollout go on inside the freeze windows of now, until they end."""
    with open_project().desk(on) as desk:
        _say("break-glass", desk.orders.command("break_glass", reason=reason))


@app.command()
def plan(
    bad: Annotated[
        float, typer.Option(min=0.0001, max=1, help="Assumed share of bad requests.")
    ] = 0.05,
    on: On = "",
) -> None:
    """Show the steps, how much evidence each metric needs at each weight, and how long it takes."""
    from rich.console import Group

    from tidemill.cli.pairs import pairs_needed
    from tidemill.domain.rollout.forecast import events_to_harm, events_to_pass, seconds_to_leave

    project = open_project()
    with project.desk(on) as desk:
        made, rate = desk.plan(), project.settings.rollout.expected_rate
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
        if not step.mirror
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
    view = Group(
        *pairs_needed(made),
        table(headers, rows),
        note,
        table(("step", "expected", "at most", ""), stays),
        how,
    )
    emit({"plan": made, "expected_seconds": seconds}, view)


@app.command()
def controller(
    on: On = "",
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
    host, _, port = listen.rpartition(":")
    open_project().rollout_controller(on, namespace, (host, int(port))).run(stop)


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


def _follow(desk: Desk, revision: str, seconds: float) -> None:
    """Print decisions as they are taken, then how it ended; raises Refused or Timeout."""
    desk.follow(revision, seconds, lambda decision: emit_line(decision, _line(decision)))
    done = {"outcome": "promoted", "revision": revision}
    emit_line(done, f"promoted: {revision} serves all traffic")


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _line(decision: Decision) -> str:
    share = f"~{decision.mirror / 100:g} %" if decision.mirror else f"{decision.weight / 100:g} %"
    return (
        f"{decision.clock:%Y-%m-%d %H:%M:%S}  {decision.action:<11} {share:>6}  "
        f"{decision.revision}  {decision.reason}"
    )


def _status(state: State, decisions: list[Decision], problem: str) -> RenderableType:
    from rich.console import Group

    from tidemill.cli.pairs import pairs_seen

    head: list[tuple[str, Any]] = [
        ("phase", state.phase),
        ("stable", state.stable and f"{state.stable.version} ({state.stable.revision})"),
    ]
    if problem:
        head.append(("what is wanted cannot run", problem))
    parts: list[RenderableType] = []
    if state.attempt:
        attempt = state.attempt
        head += [
            ("canary", f"{attempt.canary.version} ({attempt.canary.revision})"),
            ("step", attempt.plan.steps[attempt.step].name),
            ("weight", f"{state.weight / 100:g} %"),
            *([("mirrored", f"{state.mirror / 100:g} %")] if state.mirror else []),
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
        parts += [*pairs_seen(attempt), table(headers, rows)]
    parts.insert(0, table(("", ""), head))
    conditions = [(c.type, c.status, c.reason, c.message) for c in state.conditions]
    parts.append(table(("condition", "status", "reason", "message"), conditions))
    parts.append("\n".join(_line(decision) for decision in decisions[-12:]))
    return Group(*parts)
