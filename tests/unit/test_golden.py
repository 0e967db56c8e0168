"""Golden rows in a bundle: written, read, compared."""

from __future__ import annotations

import json
import math
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.bundle import Golden, read_golden, write_golden
from tidemill.errors import IntegrityError, Refused
from tidemill.steps.golden import golden_rows
from tidemill.testing.models import MANIFEST, write_bundle

REQUEST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1.5, None]}]}


def golden(*scores: float, tolerance: float = 1e-5) -> Golden:
    return Golden(REQUEST, tuple(f"row {n}" for n in range(len(scores))), scores, tolerance)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    kept = golden(0.25, 1 / 3)
    first = write_golden(tmp_path, kept).read_bytes()
    assert read_golden(tmp_path) == kept
    assert write_golden(tmp_path, kept).read_bytes() == first


def test_no_number_is_kept_as_no_number(tmp_path: Path) -> None:
    write_golden(tmp_path, golden(0.5, math.nan))
    found = read_golden(tmp_path)
    assert found
    assert math.isnan(found.scores[1])
    assert found.deviation([0.5, math.nan]) == ""
    assert "golden row 1 (row 1) scored nan when it was packaged and scores 0.5 here" in (
        found.deviation([0.5, 0.5])
    )
    assert "scores nan here" in found.deviation([math.nan, math.nan])


def test_the_row_that_deviates_most_is_named() -> None:
    said = golden(0.25, 0.5, 0.75).deviation([0.25, 0.5001, 0.7])
    assert said == (
        "golden row 2 (row 2) scored 0.75 when it was packaged and scores 0.7 here; 2 of 3 rows "
        "deviate by more than 1e-05"
    )
    assert golden(0.25).deviation([]) == "1 golden rows got 0 scores"


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-1e-3, 1e-3)), min_size=1, max_size=64),
    st.floats(0, 1e-3),
)
def test_it_deviates_if_one_row_is_beyond_the_tolerance(
    rows: list[tuple[float, float]], tolerance: float
) -> None:
    expected = [score for score, _ in rows]
    found = [score + off for score, off in rows]
    apart = any(abs(a - b) > tolerance for a, b in zip(expected, found, strict=True))
    assert bool(golden(*expected, tolerance=tolerance).deviation(found)) == apart


def test_a_bundle_may_have_none(tmp_path: Path) -> None:
    assert read_golden(tmp_path) is None


@pytest.mark.parametrize("scores", [(), (0.5,) * 65], ids=["none", "too many"])
def test_how_many_there_may_be(tmp_path: Path, scores: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="golden rows, expected 1 to 64"):
        write_golden(tmp_path, golden(*scores))


@pytest.mark.parametrize(
    "change",
    [
        {"scores": [0.5]},
        {"scores": ["high", 1]},
        {"rows": [], "scores": []},
        {"rows": ["held out"] * 65, "scores": [0.5] * 65},
        {"tolerance": None},
        {"tolerance": math.nan},
        {"tolerance": math.inf},
        {"tolerance": -1e-5},
    ],
    ids=[
        *("a score less", "no score", "no rows", "too many rows"),
        *("no tolerance", "NaN as tolerance", "any tolerance", "a negative tolerance"),
    ],
)
def test_what_is_malformed_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = write_golden(tmp_path, golden(0.25, 0.5))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(IntegrityError, match=r"golden\.json cannot be read"):
        read_golden(tmp_path)


def frame(rows: int) -> pl.DataFrame:
    columns = {
        c.name: ["UA"] * rows if c.datatype == "BYTES" else [float(n) for n in range(rows)]
        for c in MANIFEST.inputs
    }
    return pl.DataFrame(columns)


@pytest.mark.parametrize(
    ("thresholds", "tolerance"),
    [
        ({"parity_max_abs": "<= 1e-4"}, 1e-4),
        ({"parity_max_abs": "< 2e-6"}, 2e-6),
        ({"parity_max_abs": ">= 0"}, 1e-5),
        ({}, 1e-5),
    ],
)
def test_the_tolerance_is_that_of_the_parity_gate(
    tmp_path: Path, thresholds: dict[str, str], tolerance: float
) -> None:
    onnx = write_bundle(tmp_path / "b") / "model.onnx"
    assert golden_rows(frame(5), onnx, MANIFEST, thresholds, seed=1).tolerance == tolerance


def test_a_model_that_gives_a_real_row_no_number_is_not_packaged(tmp_path: Path) -> None:
    onnx = write_bundle(tmp_path / "b", bias=math.nan) / "model.onnx"
    with pytest.raises(Refused, match=r"gives 5 of 5 held-out rows no number \(NaN\)"):
        golden_rows(frame(5), onnx, MANIFEST, {}, seed=1)


def test_the_rows_are_real_ones_and_edges_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    onnx = write_bundle(tmp_path / "b") / "model.onnx"
    made = golden_rows(frame(100), onnx, MANIFEST, {}, seed=1)
    assert made == golden_rows(frame(100), onnx, MANIFEST, {}, seed=1)
    assert made != golden_rows(frame(100), onnx, MANIFEST, {}, seed=2)
    assert made.rows.count("held out") == 32
    assert made.rows[32:] == (
        "nothing known",
        "every category unknown",
        "absurdly large numbers",
        "absurdly small numbers",
        "carrier unknown",
        "origin unknown",
        *(f"{column.name} missing" for column in MANIFEST.inputs),
    )
    data = {tensor["name"]: tensor["data"] for tensor in made.request["inputs"]}
    assert {values[32] for values in data.values()} == {None}
    assert data["carrier"][36] == "\N{REPLACEMENT CHARACTER} never seen"
    assert data["origin"][36] == "UA"
    assert len(made.scores) == len(made.rows) == len(data["temp"])
