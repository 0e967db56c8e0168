"""The flights and the model that the tests of monitoring share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.monitoring_world import Flights, World, causes


@pytest.fixture(scope="session")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Flights:
    """Return real flights of January to May 2013 and a model trained on the first three months."""
    return Flights(tmp_path_factory.mktemp("flights"))


@pytest.fixture
def world(flights: Flights, tmp_path: Path) -> World:
    """Return a deployment of that model with nothing logged yet."""
    return World(flights, tmp_path)


@pytest.fixture(scope="session")
def four_days(flights: Flights, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Return a deployment that served and judged four healthy days; for copying."""
    world = World(flights, tmp_path_factory.mktemp("four") / "days")
    assert causes(world.play(4)) == ["none"] * 4
    return world


@pytest.fixture
def settled(four_days: World, tmp_path: Path) -> World:
    """Return a deployment that served four healthy days: it knows what volume to expect."""
    return four_days.copy(tmp_path / "world")
