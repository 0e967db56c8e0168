"""The binary tensor data extension: the same answers as JSON, and refusals with a reason."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server_app import FULL, INFER, ROW, Answer, Running, expected, request, start
from tests.tensors import WIDTHS, as_raw, binary, packed

from tidemill.server.binary import unpack
from tidemill.server.tensors import BytesTensor

COLUMNS = FULL | {"sched_minute": [300.0, 600.0, 900.0], "carrier": ["UA", "??", None]}
BINARY = {"parameters": {"binary_data_output": True}}
HEADER = b"inference-header-content-length"
FORMS = [
    (datatype, form)
    for datatype in WIDTHS
    for form in ("json", "binary")
    if (datatype, form) != ("FP16", "json")  # the protocol has no such form
]


def ask(served: Running, head: bytes, tail: bytes, size: object = None) -> Answer:
    length = str(len(head) if size is None else size)
    return served.ask(INFER, head + tail, inference_header_content_length=length)


def ask_inputs(served: Running, inputs: list[dict[str, Any]], **more: Any) -> Answer:
    return ask(served, *binary(inputs, **more))


def changed(rows: int = 2, **changes: Any) -> list[dict[str, Any]]:
    """A good binary request with its first input (sched_minute) changed."""
    first, *rest = map(as_raw, request(FULL, rows)["inputs"])
    return [first | changes, *rest]


def test_binary_mixed_and_json_requests_get_the_same_scores(shared: Running) -> None:
    inputs = request(COLUMNS, 3)["inputs"]
    by_json = shared.ask(INFER, json.dumps({"inputs": inputs}).encode()).scores
    by_binary = ask_inputs(shared, [as_raw(x) for x in inputs]).scores
    mixed = [as_raw(x) if place % 2 else x for place, x in enumerate(inputs)]
    assert by_json == by_binary == ask_inputs(shared, mixed).scores
    assert by_json[0] == pytest.approx(
        expected(FULL | {"sched_minute": 300, "carrier": "UA"}), abs=1e-6
    )


def test_nan_is_missing_as_null_is(served: Running) -> None:
    row = FULL | {"temp": None}
    answer = ask_inputs(served, [as_raw(x) for x in request(row)["inputs"]])
    assert answer.scores == pytest.approx([expected(row)], abs=1e-6)


@pytest.mark.parametrize(("datatype", "form"), FORMS)
def test_numbers_come_in_every_numeric_datatype(shared: Running, datatype: str, form: str) -> None:
    values = [False, True] if datatype == "BOOL" else [0, 100]
    inputs = request(FULL | {"seats": values}, 2)["inputs"]
    inputs[-1]["datatype"] = datatype
    answer = ask_inputs(shared, [as_raw(x) if form == "binary" else x for x in inputs])
    assert answer.scores == pytest.approx([expected(FULL | {"seats": v}) for v in values], abs=1e-6)


@pytest.mark.parametrize(("datatype", "value"), [("UINT64", 2**64 - 1), ("INT64", -(2**63))])
@pytest.mark.parametrize("form", ["json", "binary"])
def test_the_largest_whole_numbers_are_rounded_to_fp32(
    shared: Running, datatype: str, value: int, form: str
) -> None:
    inputs = request(FULL | {"seats": value})["inputs"]
    inputs[-1]["datatype"] = datatype
    assert ask_inputs(shared, [as_raw(x) if form == "binary" else x for x in inputs]).status == 200


def test_binary_outputs_are_announced_and_equal_those_of_json(served: Running) -> None:
    plain = served.infer(COLUMNS, 3).scores
    selected = [{"name": "probability", "parameters": {"binary_data": True}}]
    for more in (BINARY, {"outputs": selected}):
        answer = served.infer(COLUMNS, 3, id="b", **more)
        size = int(answer.headers[HEADER])
        assert answer.headers[b"content-type"] == b"application/octet-stream"
        head = json.loads(answer.content[:size])
        assert head["id"] == "b"
        assert head["outputs"] == [
            {
                "name": "probability",
                "datatype": "FP32",
                "shape": [3],
                "parameters": {"binary_data_size": 12},
            }
        ]
        assert np.frombuffer(answer.content[size:], "<f4").tolist() == plain
    over = [{"name": "probability", "parameters": {"binary_data": False}}]
    answer = served.infer(COLUMNS, 3, outputs=over, **BINARY)
    assert answer.scores == plain
    assert HEADER not in answer.headers


def test_the_extension_is_announced(served: Running) -> None:
    assert "binary_tensor_data" in served.ask("/v2", method="GET").body["extensions"]


def test_binary_requests_are_looked_up_counted_and_logged_as_json_ones(served: Running) -> None:
    keys = ROW | {"tailnum": "N1", "flight_id": "f1"}
    inputs = request(keys, 2)["inputs"]
    by_json = served.ask(INFER, json.dumps({"inputs": inputs, "id": "j"}).encode())
    by_binary = ask_inputs(served, [as_raw(x) for x in inputs], id="b")
    assert by_json.scores == by_binary.scores
    assert by_json.body["parameters"] == by_binary.body["parameters"]
    assert served.metric("tidemill_rows_total") == 4
    assert served.log.close(10) == 0
    (content,) = served.objects.kept.values()
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    varying = ("request_id", "seconds")
    kept = [{k: v for k, v in row.items() if k not in varying} for row in rows]
    assert [row["request_id"] for row in rows] == ["j", "j", "b", "b"]
    assert kept[:2] == kept[2:]


def test_keys_may_be_binary_whole_numbers_and_stay_whole(served: Running) -> None:
    inputs = request(ROW)["inputs"]
    key = {"name": "tailnum", "shape": [1], "datatype": "INT64"}
    answer = ask_inputs(served, [*inputs, key | {"raw": packed("INT64", [17])}])
    assert answer.body["parameters"]["defaulted"] == "seats=1"
    wrong = ask_inputs(served, [*inputs, key | {"datatype": "INT32", "raw": packed("INT32", [17])}])
    assert wrong.body["code"] == "wrong_datatype"


def test_nan_is_refused_where_the_policy_says_so(bundle: Path) -> None:
    strict = start(bundle, nan_policy="reject")
    for datatype in ("FP32", "FP64", "FP16"):
        inputs = changed(datatype=datatype, raw=packed(datatype, [1.0, np.nan]))
        answer = ask_inputs(strict, inputs)
        assert answer.body["code"] == "missing_value"
        assert "'sched_minute'" in answer.body["error"]
    assert ask_inputs(strict, changed()).status == 200


def text(raw: bytes) -> list[dict[str, Any]]:
    return [x | {"raw": raw} if x["name"] == "carrier" else x for x in changed()]


REFUSED: dict[str, tuple[list[dict[str, Any]], str, list[str]]] = {
    "too short": (changed(raw=b"1234"), "wrong_length", ["'sched_minute'", "4 bytes", "need 8"]),
    "too long": (changed(raw=b"1" * 12), "wrong_length", ["12 bytes", "need 8"]),
    "size of another datatype": (changed(datatype="FP64"), "wrong_length", ["FP64 need 16"]),
    "infinite": (changed(raw=packed("FP32", [1, np.inf])), "invalid_request", ["row 1", "FP32"]),
    "fp64 beyond fp32": (
        changed(datatype="FP64", raw=packed("FP64", [1e39, 1])),
        "invalid_request",
        ["'sched_minute'", "row 0", "range of FP32"],
    ),
    "no truth value": (changed(datatype="BOOL", raw=b"\1\2"), "malformed_binary", ["byte 2"]),
    "neither": (
        [{k: v for k, v in changed()[0].items() if k != "raw"}],
        "invalid_request",
        ["'sched_minute'", "neither", "binary"],
    ),
    "both": (changed(data=[1.0, 2.0]), "invalid_request", ["both 'data' and"]),
    "shape": (changed(shape=[2, 2]), "wrong_shape", ["[2, 2]"]),
    "bytes for a number": (
        changed(datatype="BYTES", raw=packed("BYTES", ["a", "b"])),
        "wrong_datatype",
        ["BYTES", "expected FP32"],
    ),
    "cut off text": (text(packed("BYTES", ["UA", "AA"])[:-1]), "malformed_binary", ["element 1"]),
    "cut off length": (text(packed("BYTES", ["UA"]) + b"\2\0"), "malformed_binary", ["element 1"]),
    "long length": (text(b"\xff\xff\xff\xffUA"), "malformed_binary", ["element 0", "cut off"]),
    "not UTF-8": (text(packed("BYTES", [b"UA", b"\xff"])), "malformed_binary", ["UTF-8", "1 of"]),
    "a text too few": (text(packed("BYTES", ["UA"])), "wrong_length", ["1 values", "2"]),
    "a text too many": (text(packed("BYTES", ["UA"] * 3)), "wrong_length", ["3 values", "2"]),
    "no text": (text(b""), "wrong_length", ["0 values"]),
}


@pytest.mark.parametrize(("inputs", "code", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_tensors_are_refused_with_a_reason(
    shared: Running, inputs: list[dict[str, Any]], code: str, says: list[str]
) -> None:
    answer = ask_inputs(shared, inputs)
    assert (answer.status, answer.body["code"]) == (400, code)
    for words in says:
        assert words in answer.body["error"]


@pytest.mark.parametrize("size", ["-1", "", "x", "1.0", "0x10", " 9", "٣", "9" * 30, "100000"])
def test_a_bad_header_length_is_refused(shared: Running, size: str) -> None:
    head, tail = binary(changed())
    answer = ask(shared, head, tail, size)
    assert (answer.status, answer.body["code"]) == (400, "malformed_binary")
    assert "Inference-Header-Content-Length" in answer.body["error"]


def test_what_the_sizes_do_not_account_for_is_refused(shared: Running) -> None:
    head, tail = binary(changed())
    for end in (tail[:-1], tail + b"\0"):
        answer = ask(shared, head, end)
        assert (answer.status, answer.body["code"]) == (400, "malformed_binary")
    without = shared.ask(INFER, head)
    assert (without.status, without.body["code"]) == (400, "malformed_binary")
    assert "behind the JSON" in without.body["error"]
    negative = head.replace(b'"binary_data_size": 8', b'"binary_data_size": -8')
    answer = ask(shared, negative, tail)
    assert (answer.status, answer.body["code"]) == (400, "invalid_request")
    assert "'sched_minute'" in answer.body["error"]


elements = st.text(max_size=6) | st.sampled_from(
    ["", "UA", "\0\0\0\0", "\1\0\0\0", "\4\0\0\0", "é"]
)


@settings(max_examples=300)
@given(values=st.lists(elements, min_size=1, max_size=8) | st.lists(st.just("\4\0\0\0")))
def test_any_strings_arrive_as_they_were_sent(values: list[str]) -> None:
    tensor = BytesTensor(name="carrier", shape=[len(values)])
    assert unpack(tensor, packed("BYTES", values), len(values)) == values


@st.composite
def mutated(draw: st.DrawFn) -> tuple[bytes, str]:
    """A valid body, binary or mixed, some of its bytes changed, and a length that may be wrong."""
    inputs = request(COLUMNS, 3)["inputs"]
    chosen = [as_raw(x) if draw(st.booleans()) else x for x in inputs]
    for tensor in draw(st.lists(st.sampled_from(chosen), max_size=2)):
        tensor["datatype"] = draw(st.sampled_from([*WIDTHS, "BYTES"]))
        if "raw" in tensor and draw(st.booleans()):
            tensor["raw"] = draw(st.binary(max_size=40))
    head, tail = binary(chosen, **draw(st.sampled_from([{}, BINARY])))
    body = bytearray(head + tail)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(body) - 1)))
        match draw(st.sampled_from(["set", "cut", "insert", "end"])):
            case "set":
                body[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del body[at : at + draw(st.integers(1, 8))]
            case "insert":
                body[at:at] = draw(st.binary(max_size=8))
            case "end":
                del body[at:]
    shift = draw(st.sampled_from([0, 0, 0, 0, -1, 1, 9, -len(head), len(tail)]))
    return bytes(body), str(len(head) + shift)


@settings(max_examples=500)
@given(case=mutated())
def test_no_binary_body_at_all_gives_a_5xx(shared: Running, case: tuple[bytes, str]) -> None:
    body, size = case
    answer = shared.ask(INFER, body, inference_header_content_length=size)
    if answer.status == 200:
        head = json.loads(answer.content[: int(answer.headers.get(HEADER, len(answer.content)))])
        assert head["outputs"][0]["shape"] == [3]
    else:
        assert answer.status == 400
        assert set(answer.body) == {"error", "code"}
        assert "Traceback" not in answer.body["error"]
