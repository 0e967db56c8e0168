"""`tidemill data`: ingest, validate, publish, fetch and list raw data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.app import open_project
from tidemill.cli.instants import AsOf, instant
from tidemill.cli.output import emit, table
from tidemill.domain.months import STATIC, months
from tidemill.files import place

if TYPE_CHECKING:
    from tidemill.wiring import Project

app = typer.Typer(no_args_is_help=True, help="Ingest, validate, publish and fetch raw data.")

First = Annotated[str, typer.Option("--from", metavar="YYYY-MM", help="First month [data.start].")]
Last = Annotated[str, typer.Option("--to", metavar="YYYY-MM", help="Last month [data.end].")]


@app.callback()
def _data() -> None:
    """Ingest, validate, publish and fetch raw data.

    Exit codes: 0 done; 1 data that cannot be read or breaks its contract, a service that is down,
    an unknown version; 2 usage; 3 bytes that are not what was published.
    """


@app.command()
def ingest(
    first: First = "",
    last: Last = "",
    as_of: AsOf = "",
    again: Annotated[bool, typer.Option(help="Read even what did not change.")] = False,
) -> None:
    """Read months from the source; what did not change since stays as it is."""
    from tidemill.steps.ingest import ingest as run

    project = open_project()
    done = run(
        project.source,
        project.partitions,
        project.objects,
        months=_months(project, first, last),
        as_of=instant(project, as_of),
        again=again,
    )
    parts = [one.partition for one in done]
    body = [{"table": p.table, "period": p.period, "content": p.content_digest} for p in parts]
    report = (json.dumps(body, indent=1) + "\n").encode()
    place(project.paths.raw.parent / "ingest.json", report)
    rows = [
        (p.table, p.period, f"{p.rows:,}", p.attempt, one.outcome)
        for p, one in zip(parts, done, strict=True)
    ]
    emit(done, table(("table", "period", "rows", "attempt", "outcome"), rows))


@app.command()
def validate(first: First = "", last: Last = "", as_of: AsOf = "") -> None:
    """Check partitions against the contract and assemble the dataset of valid ones.

    The dataset holds the months data.start … data.end. With --from or --to only those months are
    judged and brought up to date in it; all others stay as they are.
    """
    from tidemill.steps.validate import validate as run

    project = open_project()
    report = run(
        project.partitions,
        project.objects,
        project.contract,
        months=_months(project, first, last),
        as_of=instant(project, as_of),
        folder=project.paths.raw,
        whole=not (first or last),
    )
    report.write(project.paths.raw.parent)
    rows = [(v.table, v.period, f"{v.rows:,}", v.state, len(v.findings)) for v in report.verdicts]
    emit(report, table(("table", "period", "rows", "state", "findings"), rows))
    report.require_valid()


@app.command()
def publish() -> None:
    """Give the assembled dataset its version and store it in the DVC remote."""
    from tidemill.steps.publish import publish as run

    project = open_project()
    version = run(project.versions, project.paths.raw)
    report = json.dumps({"id": version.id, "files": version.files}, indent=1) + "\n"
    place(project.paths.raw.parent / "version.json", report.encode())
    emit(version, f"{version.id}  {version.files} files, {version.bytes:,} bytes")


@app.command()
def fetch(version: Annotated[str, typer.Argument(help="<md5>.dir")]) -> None:
    """Replace the assembled dataset by a published version, every byte verified."""
    project = open_project()
    found = project.versions.fetch(version, project.paths.raw)
    emit(found, f"{found.files} files, {found.bytes:,} bytes in {project.paths.raw}")


@app.command()
def status(first: First = "", last: Last = "") -> None:
    """List what was ingested of each month, and what became of it."""
    project = open_project()
    attempts = [
        attempt
        for name, cadence in project.source.tables().items()
        for period in ([STATIC] if cadence == STATIC else _months(project, first, last))
        for attempt in project.partitions.attempts(name, period)
    ]
    rows = [
        (a.table, a.period, a.attempt, a.status, f"{a.rows:,}", f"{a.as_of:%Y-%m-%d %H:%M}", a.key)
        for a in attempts
    ]
    headers = ("table", "period", "attempt", "status", "rows", "as of (UTC)", "object")
    emit(attempts, table(headers, rows))


def _months(project: Project, first: str, last: str) -> list[str]:
    return months(first or project.settings.data.start, last or project.settings.data.end)
