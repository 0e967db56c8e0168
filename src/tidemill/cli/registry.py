"""`tidemill registry`: list, show, fetch, sign and verify model bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import emit, table

app = typer.Typer(no_args_is_help=True, help="List, show, fetch, sign and verify model bundles.")

Reference = Annotated[str, typer.Argument(help="NAME (the newest), NAME@ALIAS or NAME/VERSION.")]
Folder = Annotated[Path, typer.Argument(help="Folder of the bundle.")]


@app.callback()
def _registry() -> None:
    """List, show, fetch, sign and verify model bundles.

    Exit codes: 0 done; 1 MLflow is down or the version is unknown; 2 usage; 3 a bundle is not what
    was signed or registered.
    """


@app.command("list")
def list_(
    name: Annotated[str, typer.Argument(help="Model; all of them by default.")] = "",
) -> None:
    """List the versions of a model, newest first."""
    from tidemill.bundle import revision

    versions = open_project().registry.search(name)
    rows = [
        (v.name, v.version, ", ".join(v.aliases), revision(v.digest), v.tags.get("data_version"))
        for v in versions
    ]
    emit(versions, table(("model", "version", "aliases", "revision", "data"), rows))


@app.command()
def show(reference: Reference) -> None:
    """Show one version with all its tags."""
    version = open_project().registry.resolve(reference)
    head = [("version", version), ("aliases", ", ".join(version.aliases)), ("run", version.run_id)]
    emit(version, table(("what", "value"), [*head, *sorted(version.tags.items())]))


@app.command()
def fetch(
    reference: Reference,
    folder: Annotated[Path, typer.Argument(help="Folder to make; it appears when it is whole.")],
) -> None:
    """Download a bundle, check its digest and its signature."""
    from tidemill.bundle import verify

    project = open_project()
    version = project.registry.resolve(reference)
    path = project.registry.fetch(version, folder)
    found = verify(path, project.paths.resolve(project.settings.registry.verify_key))
    emit(
        {"folder": path, "version": str(version), "digest": found}, f"{version} → {path} ({found})"
    )


@app.command()
def sign(folder: Folder) -> None:
    """Sign a bundle with the project's key, generated on first use."""
    path = open_project().signer.sign(folder)
    emit({"signature": path}, f"signed: {path}")


@app.command()
def verify(folder: Folder) -> None:
    """Verify a bundle's signature and every file against it."""
    from tidemill.bundle import verify as check

    project = open_project()
    found = check(folder, project.paths.resolve(project.settings.registry.verify_key))
    emit({"folder": folder, "digest": found}, f"{folder} is what was signed ({found})")
