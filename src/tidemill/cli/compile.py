"""`tidemill compile`: write the definitions that a KFP backend takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import emit

app = typer.Typer()


@app.command()
def _compile(
    pipelines: Annotated[
        list[str] | None, typer.Argument(help="Files of pipelines/, without '.py'; default: all.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path(
        "compiled"
    ),
) -> None:
    """Compile pipelines to YAML with the settings of `--env`; refuse what KFP would get wrong."""
    from tidemill.adapters.kfp.compile import compile_pipeline, pipelines_of
    from tidemill.adapters.kfp.lint import refuse

    project = open_project()
    written = []
    for name in pipelines or pipelines_of(project.root):
        definition = compile_pipeline(project.root, name, project.settings.execution, "kfp")
        refuse(name, definition.ir)
        written.append(definition.write(output / f"{name}.yaml"))
    emit(written, "\n".join(str(path) for path in written))
