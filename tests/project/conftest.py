"""Projects to run pipelines in."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tidemill.wiring import Project

if TYPE_CHECKING:
    from tidemill.adapters.feast import FeastRepository
    from tidemill.adapters.nycflights13 import Nycflights13

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
QUARTER_ENDS = datetime(2013, 4, 1, 10, tzinfo=UTC)


@pytest.fixture
def flows(tmp_path: Path) -> Project:
    """A project of small pipelines."""
    shutil.copytree(HERE / "flows", tmp_path / "flows")
    return Project.load(tmp_path / "flows")


@pytest.fixture(scope="session")
def flights_source(tmp_path_factory: pytest.TempPathFactory) -> Nycflights13:
    """The reference data's connector."""
    from tidemill.adapters.nycflights13 import Nycflights13

    return Nycflights13(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def raw_quarter(flights_source: Nycflights13, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The raw tables of January to March 2013, as known on 1 April."""
    folder = tmp_path_factory.mktemp("raw")
    for table, cadence in flights_source.tables().items():
        (folder / table).mkdir()
        months = ["2013-01", "2013-02", "2013-03", "2013-04"]
        for period in ["static"] if cadence == "static" else months:
            frame = flights_source.read(table, period, QUARTER_ENDS)
            frame.write_parquet(folder / table / f"{period}.parquet")
    return folder


@pytest.fixture(scope="session")
def feature_tables(raw_quarter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feature tables and the spine of that quarter."""
    from tidemill.adapters.project_code import load
    from tidemill.settings.features import FeatureSettings
    from tidemill.steps.featurize import featurize

    folder = tmp_path_factory.mktemp("features")
    transforms = load(ROOT / "feature_repo" / "transforms.py")
    featurize(raw_quarter, folder, transforms, FeatureSettings(), QUARTER_ENDS)  # type: ignore[arg-type]
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> FeastRepository:
    """The project's feature repository with an online store of its own."""
    from tidemill.adapters.feast import FeastRepository
    from tidemill.settings.features import FeatureSettings

    state = tmp_path / "feast"
    return FeastRepository(
        ROOT / "feature_repo",
        FeatureSettings(),
        registry=f"sqlite:///{state / 'registry.db'}",
        online_path=state / "online.db",
    )


@pytest.fixture
def root_project() -> Project:
    """The reference project itself; only for what writes nothing."""
    return Project.load(HERE.parents[1])
