"""What the pages show holds: links, commands with their options, settings, code."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft7Validator
from packaging.requirements import Requirement
from pydantic import BaseModel
from typer.core import TyperGroup
from typer.main import get_command

from tidemill.adapters.kubernetes.analysis import AnalysisSpec
from tidemill.adapters.kubernetes.resources import ModelRolloutSpec
from tidemill.cli.app import app, split
from tidemill.settings import Settings, load

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page.relative_to(ROOT)
    for folder in (
        *(".", "docs", "docs/decisions", "docs/kubernetes", "docs/runbooks"),
        *("infra/project", "serving"),
    )
    for page in (ROOT / folder).glob("*.md")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(*languages: str) -> Iterator[tuple[Path, str]]:
    """Yield page and text of every block in one of the languages."""
    for page in PAGES:
        for language, text in FENCE.findall((ROOT / page).read_text()):
            if language in languages:
                yield page, text


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every command of a console block; what it prints follows a prompt.

    `a | b` offers two last words, `[A]` may be left out, `;` and `&&` join commands.
    """
    lines = [line for line in text.splitlines() if line.startswith("$ ")] or text.splitlines()
    for line in lines:
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|"):
                yield words
                words = words[:-1] if word == "|" else []
            else:
                words = [
                    *words,
                    word.removeprefix("[").removesuffix("]") if word[0] == "[" else word,
                ]


def spans() -> Iterator[tuple[Path, list[str]]]:
    """Yield page and words of every command that is named within a sentence."""
    for page in PAGES:
        prose = FENCE.sub("", (ROOT / page).read_text())
        for text in re.findall(r"`tidemill ([^`]+)`", prose):
            yield page, shlex.split(text.removesuffix(" …"))


def resolved(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that is meant and its arguments; fails for one that does not exist."""
    _, words = split(words)
    command: Any = get_command(app)
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name, *words = words
        found = command.get_command(None, name)  # the root raises UsageError for an unknown one
        assert found, f"tidemill {command.name} has no {name}"
        command = found
    return command, words


SHOWN = [(page, c) for page, text in blocks("console", "sh") for c in commands(text)]
NAMED = list(spans())


@pytest.mark.parametrize(("page", "words"), SHOWN, ids=[str(page) for page, _ in SHOWN])
def test_a_command_in_a_block_is_accepted_as_it_stands(page: Path, words: list[str]) -> None:
    match words:
        case ["tidemill", *rest]:
            command, arguments = resolved(rest)
            command.make_context(command.name, arguments)  # raises UsageError
        case ["make", target]:
            assert f"\n{target}: " in (ROOT / "Makefile").read_text()
        case ["pip", "install", requirement]:
            assert Requirement(requirement.removeprefix("./")).extras <= set(
                PROJECT["optional-dependencies"]
            )


@pytest.mark.parametrize(("page", "words"), NAMED, ids=[str(page) for page, _ in NAMED])
def test_a_command_in_a_sentence_exists_with_its_options(page: Path, words: list[str]) -> None:
    command, arguments = resolved(words)
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    options = {word.partition("=")[0] for word in arguments if re.match("-+[a-z]", word)}
    assert options <= known | {"--help"}


def test_there_are_commands_to_check() -> None:
    assert sum(words[0] == "tidemill" for _, words in SHOWN) > 50
    assert len(NAMED) > 40


RESOURCES = [(page, text) for page, text in blocks("yaml") if "serving.tidemill.dev/" in text]
KINDS = {"ModelRollout": ModelRolloutSpec, "AnalysisPolicy": AnalysisSpec}
VALUES = [(page, text) for page, text in blocks("yaml") if text.startswith("# chart values")]
SETTINGS = [
    (page, text)
    for page, text in blocks("yaml")
    if "apiVersion:" not in text and not text.startswith("# chart values")
]


@pytest.mark.parametrize(("page", "block"), SETTINGS, ids=[str(page) for page, _ in SETTINGS])
def test_settings_in_a_block_are_accepted(page: Path, block: str, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.yaml").write_text((ROOT / "configs" / "base.yaml").read_text())
    (tmp_path / "configs" / "local.yaml").write_text(block)
    shown = yaml.safe_load(block)
    read = load(tmp_path, variables={}).settings.model_dump(mode="json", include=set(shown))
    assert read.keys() == shown.keys()


@pytest.mark.parametrize(("page", "block"), RESOURCES, ids=[str(page) for page, _ in RESOURCES])
def test_resources_in_a_block_are_valid(page: Path, block: str) -> None:
    whole = block.replace("sha256:…", f"sha256:{'0' * 64}")
    for shown in yaml.safe_load_all(whole):
        KINDS[shown["kind"]].model_validate(shown["spec"])


@pytest.mark.parametrize(("page", "block"), VALUES, ids=[str(page) for page, _ in VALUES])
def test_values_in_a_block_are_accepted(page: Path, block: str) -> None:
    schema = json.loads((ROOT / "charts/tidemill/values.schema.json").read_text())
    shown = yaml.safe_load(block.replace("sha256:…", f"sha256:{'0' * 64}"))
    Draft7Validator(schema).validate(shown)


@pytest.mark.parametrize("block", [text for _, text in blocks("python")])
def test_what_a_block_of_python_imports_is_there(block: str) -> None:
    imports = [n for n in ast.parse(block).body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert imports
    exec(compile(ast.Module(imports, type_ignores=[]), "block", "exec"), {})


def fields(value: Any, at: str = "") -> Iterator[str]:
    """Yield the dotted names of all settings."""
    if isinstance(value, type) and issubclass(value, BaseModel):
        for name, field in value.model_fields.items():
            yield at + name
            yield from fields(field.annotation, f"{at}{name}.")
    for part in get_args(value):
        yield from fields(part, at)


def test_settings_that_a_sentence_names_exist() -> None:
    known = set(fields(Settings))
    groups = "|".join(Settings.model_fields)
    name = re.compile(rf"`((?:{groups})\.[a-z_.]+)\b")
    named = {
        (found, str(page))
        for page in PAGES
        for found in name.findall(FENCE.sub("", (ROOT / page).read_text()))
        if not found.endswith(".json")  # a file of evidence
    }
    assert len(named) > 40
    assert {(found, page) for found, page in named if found not in known} == set()


def test_no_other_code_is_shown() -> None:
    """A block in another language needs a test of its own."""
    languages = {
        language for page in PAGES for language, _ in FENCE.findall((ROOT / page).read_text())
    }
    # yml: resources of others' controllers, see tests/unit/test_judge_examples.py
    assert languages <= {"console", "sh", "yaml", "yml", "text", "json", "python"}


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "reference" / "commands" / "index.html").read_text()
    assert "tidemill rollout start" in commands
    settings = (tmp_path / "reference" / "settings" / "index.html").read_text()
    assert "min_category_rows" in settings


def test_the_readme_names_only_targets_and_pages_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target} " in readme
        assert f"\n{target}: " in makefile
    for part in readme.split("](")[1:]:
        assert (ROOT / part.split(")")[0]).exists(), part.split(")")[0]
