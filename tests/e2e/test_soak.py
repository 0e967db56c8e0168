"""The short form of `python -m benchmarks soak`."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import soak

pytestmark = pytest.mark.slow


def test_a_loaded_server_fails_nothing_and_keeps_its_memory(tmp_path: Path) -> None:
    report = soak.soak(tmp_path, 12)
    assert soak.judge(report) == []
    assert report.swaps >= 3
    assert report.logged > 1000 * soak.ROWS
    assert report.statuses[200, 200] > 1000
    assert report.statuses[400, 400] > 1000
