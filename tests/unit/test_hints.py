"""What errors tell to do next can be done: every command and option that a hint names exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

import tidemill
from tidemill.cli.app import app

SOURCE = Path(tidemill.__file__).parent
COMMAND = re.compile(r"tidemill ([a-z]+)(?: ([a-z-]+))?")
GLOBAL = {"--project", "--env", "--set", "--json", "--help"}


def hints() -> Iterator[tuple[str, str]]:
    """Yield place and text of every hint, or part of one: a literal, a constant of its module."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg in ("hint", "again"):
                value = node.value
                if isinstance(value, ast.Name):
                    value = constants.get(value.id, value)
                yield f"{path.relative_to(SOURCE)}:{node.value.lineno}", ast.unparse(value)


NAMED = [(place, text) for place, text in hints() if COMMAND.search(text)]


def resolved(verb: str, sub: str) -> TyperCommand:
    command = get_command(app).get_command(None, verb)  # raises UsageError for an unknown one
    if isinstance(command, TyperGroup):
        assert sub in command.commands, f"tidemill {verb} has no {sub}"
        return command.commands[sub]
    return command


def test_there_are_hints_to_check() -> None:
    assert len(NAMED) > 40


@pytest.mark.parametrize(("place", "text"), NAMED, ids=[place for place, _ in NAMED])
def test_a_hint_names_commands_that_exist(place: str, text: str) -> None:
    options = set()
    for verb, sub in COMMAND.findall(text):
        command = resolved(verb, sub)
        options |= {name for parameter in command.params for name in parameter.opts}
    commands = text[COMMAND.search(text).start() :]
    assert set(re.findall(r"--[a-z-]+", commands)) <= options | GLOBAL
