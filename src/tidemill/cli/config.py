"""`tidemill config`: show, explain and check the settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidemill.cli.app import globals_of, open_project
from tidemill.cli.output import emit, table

app = typer.Typer(no_args_is_help=True, help="Show, explain and check the settings.")


@app.callback()
def _config() -> None:
    """Show, explain and check the settings."""


@app.command()
def show(
    explain: Annotated[bool, typer.Option(help="Tell where each value came from.")] = False,
) -> None:
    """Print the settings in force."""
    from tidemill.settings import load

    options = globals_of()
    loaded = load(options.project, env=options.env, assignments=options.assignments)
    body = loaded.settings.model_dump(mode="json")
    if not explain:
        import yaml

        emit(body, yaml.safe_dump(body, sort_keys=False))
        return
    rows = [(key, value, str(loaded.origin(key))) for key, value in _leaves(body, "")]
    emit(
        [{"key": k, "value": v, "origin": o} for k, v, o in rows],
        table(("key", "value", "from"), rows),
    )


def _leaves(value: Any, at: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        pairs = [(str(i), item) for i, item in enumerate(value)]
    else:
        return [(at, value)]
    return [leaf for key, item in pairs for leaf in _leaves(item, f"{at}.{key}" if at else key)]


@app.command()
def check() -> None:
    """Check the settings against one another and against the project; exit 2 when they clash.

    With `execution.target: kfp` also whether a run's pods can work with them.
    """
    from tidemill.settings.check import check as cross_check
    from tidemill.settings.check import check_pods, refuse

    project = open_project()
    settings, root = project.settings, project.root
    pods = check_pods(settings, root) if settings.execution.target == "kfp" else []
    refuse([*cross_check(settings, root), *pods, *project.check_features()])
    emit({"problems": []}, "the settings agree with one another and with the project")


@app.command()
def schema(
    write: Annotated[bool, typer.Option(help="Write configs/schema.json of the project.")] = False,
) -> None:
    """Print the JSON Schema of the settings, for editors and checks."""
    from tidemill.settings import find_project
    from tidemill.settings.export import SCHEMA_FILE, schema_text

    if write:
        path = find_project(globals_of().project) / SCHEMA_FILE
        path.write_text(schema_text())
        emit({"written": str(path)}, f"written: {path}")
    else:
        typer.echo(schema_text(), nl=False)
