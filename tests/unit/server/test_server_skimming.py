"""Large JSON requests: read another way, with the same outcome to the last word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server_app import FULL, INFER, request, start

from tidemill.server.protocol import Rejected, decode
from tidemill.server.skimming import LARGE, skim
from tidemill.server.tensors import FP32_MAX
from tidemill.testing.models import write_bundle

ROWS = 200


def body(data: str, datatype: str = "FP32") -> bytes:
    """Write a request by hand: what JSON libraries would not write can be in it."""
    text = f'{{"inputs":[{{"name":"x","shape":[2],"datatype":"{datatype}","data":{data}}}]}}'
    return text.encode()


numbers = st.floats(-FP32_MAX, FP32_MAX) | st.integers(-(2**70), 2**70)
values = numbers | st.none() | st.lists(numbers | st.none(), max_size=3)
others = values | st.booleans() | st.text(max_size=3) | st.floats(allow_nan=False)


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
@given(data=st.lists(numbers, max_size=9) | st.lists(values, max_size=9) | st.lists(others))
def test_it_reads_what_the_decoder_reads_and_nothing_else(datatype: str, data: list[Any]) -> None:
    content = body(json.dumps(data), datatype)
    found = skim(content)
    try:
        wanted = decode(content)
    except Rejected:
        assert found is None
        return
    assert found is not None
    (tensor,), (expected,) = found.inputs, wanted.inputs
    assert type(tensor) is type(expected)
    assert (tensor.name, tensor.shape) == (expected.name, expected.shape)
    assert list(tensor.data) == expected.data  # type: ignore[arg-type]


WRONG = (
    *("[NaN]", "[01]", "[1.]", "[+1]", "[1,]", "[1e400]", "[1] 2", "1.0", "{}", "null", '"1"'),
    *("[true]", "[3.5e38]", "[[[1.0]]]", "[[1.0]", "[1.0,[2.0]", "[" * 5000),
)


@pytest.mark.parametrize("data", WRONG)
def test_what_the_decoder_refuses_is_left_to_it(data: str) -> None:
    with pytest.raises(Rejected):
        decode(body(data))
    assert skim(body(data)) is None


def test_a_flat_list_becomes_an_array_and_a_nested_one_does_not() -> None:
    flat, nested = skim(body("[1, 2.5]")), skim(body("[[1],[2.5]]"))
    assert flat is not None
    assert nested is not None
    assert isinstance(flat.inputs[0].data, np.ndarray)
    assert nested.inputs[0].data == [[1.0], [2.5]]


def test_an_input_whose_values_follow_the_json_has_none() -> None:
    content = (
        b'{"inputs":[{"name":"x","shape":[2],"datatype":"FP32",'
        b'"parameters":{"binary_data_size":8}}]}'
    )
    found = skim(content)
    assert found is not None
    assert found.inputs[0].data is msgspec.UNSET


@pytest.mark.parametrize("given", ["flat", "nested", "null"])
def test_a_large_request_is_answered_as_a_small_one(tmp_path: Path, given: str) -> None:
    served = start(write_bundle(tmp_path / "bundle"))
    small = served.infer(FULL).scores[0]
    missing = served.infer(FULL | {"temp": None}).scores[0]
    document = request(FULL, ROWS)
    temp = next(one for one in document["inputs"] if one["name"] == "temp")
    if given == "nested":
        temp |= {"shape": [ROWS, 1], "data": [[value] for value in temp["data"]]}
    if given == "null":
        temp["data"][7] = None
    content = json.dumps(document).encode()
    assert len(content) >= LARGE
    scores = served.ask(INFER, content).scores
    wanted = [small] * ROWS
    if given == "null":
        wanted[7] = missing
    assert scores == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("place", "value", "code"),
    [(199, 3.5e38, "invalid_request"), (100, "a", "invalid_request"), (5, [1.0], "wrong_shape")],
)
def test_a_large_request_is_refused_in_the_same_words(
    tmp_path: Path, place: int, value: Any, code: str
) -> None:
    served = start(write_bundle(tmp_path / "bundle"))
    document = request(FULL, ROWS)
    temp = next(one for one in document["inputs"] if one["name"] == "temp")
    temp["data"][place] = value
    answer = served.ask(INFER, json.dumps(document).encode())
    assert (answer.status, answer.body["code"]) == (400, code)
    assert "'temp'" in answer.body["error"]
