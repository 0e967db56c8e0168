"""A small bundle and the server that serves it, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.server_app import Running, start

from tidemill.testing.models import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def served(bundle: Path) -> Running:
    return start(bundle)
