"""`tidemill run`: run a pipeline to its end."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.app import open_checked
from tidemill.errors import UsageError

app = typer.Typer()


@app.command()
def _run(
    pipeline: Annotated[str, typer.Argument(help="A file of pipelines/, without '.py'.")],
    param: Annotated[
        list[str] | None, typer.Option("--param", "-p", help="A pipeline parameter, name=value.")
    ] = None,
    on: Annotated[str, typer.Option(help="local or kfp; default: execution.target.")] = "",
    resume: Annotated[str, typer.Option(help="Continue this run from its failed step.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check; run no step.")] = False,
) -> None:
    """Run a pipeline to its end. Exit code 130: interrupted, everything it started is stopped."""
    from tidemill.cli.progress import finish, progress

    runs = open_checked(pipeline).runs_on(on)
    with progress() as watch:
        run = runs.launch(
            pipeline, parameters(param or []), resume=resume, dry_run=dry_run, watch=watch
        )
    finish(run, on)


def parameters(assignments: list[str]) -> dict[str, str]:
    """Read `name=value` assignments; the pipeline knows the types."""
    for assignment in assignments:
        if "=" not in assignment:
            raise UsageError(f"-p {assignment} is not of the form name=value")
    return dict(assignment.split("=", 1) for assignment in assignments)
