"""`tidemill submit`, `watch`, `logs`, `cancel`: runs that were started, here or on a backend."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.app import open_checked, open_project
from tidemill.cli.output import emit
from tidemill.cli.run import parameters
from tidemill.errors import NotFound
from tidemill.ports.runs import RunResult

submit = typer.Typer()
watch = typer.Typer()
logs = typer.Typer()
cancel = typer.Typer()

RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]
On = Annotated[str, typer.Option(help="local or kfp; default: execution.target.")]
LOOK_SECONDS = 1.0


@submit.command()
def _submit(
    pipeline: Annotated[str, typer.Argument(help="A file of pipelines/, without '.py'.")],
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="A pipeline parameter, name=value.")
    ] = None,
) -> None:
    """Start a run on Kubeflow Pipelines and print its id, without waiting."""
    run_id = open_checked(pipeline).backend.submit(pipeline, parameters(param or []))
    emit({"run_id": run_id}, run_id)
    typer.echo(f"follow it: tidemill watch {run_id} --on kfp", err=True)


@watch.command()
def _watch(run_id: RunId, on: On = "") -> None:
    """Show a run until it ends; the exit code is that of its state. Ctrl-C leaves it running."""
    import time

    from tidemill.cli.progress import finish, progress

    runs = open_project().runs_on(on)
    with progress() as see:
        run = runs.status(run_id)
        while run.state == "running":
            see(run)
            time.sleep(LOOK_SECONDS)
            run = runs.status(run_id)
        see(run)
    finish(run, on)


@logs.command()
def _logs(
    run_id: RunId,
    step: Annotated[str, typer.Argument(help="Step; default: the one that failed, or all.")] = "",
    on: On = "",
) -> None:
    """Print what a run's steps printed."""
    runs = open_project().runs_on(on)
    text = {name: runs.log(run_id, name) for name in _steps(runs.status(run_id), step)}
    emit(text, "\n".join(text.values()))


def _steps(run: RunResult, step: str) -> list[str]:
    names = [s.name for s in run.steps]
    if step and step not in names:
        raise NotFound.among(f"step of {run.run_id}", step, names)
    failed = [s.name for s in run.steps if s.state == "failed"]
    return [step] if step else failed or [s.name for s in run.steps if s.started_at]


@cancel.command()
def _cancel(run_id: RunId, on: On = "") -> None:
    """Stop a run and everything it started; one that has ended is left as it is."""
    runs = open_project().runs_on(on)
    runs.cancel(run_id)
    run = runs.status(run_id)
    stands = "is being stopped" if run.state == "running" else run.state
    emit({"run_id": run_id, "state": run.state}, f"{run_id} {stands}")
