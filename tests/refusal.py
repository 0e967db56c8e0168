"""What a test does that cannot run here: it says so, or fails where it must run."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

__all__ = ["NO_CHART", "NO_CLUSTER", "NO_IMAGES", "NO_PODS", "REQUIRE", "refuse"]

REQUIRE = "TIDEMILL_TEST_REQUIRE_ALL"
NO_CLUSTER, NO_PODS = "NO CLUSTER TESTS", "NO TESTS OF RUNNING PODS"
NO_IMAGES, NO_CHART = "NO TESTS OF IMAGES", "NO CHART TESTS"


def refuse(what: str, reason: object) -> NoReturn:
    """Skip a test, or fail it where `TIDEMILL_TEST_REQUIRE_ALL` wants none skipped."""
    if os.environ.get(REQUIRE):
        pytest.fail(f"{REQUIRE} is set, but {what}: {reason}")
    pytest.skip(f"{what}: {reason}")
