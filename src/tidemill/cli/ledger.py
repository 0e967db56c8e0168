"""`tidemill ledger`: show and verify the promotion ledger."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.app import open_project
from tidemill.cli.output import emit, table

if TYPE_CHECKING:
    from tidemill.domain.ledger import Entry

app = typer.Typer(no_args_is_help=True, help="Show and verify the promotion ledger.")


@app.callback()
def _ledger() -> None:
    """Show and verify the promotion ledger.

    Exit codes: 0 done, the ledger holds; 1 MLflow or the store is down; 2 usage; 3 the ledger is
    broken, or the registry is not what it says.
    """


@app.command()
def show(model: Annotated[str, typer.Argument(help="Model; all by default.")] = "") -> None:
    """List who released what, when, why and on what ground, oldest first."""
    entries = [e for e in open_project().ledger.entries() if model in ("", e.model)]
    headers = ("#", "at", "action", "version", "alias", "who", "why", "evidence", "hash")
    rows = [
        (e.seq, e.at[:19], e.action, f"{e.model}/{e.version}", e.alias, e.who, e.why, *_short(e))
        for e in entries
    ]
    emit([asdict(e) for e in entries], table(headers, rows))


@app.command()
def verify() -> None:
    """Check the chain row by row, and the registry's versions and aliases against it."""
    from tidemill.domain.ledger import broken, disagreements
    from tidemill.errors import IntegrityError

    project = open_project()
    entries = project.ledger.entries()
    problems = broken(entries)
    known = project.registry.search()
    models = {v.name for v in known} | {e.model for e in entries}
    problems += disagreements(
        entries,
        {model: [v.version for v in known if v.name == model] for model in models},
        {model: project.registry.aliases(model) for model in models},
    )
    if problems:
        raise IntegrityError(
            "the ledger does not hold:\n" + "\n".join(f"  - {problem}" for problem in problems),
            hint="find out who wrote; a release by hand is put right by `tidemill rollout start`",
        )
    head = entries[-1].digest if entries else ""
    emit(
        {"entries": len(entries), "head": head, "problems": []},
        f"{len(entries)} entries hold, the registry agrees; the last one is {head or 'none'}",
    )


@app.command()
def settle() -> None:
    """Finish the moves of aliases that a crash interrupted."""
    from tidemill.steps.promote import settle_all

    project = open_project()
    done = settle_all(aliases=project.registry, ledger=project.ledger, clock=project.clock)
    said = [f"{e.model}@{e.alias} is at version {e.version} (entry {e.seq})" for e in done]
    emit([asdict(e) for e in done], "\n".join(said) or "nothing was left unfinished")


def _short(entry: Entry) -> tuple[str, str]:
    return entry.evidence.removeprefix("sha256:")[:10], entry.digest[:10]
