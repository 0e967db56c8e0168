"""A small bundle and the server that serves it, in this process."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.grpc_calls import Client
from tests.server_app import Running, start
from tests.server_shelf import BIASES, Shelf

from tidemill.testing.models import write_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "b")


@pytest.fixture
def served(bundle: Path) -> Running:
    return start(bundle)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path / "models")
    for version, bias in BIASES.items():
        made.put("late", version, bias)
    made.put("taxi", "7", 2.0)
    return made


@pytest.fixture(scope="module")
def shared(bundle: Path) -> Running:
    """One server for all tests of a file that leave it as it was."""
    return start(bundle)


@pytest.fixture(scope="module")
def client(shared: Running) -> Client:
    """Who calls the shared server by gRPC."""
    return Client(shared)
