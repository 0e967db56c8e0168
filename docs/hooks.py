"""Pages that are generated from the code when the site is built, so that they cannot differ."""

from __future__ import annotations

import importlib
from typing import Any

from mkdocs.structure.files import File, Files
from typer.testing import CliRunner


def on_files(files: Files, config: Any) -> Files:
    """Add the generated reference pages."""
    pages = {"reference/settings.md": settings_page(), "reference/commands.md": commands_page()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def settings_page() -> str:
    """Describe every key of the settings: type, default, meaning."""
    from tidemill.settings import Settings

    schema = Settings.model_json_schema()
    lines = [
        "# Settings",
        "",
        "Layers: defaults < `configs/base.yaml` < `configs/<env>.yaml` < environment"
        " (`TIDEMILL_TRAINING__EPOCHS=5`) < `--set training.epochs=5`."
        " `tidemill config show --explain` tells where each value came from.",
    ]
    definitions = {"": schema, **schema["$defs"]}
    for name, definition in definitions.items():
        rows = definition.get("properties", {})
        if not rows:
            continue
        lines += ["", f"## {name or 'Settings'}", "", _flat(definition.get("description", "")), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{key}` | {_type(body)} | {_default(body)} | {_flat(body.get('description', ''))} |"
            for key, body in rows.items()
        ]
    return "\n".join(lines) + "\n"


def _flat(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _type(body: dict[str, Any]) -> str:
    if "$ref" in body:
        name = body["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for union in ("anyOf", "oneOf"):
        if union in body:
            return " or ".join(_type(option) for option in body[union])
    if "enum" in body:
        return ", ".join(f"`{value}`" for value in body["enum"])
    if "const" in body:
        return f"`{body['const']}`"
    if body.get("type") == "array" and "items" in body:
        return f"list of {_type(body['items'])}"
    return str(body.get("type", "any"))


def _default(body: dict[str, Any]) -> str:
    if "default" not in body:
        return "required"
    value = body["default"]
    if isinstance(value, dict | list) and value and not isinstance(value, str):
        return "see the schema" if len(str(value)) > 40 else f"`{value}`"
    return f"`{value!r}`" if value != "" else "empty"


def commands_page() -> str:
    """Show every command's own help."""
    from tidemill.cli.app import COMMANDS, EPILOG

    lines = ["# Commands", "", EPILOG, ""]
    for verb, (_, about) in COMMANDS.items():
        lines += [f"## {verb}", "", about, "", "```text", _help(verb), "```", ""]
        lines += _subcommands(verb)
    return "\n".join(lines)


def _subcommands(verb: str) -> list[str]:
    from tidemill.cli.app import COMMANDS

    module, _, attribute = COMMANDS[verb][0].partition(":")
    app = getattr(importlib.import_module(module), attribute or "app")
    if len(app.registered_commands) < 2 and not app.registered_callback:
        return []
    names = [c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands]
    lines: list[str] = []
    for name in names:
        lines += [f"### {verb} {name}", "", "```text", _help(verb, name), "```", ""]
    return lines


def _help(*words: str) -> str:
    from tidemill.cli.app import app

    plain = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}
    shown = CliRunner().invoke(app, [*words, "--help"], prog_name="tidemill", env=plain)
    if shown.exit_code:
        raise RuntimeError(f"tidemill {' '.join(words)} --help: {shown.output}")
    return "\n".join(line.rstrip() for line in shown.stdout.strip().splitlines())
