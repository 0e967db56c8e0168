"""What a command said when it ended, found again in its output."""

from __future__ import annotations

import pytest

from tidemill.errors import MAX_SPOKEN, Refused, last_error

HINTED = Refused("row 7 scores 0.3,\nnot 0.2", hint="do not serve it").spoken
BARE = Refused("the port is taken").spoken


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (BARE, "the port is taken"),
        (f"ready\n{BARE}\n", "the port is taken"),
        (f"{BARE}\nTerminated\n", "the port is taken"),
        (HINTED, "row 7 scores 0.3, not 0.2"),
        (f"{HINTED}\nTerminated\n", "row 7 scores 0.3, not 0.2"),
        (f"{HINTED}\n{BARE}\nTerminated\n", "the port is taken"),
        (f"log: {BARE}", ""),
        ("", ""),
        (f"tidemill: {'x' * 2000}", "x" * MAX_SPOKEN),
    ],
)
def test_the_last_error_is_its_message(output: str, said: str) -> None:
    assert last_error(output) == said
