"""A period is scored in batch: its events joined without labels, then scored by one bundle."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tidemill.bundle import FeatureField, FeatureService, FeatureView, digest
from tidemill.errors import DataError, IntegrityError
from tidemill.steps.score import score
from tidemill.steps.scoring import OnnxModel
from tidemill.steps.scoring_set import scoring_set
from tidemill.steps.training_set import SERVICE, pinned_service
from tidemill.testing.features import MemoryFeatures
from tidemill.testing.models import MANIFEST, write_bundle

NOON = datetime(2013, 1, 31, 12, tzinfo=UTC)
VISITS = FeatureService(
    "visits",
    "shop",
    "sha256:abc",
    (FeatureView("footfall", ("shop",), (FeatureField("visits", "Int64"),), 86_400),),
)


def hours(*numbers: float) -> pl.Series:
    instants = [NOON + timedelta(hours=n) for n in numbers]
    return pl.Series(instants, dtype=pl.Datetime("us", "UTC"))


@pytest.fixture
def features(tmp_path: Path) -> Path:
    pl.DataFrame(
        {"shop": ["a", "a"], "event_timestamp": hours(-10, 2), "visits": [1, 2]}
    ).write_parquet(tmp_path / "footfall.parquet")
    pl.DataFrame(
        {
            "shop": ["a"] * 4,
            "event_timestamp": hours(3, 0, 1, 2),
            "late": pl.Series([1, 0, None, 0], dtype=pl.Int8),
            "label_at": [*hours(4, 1), None, *hours(3)],
        }
    ).write_parquet(tmp_path / "spine.parquet")
    return tmp_path


def joined(features: Path, start: float, end: float) -> pl.DataFrame:
    out = features / "set" / "rows.parquet"
    bounds = {"start": NOON + timedelta(hours=start), "end": NOON + timedelta(hours=end)}
    source = MemoryFeatures(VISITS)
    rows = scoring_set(features, out, source, service="visits", label="late", **bounds)
    assert pinned_service(out) == VISITS
    frame = pl.read_parquet(out)
    assert frame.height == rows
    return frame


def test_every_event_of_the_period_is_joined_and_no_label_is(features: Path) -> None:
    frame = joined(features, start=0, end=3)
    assert frame["event_timestamp"].to_list() == hours(0, 1, 2).to_list()
    assert frame["visits"].to_list() == [1, 1, 2]
    assert set(frame.columns) == {"shop", "event_timestamp", "visits"}


def test_a_period_without_events_is_an_error_and_writes_nothing(features: Path) -> None:
    with pytest.raises(DataError, match="no event is predicted from 2013-01-31T16"):
        joined(features, start=4, end=9)
    assert not (features / "set").exists()


def test_a_spine_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"spine\.parquet does not exist"):
        joined(tmp_path, start=0, end=3)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three rows of the small model's columns, joined with the service that it is pinned to."""
    text = {c.name: ["UA", "??", None] for c in MANIFEST.inputs if c.datatype == "BYTES"}
    numbers = {c.name: [1.0, None, 3.0] for c in MANIFEST.inputs if c.datatype == "FP32"}
    frame = pl.DataFrame({"flight_id": ["x", "y", "z"], "event_timestamp": hours(0, 1, 2)})
    path = tmp_path / "rows.parquet"
    pinned = json.dumps(asdict(MANIFEST.features))
    frame.hstack(pl.DataFrame(numbers | text)).write_parquet(path, metadata={SERVICE: pinned})
    return path


def test_scores_name_their_rows_their_bundle_and_their_data(tmp_path: Path, rows: Path) -> None:
    bundle, out = write_bundle(tmp_path / "bundle"), tmp_path / "scored" / "scores.parquet"
    assert score(bundle, rows, out, about={"data_version": "1.dir"}) == 3
    scored = pl.read_parquet(out)
    assert scored["flight_id"].to_list() == ["x", "y", "z"]
    assert scored["event_timestamp"].to_list() == hours(0, 1, 2).to_list()
    direct = OnnxModel(bundle / "model.onnx").score(pl.read_parquet(rows))
    np.testing.assert_array_equal(scored["score"].to_numpy(), direct)
    facts = pl.read_parquet_metadata(out)
    assert facts["tidemill.bundle"] == digest(bundle)
    assert facts["tidemill.features"] == MANIFEST.features.digest
    assert facts["tidemill.data_version"] == "1.dir"


def test_rows_joined_with_another_definition_are_refused(tmp_path: Path, rows: Path) -> None:
    other = json.dumps(asdict(VISITS))
    pl.read_parquet(rows).write_parquet(rows, metadata={SERVICE: other})
    out = tmp_path / "scores.parquet"
    with pytest.raises(IntegrityError, match="joined with sha256:abc"):
        score(write_bundle(tmp_path / "bundle"), rows, out, about={})
    assert not out.exists()


def test_scores_that_are_no_probability_are_refused(tmp_path: Path, rows: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", bias=float("nan"))
    out = tmp_path / "scores.parquet"
    with pytest.raises(IntegrityError, match=r"3 of 3 scores .* are not in \[0, 1\]"):
        score(bundle, rows, out, about={})
    assert not out.exists()
