"""`tidemill features`: build the tables, join training sets, fill the online store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.app import open_project
from tidemill.cli.instants import AsOf, instant
from tidemill.cli.output import emit, table

app = typer.Typer(no_args_is_help=True, help="Build, join, materialise and follow the features.")


@app.callback()
def _features() -> None:
    """Build the feature tables, join training sets, fill the online store.

    Exit codes: 0 done; 1 data or definitions that cannot be used, a store that is down; 2 usage;
    3 a materialisation that would go back in time or change a pinned service.
    """


@app.command()
def show(service: Annotated[str, typer.Argument(help="[features.service]")] = "") -> None:
    """Print a service: its digest, views, keys and how long values live."""
    project = open_project()
    found = project.features.resolve(service or project.settings.features.service)
    rows = [
        (
            view.name,
            ", ".join(view.join_keys),
            f"{view.ttl_seconds / 3600:g} h" if view.ttl_seconds else "for ever",
            ", ".join(f"{field.name}:{field.dtype}" for field in view.fields),
        )
        for view in found.views
    ]
    view = table(("view", "keys", "lives", "features"), rows)
    view.title, view.title_justify = f"{found.name}@{found.digest}", "left"
    emit(found, view)


@app.command()
def apply() -> None:
    """Write the definitions to Feast's registry, for Feast's own tools."""
    project = open_project()
    services = project.features.apply(project.paths.features)
    emit(services, table(("service", "digest"), list(services.items())))


@app.command()
def build(as_of: AsOf = "") -> None:
    """Compute every feature table and the spine from the assembled dataset."""
    from tidemill.steps.featurize import featurize

    project = open_project()
    paths = project.paths
    rows = featurize(
        paths.raw,
        paths.features,
        project.transforms,
        project.settings.features,
        instant(project, as_of),
    )
    emit(rows, table(("table", "rows"), [(name, f"{count:,}") for name, count in rows.items()]))


@app.command()
def leaks(as_of: AsOf = "") -> None:
    """Recompute the features from data as known at earlier instants; any difference is a leak."""
    from tidemill.domain.months import months
    from tidemill.errors import Refused
    from tidemill.steps.leaks import find_leaks

    project = open_project()
    settings = project.settings
    found = find_leaks(
        project.source,
        project.transforms,
        settings.features,
        project.features.resolve(settings.features.service),
        months=months(settings.data.start, settings.data.end),
        as_of=instant(project, as_of),
    )
    rows = [(leak.view, leak.feature, leak.cut_off, leak.rows) for leak in found.leaks]
    summary = f"{found.rows:,} rows compared at {len(found.cut_offs)} cut-offs, none differs"
    emit(found, table(("view", "feature", "cut-off", "rows"), rows) if rows else summary)
    if rows:
        raise Refused(f"{len(rows)} features knew the future", hint="mend transforms.py")


@app.command()
def join(
    as_of: AsOf = "",
    start: Annotated[str, typer.Option(metavar="INSTANT", help="First prediction time.")] = "",
    out: Annotated[Path | None, typer.Option(help="File [data/training_set.parquet].")] = None,
) -> None:
    """Join every labelled row with its features as they were known when it was scored."""
    from tidemill.steps.training_set import training_set

    project = open_project()
    built = training_set(
        project.paths.features,
        out or project.paths.features.with_name("training_set.parquet"),
        project.features,
        service=project.settings.features.service,
        label=project.settings.training.label,
        as_of=instant(project, as_of),
        start=instant(project, start) if start else None,
    )
    emit(built, table(("", ""), list(asdict(built).items())))


@app.command()
def materialize(
    replace: Annotated[bool, typer.Option(help="Go back in time, or redefine a service.")] = False,
) -> None:
    """Fill the online store from the feature tables, as known at the clock's instant."""
    project = open_project()
    filled = project.features.materialise(
        project.settings.features.service,
        project.paths.features,
        project.clock.now(),
        replace=replace,
    )
    emit(filled, table(("view", "keys"), list(filled.rows.items())))


@app.command()
def follow() -> None:
    """Fill the online store at every step of the clock, from the source, until stopped."""
    from tidemill.steps.materialize import follow as run

    project = open_project()
    run(project.follower, project.clock)
