"""`tidemill config`: show, explain and check the settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tidemill.cli.app import globals_of
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
