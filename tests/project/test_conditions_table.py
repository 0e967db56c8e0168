"""The table of conditions in the docs has every condition and every reason of the code."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import get_args

from tests.unit.rollout_world import IN_FLIGHT

from tidemill.adapters.kubernetes import rollouts
from tidemill.domain.rollout import conditions
from tidemill.domain.rollout.model import Ending

PAGE = Path(__file__).parents[2] / "docs/rollout-kubernetes.md"
REASON = re.compile("[A-Z][A-Za-z]+")


def written() -> dict[str, set[str]]:
    """Return the reasons by condition, as the page has them."""
    table = PAGE.read_text().partition("| condition |")[2].partition("\n\n")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return {row[0].strip(): set(re.findall(f"`({REASON.pattern})`", " ".join(row))) for row in rows}


def said() -> dict[str, set[str]]:
    """Return the reasons by condition, as the code says them."""
    found: dict[str, set[str]] = defaultdict(set)
    for module in (conditions, rollouts):
        for call in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            if call.func.id in ("_of", "Condition") and isinstance(call.args[0], ast.Constant):
                texts = [n.value for n in ast.walk(call.args[2]) if isinstance(n, ast.Constant)]
                found[call.args[0].value] |= {one for one in texts if REASON.fullmatch(str(one))}
    found["Stalled"] |= set(conditions.NEEDS_PERSON.values())
    found["Promoted"] |= {spelt(one) for one in get_args(Ending)}
    found["Progressing"] |= {spelt(one) for one in IN_FLIGHT} - {"Progressing"}
    return found


def spelt(name: str) -> str:
    return name.title().replace("_", "")


def test_the_table_has_what_the_code_says():
    assert written() == said()
