"""`tidemill serve`: serve one model bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.app import open_project

app = typer.Typer()


@app.command()
def serve(
    bundle: Annotated[Path, typer.Option(help="Folder of the model bundle.")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")],
    host: Annotated[str, typer.Option(help="Address; default: serving.host.")] = "",
    version: Annotated[str, typer.Option(help="Version that responses and metrics carry.")] = "0",
    name: Annotated[str, typer.Option(help="Model name; default: the bundle's.")] = "",
    verify: Annotated[
        bool | None, typer.Option(help="Verify the signature first; default: serving.verify.")
    ] = None,
) -> None:
    """Serve a model bundle over the Open Inference Protocol until a signal ends it."""
    from tidemill import server

    server.forbid_imports()
    server.log_as_json()
    project = open_project()
    settings = project.settings.serving
    verified = settings.verify if verify is None else verify
    served, predictions = project.server(bundle, version=version, name=name, verify=verified)
    listening = server.listen(host or settings.host, port)
    typer.echo("http://{}:{}".format(*listening.getsockname()[:2]))
    server.serve(served, predictions, listening, settings)
