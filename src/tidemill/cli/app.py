"""The root command: global options anywhere on the line, verbs loaded when called."""

from __future__ import annotations

import importlib
import os
import re
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import typer
from typer.core import TyperGroup
from typer.main import get_command

from tidemill import __version__
from tidemill.errors import TidemillError, UsageError

if TYPE_CHECKING:
    from tidemill.wiring import Project

__all__ = ["Globals", "app", "globals_of", "main", "open_checked", "open_project"]

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("tidemill.cli.demo", "Play the whole loop on a replay of 2013."),
    "up": ("tidemill.cli.platform:up", "Start the local platform and wait until it is ready."),
    "down": ("tidemill.cli.platform:down", "Stop everything that runs on this machine."),
    "status": ("tidemill.cli.platform:status", "Show the processes of the local platform."),
    "init": ("tidemill.cli.init", "Make a new project."),
    "config": ("tidemill.cli.config", "Show, explain and check the settings."),
    "serve": ("tidemill.cli.serve", "Serve a model bundle."),
    "features": ("tidemill.cli.features", "Build, join, materialise and follow the features."),
    "data": ("tidemill.cli.data", "Ingest, validate, publish and fetch raw data."),
    "model": ("tidemill.cli.model", "Train, export, evaluate, gate and package, step by step."),
    "run": ("tidemill.cli.run", "Run a pipeline to its end, here or on Kubeflow Pipelines."),
    "submit": ("tidemill.cli.runs:submit", "Start a run on Kubeflow Pipelines, do not wait."),
    "watch": ("tidemill.cli.runs:watch", "Show a run until it ends."),
    "logs": ("tidemill.cli.runs:logs", "Print what a run's steps printed."),
    "cancel": ("tidemill.cli.runs:cancel", "Stop a run and everything it started."),
    "compile": ("tidemill.cli.compile", "Write the definitions that a KFP backend takes."),
    "rollout": ("tidemill.cli.rollout", "Bring a model version to all traffic, watched."),
    "registry": ("tidemill.cli.registry", "List, show, fetch, sign and verify model bundles."),
    "ledger": ("tidemill.cli.ledger", "Show and verify the promotion ledger."),
    "lineage": ("tidemill.cli.lineage", "Tell where a model came from and where it went."),
    "labels": ("tidemill.cli.labels", "Collect the outcomes that became known."),
    "monitor": ("tidemill.cli.monitor", "Judge windows of the prediction log."),
    "incident": ("tidemill.cli.incident", "List, show, acknowledge and resolve incidents."),
    "retrain": ("tidemill.cli.retrain", "Ask for, run and explain retrainings."),
}
"""Verb → module (and name, `app` by default) of its Typer app, and its line in `--help`."""

EPILOG = (
    "Anywhere on the line: --project DIR, --env NAME, --set key=value (repeatable), --json. "
    "Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a rule, 4 timed out."
)


TRAINING = "training"
"""The pipeline that reads `training.inputs`."""


@dataclass(slots=True)
class Globals:
    """The options that every verb understands."""

    project: Path | None = None
    env: str | None = None
    assignments: list[str] = field(default_factory=list)
    json: bool = False


class Verbs(TyperGroup):
    """A group that imports a verb's module when the verb is called."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the verbs in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - click's signature
        """Import and return a verb."""
        if cmd_name not in COMMANDS:
            raise UsageError.among("command", cmd_name, COMMANDS)
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command = get_command(getattr(importlib.import_module(module), name or "app"))
        # Typer gives every app its own options to install completion; here a verb is no program.
        own = ("install_completion", "show_completion")
        command.params = [option for option in command.params if option.name not in own]
        return command

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page without importing the verbs."""
        formatter.write_usage("tidemill", "[OPTIONS] COMMAND [ARGS]...")
        formatter.write_paragraph()
        formatter.write_text(self.help or "")
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])
        with formatter.section("Options"):
            formatter.write_dl([r for p in self.get_params(ctx) if (r := p.get_help_record(ctx))])
        formatter.write_paragraph()
        formatter.write_text(EPILOG)


app = typer.Typer(
    cls=Verbs,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
)

_globals = Globals()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Close the loop: data, features, training, guarded serving, drift, retraining."""
    if version:
        typer.echo(f"tidemill {__version__}")
        raise typer.Exit


def split(args: list[str]) -> tuple[Globals, list[str]]:
    """Take the global options out of a line, wherever they stand before `--`."""
    found = Globals()
    rest: list[str] = []
    queue = list(args)
    while queue:
        arg = queue.pop(0)
        name, equals, value = arg.partition("=")
        if arg == "--":
            return found, [*rest, arg, *queue]
        if arg == "--json":
            found.json = True
        elif name in ("--project", "--env", "--set"):
            if not equals:
                if not queue:
                    raise UsageError(f"{name} needs a value", hint="see tidemill --help")
                value = queue.pop(0)
            if name == "--project":
                found.project = Path(value)
            elif name == "--env":
                found.env = value
            else:
                found.assignments.append(value)
        else:
            rest.append(arg)
    return found, rest


def globals_of() -> Globals:
    """Return the global options of the running command."""
    return _globals


def open_project() -> Project:
    """Open the project that the running command is about."""
    from tidemill.wiring import Project

    options = globals_of()
    return Project.load(options.project, env=options.env, assignments=options.assignments)


def open_checked(pipeline: str = "") -> Project:
    """Open the project for what acts on its settings; raises ConfigError when they clash.

    A training's inputs are held against the feature service, too: without that it would fail once
    all data was read. Only then is Feast imported, a second of CPU; where it is not installed, as
    with a client that only submits, the run itself finds out.
    """
    from tidemill.settings.check import check, refuse

    project = open_project()
    refuse(check(project.settings, project.root))
    if pipeline == TRAINING and find_spec("feast"):
        refuse(project.check_features())
    return project


def main(args: list[str] | None = None) -> None:
    """Run the command line; a deliberate error is printed and sets the exit code."""
    global _globals
    # Standard output is the answer's alone, so that `--json` stays one document.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        _globals, rest = split(sys.argv[1:] if args is None else args)
        app(args=rest, prog_name="tidemill")
    except TidemillError as error:
        error.hint = _repeatable(error.hint)
        typer.secho(error.spoken, fg="red", err=True)
        sys.exit(error.exit_code)
    finally:
        _globals = Globals()


def _repeatable(hint: str) -> str:
    """Give the commands of a hint the environment that this one was given."""
    from tidemill.settings.load import default_env

    if _globals.env in (None, default_env(os.environ)):
        return hint
    command = rf"\btidemill(?= ({'|'.join(COMMANDS)})\b)"
    return re.sub(command, f"tidemill --env {_globals.env}", hint)
