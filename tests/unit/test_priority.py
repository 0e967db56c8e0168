"""Priority: a session of its own keeps the nice value with which it was asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from tidemill import priority

SCRIPT = """
import os
from tidemill.priority import GROUP, keep_priority
os.nice(7)
os.setsid()
keep_priority()
print(GROUP.read_text().split()[-1], os.nice(0))
"""


@pytest.mark.skipif(
    not Path("/proc/self/autogroup").exists(), reason="this kernel has no sessions as groups"
)
def test_a_session_has_the_nice_value_of_its_leader() -> None:
    line = [sys.executable, "-c", SCRIPT]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    group, process = told.split()
    assert group == process


def test_where_sessions_are_no_groups_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(priority, "GROUP", tmp_path / "none" / "autogroup")
    priority.keep_priority()
    assert not list(tmp_path.iterdir())
