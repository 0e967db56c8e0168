"""Inputs that are a vector a row: read, checked, scored, logged and described."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.server_app import INFER, NOW, Answer, Running, start
from tests.server_vectors import ALONE, BEFORE, PLACE, WEIGHTS, asked, by_hand, tensor, write

from tidemill.bundle import InputColumn, write_manifest
from tidemill.errors import IntegrityError
from tidemill.server import load_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("vectors"))


@pytest.fixture
def served(bundle: Path) -> Running:
    return start(bundle)


def ask(served: Running, document: dict[str, Any], tail: bytes | None = None) -> Answer:
    body = json.dumps(document).encode()
    if tail is None:
        return served.ask(INFER, body)
    return served.ask(INFER, body + tail, inference_header_content_length=str(len(body)))


@pytest.mark.parametrize("data", [PLACE, [x for row in PLACE for x in row]], ids=["nested", "flat"])
def test_json_may_be_nested_or_flat(served: Running, data: Any) -> None:
    answer = ask(served, asked(tensor("place", data, [2, 3])))
    assert answer.scores == pytest.approx(by_hand(), abs=1e-6)


@pytest.mark.parametrize("datatype", ["<f4", "<f8", "<i4", "<f2"])
def test_binary_numbers_of_any_type(served: Running, datatype: str) -> None:
    packed = np.array(PLACE, datatype).tobytes()
    name = {"<f4": "FP32", "<f8": "FP64", "<i4": "INT32", "<f2": "FP16"}[datatype]
    place = {"name": "place", "datatype": name, "shape": [2, 3]}
    answer = ask(served, asked(place | {"parameters": {"binary_data_size": len(packed)}}), packed)
    assert answer.scores == pytest.approx(by_hand(), abs=1e-6)


def test_a_model_of_one_vector_alone(tmp_path: Path) -> None:
    served = start(write(tmp_path / "b", ALONE))
    answer = ask(served, {"inputs": [tensor("place", PLACE, [2, 3])]})
    wanted = 1 / (1 + np.exp(-(np.float32(PLACE) @ WEIGHTS)))
    assert answer.scores == pytest.approx(wanted.tolist(), abs=1e-6)


def test_null_in_a_vector_is_missing(served: Running) -> None:
    place = [[1.0, None, 4.0], PLACE[1]]
    answer = ask(served, asked(tensor("place", place, [2, 3])))
    assert answer.scores == pytest.approx([None, by_hand()[1]], abs=1e-6)


def test_null_in_a_vector_is_refused_where_the_settings_say_so(bundle: Path) -> None:
    served = start(bundle, nan_policy="reject")
    answer = ask(served, asked(tensor("place", [[1.0, None, 4.0], PLACE[1]], [2, 3])))
    assert (answer.status, answer.body["code"]) == (400, "missing_value")
    assert "'place'" in answer.body["error"]


WRONG = {
    "narrow": (tensor("place", [[1.0, 2.0]] * 2, [2, 2]), "wrong_shape", "[N, 3]"),
    "no width": (tensor("place", [1.0, 2.0], [2]), "wrong_shape", "[N, 3]"),
    "more rows": (tensor("place", [PLACE[0]] * 3, [3, 3]), "wrong_shape", "N = 2"),
    "three dimensions": (tensor("place", [PLACE], [1, 2, 3]), "invalid_request", "place"),
    "too few values": (tensor("place", [1.0] * 5, [2, 3]), "wrong_length", "6"),
    "ragged": (tensor("place", [[1.0, 2.0, 3.0], [1.0, 2.0]], [2, 3]), "wrong_shape", "nested"),
    "nested and flat": (tensor("place", [[1.0, 2.0, 3.0], 1.0], [2, 3]), "wrong_shape", "nested"),
    "text": (tensor("place", ["a"] * 6, [2, 3], "BYTES"), "wrong_datatype", "BYTES"),
}


@pytest.mark.parametrize(("place", "code", "says"), WRONG.values(), ids=WRONG.keys())
def test_what_is_no_such_vector_is_refused(
    served: Running, place: dict[str, Any], code: str, says: str
) -> None:
    answer = ask(served, asked(place))
    assert (answer.status, answer.body["code"]) == (400, code)
    assert says in answer.body["error"]
    assert "place" in answer.body["error"]


def test_binary_values_that_are_too_few_are_refused(served: Running) -> None:
    packed = np.float32(PLACE[0]).tobytes()
    place = {"name": "place", "datatype": "FP32", "shape": [2, 3]}
    answer = ask(served, asked(place | {"parameters": {"binary_data_size": len(packed)}}), packed)
    assert (answer.status, answer.body["code"]) == (400, "wrong_length")


def test_an_infinite_number_is_refused_by_its_input_and_row(served: Running) -> None:
    packed = np.float32([PLACE[0], [0.0, np.inf, 1.0]]).tobytes()
    place = {"name": "place", "datatype": "FP32", "shape": [2, 3]}
    answer = ask(served, asked(place | {"parameters": {"binary_data_size": len(packed)}}), packed)
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")
    assert "'place'" in answer.body["error"]
    assert "row 1" in answer.body["error"]


def test_a_number_takes_no_vector(served: Running) -> None:
    document = asked(tensor("place", PLACE, [2, 3]))
    document["inputs"][1] = tensor("before", PLACE, [2, 3])
    answer = ask(served, document)
    assert (answer.status, answer.body["code"]) == (400, "wrong_shape")
    assert "[N] or [N, 1]" in answer.body["error"]


def test_the_log_keeps_a_vector_as_one_column_of_lists(served: Running) -> None:
    first = ask(served, asked(tensor("place", PLACE, [2, 3])) | {"id": "a"})
    other = [[9.0, None, 7.0], [6.0, 5.0, 4.0]]
    ask(served, asked(tensor("place", other, [2, 3])) | {"id": "b"})
    assert served.log.close(10) == 0
    (content,) = served.objects.kept.values()
    log = pl.read_parquet(BytesIO(content))
    assert log.schema["place"] == pl.List(pl.Float32)
    places = log["place"].to_list()
    assert places[:2] == PLACE
    assert places[3] == other[1]
    assert places[2][::2] == [9.0, 7.0]
    assert np.isnan(places[2][1])
    assert log["before"].to_list() == pytest.approx(BEFORE * 2)
    assert log["score"].to_list()[:2] == first.scores
    assert log["at"].unique().to_list() == [NOW]


def test_metadata_tells_the_width(served: Running) -> None:
    inputs = served.ask("/v2/models/flight-delay", method="GET").body["inputs"]
    shapes = {one["name"]: one["shape"] for one in inputs}
    assert shapes == {
        "before": [-1],
        "place": [-1, 3],
        "carrier": [-1],
        "after": [-1],
        "flight_id": [-1],
    }


LIES = {
    "another width": (InputColumn("place", "FP32", "request", width=4), "tensor(float)[4]"),
    "no width": (InputColumn("place", "FP32", "request"), "tensor(float)[3]"),
    "a vector that is a feature": (InputColumn("place", "FP32", "feature", width=3), "vectors"),
}


@pytest.mark.parametrize(("column", "says"), LIES.values(), ids=LIES.keys())
def test_a_manifest_that_lies_about_a_vector_is_refused(
    tmp_path: Path, column: InputColumn, says: str
) -> None:
    folder = write(tmp_path / "b", ALONE)
    write_manifest(folder, replace(ALONE, inputs=(column,)))
    with pytest.raises(IntegrityError, match=re.escape(says)):
        load_model(folder, version="1", threads=1)
