"""The flights and the model that the tests of monitoring share."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine
from tests.monitoring_world import Flights, World, causes
from tests.retrain_world import NOW, Desk

from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.tables import metadata


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


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def store(url: str) -> Iterator[Engine]:
    engine = open_store(url)
    metadata.drop_all(engine)
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def desk(store: Engine) -> Desk:
    desk = Desk(store)
    desk.labels(6000, NOW - timedelta(days=2))
    return desk
