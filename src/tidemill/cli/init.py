"""`tidemill init`: a new project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.output import emit

app = typer.Typer()

NEXT = """{count} files in {folder}. Next:

    cd {folder}
    tidemill config check
    tidemill up
    tidemill run training --on local"""


@app.command()
def _init(
    folder: Annotated[
        Path, typer.Argument(metavar="NAME", help="Folder to make; its name counts.")
    ],
) -> None:
    """Copy the reference project, working as it is, into a new folder."""
    from tidemill.adapters.reference import copy_reference

    files = copy_reference(folder)
    emit({"folder": folder, "files": files}, NEXT.format(count=len(files), folder=folder))
