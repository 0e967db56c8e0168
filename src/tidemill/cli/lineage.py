"""`tidemill lineage`: where a model came from and where it went, and back from any of its ids."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import emit

if TYPE_CHECKING:
    from tidemill.domain.ledger import Entry
    from tidemill.ports.registry import ModelVersion

app = typer.Typer(help="Tell where a model came from and where it went.")

TARGET = (
    "NAME, NAME@ALIAS, NAME/VERSION, or an id: "
    "data version, run, incident, request, commit, digest, revision."
)


@app.command()
def lineage(target: Annotated[str, typer.Argument(help=TARGET)]) -> None:
    """Print data → features → run → code → model → ONNX → deployments, or the models of an id.

    Exit codes: 0 done, 1 MLflow is down or nothing is known under that name, 2 usage.
    """
    from tidemill.steps.lineage import versions

    project = open_project()
    registry, entries = project.registry, project.ledger.entries()
    found = [_told(version, entries) for version in versions(target, registry, registry)]
    emit(found, _trees(target, found))


def _told(version: ModelVersion, entries: list[Entry]) -> dict[str, Any]:
    from tidemill.domain.lineage import deployments, provenance

    return {
        "version": str(version),
        "aliases": list(version.aliases),
        "origin": [
            asdict(link)
            for link in provenance(version.name, version.version, version.digest, version.tags)
        ],
        "deployments": [
            asdict(link) for link in deployments(entries, version.name, version.version)
        ],
    }


def _trees(target: str, found: list[dict[str, Any]]) -> Any:
    from rich.tree import Tree

    root = Tree(target)
    for version in found:
        aliases = "".join(f" @{alias}" for alias in version["aliases"])
        branch = root.add(f"{version['version']}{aliases}")
        for link in version["origin"]:
            branch = branch.add(_line(link))
        for link in version["deployments"]:
            branch.add(_line(link))
    return root


def _line(link: dict[str, str]) -> str:
    from rich.markup import escape

    note = f"  {link['note']}" if link["note"] else ""
    return escape(f"{link['kind']}: {link['id']}{note}")
