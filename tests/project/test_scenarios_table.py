"""The table of scenarios names tests that exist, and leaves no scenario out."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/rollout-scenarios.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("|")
][2:]
LEVELS = {"core", "machine", "cluster", "pods", "parity", "–"}


def named(row: list[str]) -> tuple[str, str]:
    """Return the file and the test that a row names."""
    found = re.fullmatch(r"`(tests/[^`:]+\.py)(?:::(\w+))?`", row[3])
    assert found, f"no test in: {' | '.join(row)}"
    return found[1], found[2] or ""


def functions(path: Path) -> set[str]:
    return {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)}


def test_every_scenario_is_in_the_table():
    assert [row[0] for row in ROWS if row[0].startswith("S")] == [f"S{n}" for n in range(1, 22)]


def test_what_is_not_shown_says_so():
    missing = [row[0] for row in ROWS if row[3].startswith("none: ")]
    assert len(missing) <= 1, missing


@pytest.mark.parametrize(
    "row", [row for row in ROWS if not row[3].startswith("none: ")], ids=lambda row: row[3][-60:]
)
def test_every_test_that_is_named_exists(row):
    file, function = named(row)
    assert row[2] in LEVELS
    assert (ROOT / file).is_file()
    assert not function or function in functions(ROOT / file)
    assert row[2] != "parity" or file == "tests/cluster/rollout_scenarios.py"


def test_every_scenario_of_parity_is_in_the_table():
    played = functions(ROOT / "tests/cluster/rollout_scenarios.py")
    source = (ROOT / "tests/cluster/rollout_scenarios.py").read_text()
    listed = set(re.findall(r"^    (?:\*\()?\((\w+)[,(]", source, re.M)) & played
    assert listed == {named(row)[1] for row in ROWS if row[2] == "parity"}
