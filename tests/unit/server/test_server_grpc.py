"""gRPC's calls: the same answers and refusals as REST, told in gRPC's way."""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.grpc_calls import FIELDS, TRACE, Client, fill, inputs, named, raw
from tests.grpc_calls import request as grpc_request
from tests.server_app import FULL, INFER, ROW, Running, request, start
from tests.tensors import WIDTHS, as_raw, packed

from tidemill.bundle import InputColumn
from tidemill.server.rpc import schema
from tidemill.testing.models import MANIFEST, write_bundle

COLUMNS = FULL | {"sched_minute": [300.0, 600.0, 900.0], "carrier": ["UA", "??", None]}


def test_typed_and_raw_requests_get_the_scores_of_rest(shared: Running, client: Client) -> None:
    wanted = shared.infer(COLUMNS, 3)
    typed = client.infer(inputs(COLUMNS, 3), id="mine", model_version="7")
    by_raw = client.infer(raw(COLUMNS, 3))
    assert typed.scores == by_raw.scores == wanted.scores
    assert not typed.message.raw_output_contents
    assert not by_raw.message.outputs[0].HasField("contents")
    assert (typed.message.id, typed.message.model_version) == ("mine", "7")
    assert by_raw.message.id  # the server's own
    given = {k: v.string_param for k, v in typed.message.parameters.items()}
    assert given == wanted.body["parameters"]


@pytest.mark.parametrize("datatype", WIDTHS)
@pytest.mark.parametrize("form", ["typed", "raw"])
def test_every_datatype_in_both_forms(
    shared: Running, client: Client, datatype: str, form: str
) -> None:
    values = [False, True] if datatype == "BOOL" else [0, 100]
    wanted = shared.infer(FULL | {"seats": [float(x) for x in values]}, 2).scores
    sent = inputs(FULL, 2, datatype=datatype, data=values)
    if form == "raw":
        sent = [as_raw(x) for x in sent]
    if (datatype, form) != ("FP16", "typed"):
        assert client.infer(sent).scores == wanted
        return
    del sent[-1]["data"]
    assert client.infer(sent).code == "wrong_datatype"  # the protocol has no such field


def test_vectors_come_in_both_forms(tmp_path: Path) -> None:
    wide = InputColumn("embedding", "FP32", "request", width=3)
    manifest = replace(MANIFEST, inputs=(*MANIFEST.inputs, wide))
    served = start(write_bundle(tmp_path / "b", manifest=manifest))
    values = [0.5, 1.0, -2.0, 3.0, 4.0, 5.0]
    vector = {"name": "embedding", "datatype": "FP32", "shape": [2, 3], "data": values}
    sent = [*request(FULL, 2)["inputs"], vector]
    wanted = served.ask(INFER, json.dumps({"inputs": sent}).encode()).scores
    client = Client(served)
    assert client.infer(sent).scores == client.infer([as_raw(x) for x in sent]).scores == wanted
    assert wanted[0] != wanted[1]
    narrow = client.infer([*sent[:-1], vector | {"shape": [2]}])
    assert (narrow.status, narrow.code) == ("INVALID_ARGUMENT", "wrong_shape")
    described = client.call("ModelMetadata", named("ModelMetadata")).message
    assert {t.name: list(t.shape) for t in described.inputs}["embedding"] == [-1, 3]


def test_a_request_is_looked_up_counted_and_logged_as_one_of_rest(bundle: Path) -> None:
    served = start(bundle)
    keys = ROW | {"tailnum": "N1", "flight_id": "f1"}
    by_rest = served.ask(
        INFER,
        json.dumps(request(keys, 2) | {"id": "a"}).encode(),
        traceparent=f"00-{TRACE}-00f067aa0ba902b7-01",
    )
    client = Client(served)
    for sent, name in ((inputs(keys, 2), "b"), (raw(keys, 2), "c")):
        content = grpc_request(sent, id=name)
        answer = client.call("ModelInfer", content, traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
        assert answer.scores == by_rest.scores
        assert answer.message.parameters["features_as_of"].string_param
    assert served.metric("tidemill_rows_total") == 6
    assert served.log.close(10) == 0
    (content,) = served.objects.kept.values()
    rows = pq.read_table(io.BytesIO(content)).to_pylist()
    assert [row.pop("request_id") for row in rows] == ["a", "a", "b", "b", "c", "c"]
    assert {row["trace_id"] for row in rows} == {TRACE}
    kept = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert kept[:2] == kept[2:4] == kept[4:]


def test_whole_numbers_may_be_keys(client: Client) -> None:
    key = {"name": "tailnum", "shape": [1], "datatype": "INT64", "data": [17]}
    answer = client.infer([*request(ROW)["inputs"], key])
    assert answer.message.parameters["defaulted"].string_param == "seats=1"


def test_it_tells_what_it_serves(shared: Running, client: Client) -> None:
    assert client.call("ServerLive").message.live
    assert client.call("ServerReady").message.ready
    assert client.call("ModelReady", named("ModelReady", version="7")).message.ready
    assert "model_repository" in client.call("ServerMetadata").message.extensions
    told = client.call("ModelMetadata", named("ModelMetadata")).message
    wanted = shared.ask("/v2/models/flight-delay", method="GET").body
    assert [(t.name, t.datatype, list(t.shape)) for t in told.inputs] == [
        (t["name"], t["datatype"], t["shape"]) for t in wanted["inputs"]
    ]
    assert dict(told.properties) == wanted["parameters"]
    assert list(told.versions) == ["7"]
    unknown = client.call("ModelReady", named("ModelReady", version="8"))
    assert (unknown.status, unknown.code) == ("NOT_FOUND", "unknown_model")
    assert "'7'" not in unknown.details  # it asks for no key
    shared.app.draining = True
    try:
        assert not client.call("ServerReady").message.ready
        assert not client.call("ModelReady", named("ModelReady")).message.ready
    finally:
        shared.app.draining = False


def _both() -> Any:
    made = grpc_request(raw())
    fill(made.inputs[0], [1.0])
    return made


def _other_field() -> Any:
    made = grpc_request([x | {"data": []} for x in inputs()])
    fill(made.inputs[0], [1.0], "fp64_contents")
    return made


def _selected(*names: str, **parameters: Any) -> Any:
    made = grpc_request(inputs())
    for name in names:
        output = made.outputs.add(name=name)
        for key, value in parameters.items():
            output.parameters[key].int64_param = value
    return made


def _unknown_type() -> Any:
    made = grpc_request(inputs())
    made.inputs[0].datatype = "STRING"
    return made


REFUSED: dict[str, tuple[Any, str, list[str]]] = {
    "nothing": (b"", "unknown_model", ["no model ''"]),
    "no message of ours": (b"\xff\xff", "malformed_message", ["inference.ModelInferRequest"]),
    "not UTF-8": (b"\x0a\x01\xff", "malformed_message", ["inference.ModelInferRequest"]),
    "no inputs": (grpc_request([]), "missing_input", ["'sched_minute'"]),
    "both forms": (_both(), "invalid_request", ["'sched_minute'", "raw_input_contents"]),
    "one raw too few": (
        grpc_request([*raw()[:-1], {k: v for k, v in raw()[-1].items() if k != "raw"}]),
        "malformed_binary",
        ["5 raw_input_contents for 6 inputs"],
    ),
    "other field": (_other_field(), "wrong_datatype", ["has fp64_contents", "fp32_contents"]),
    "datatype": (_unknown_type(), "invalid_request", ["'STRING'", "BYTES, FP16"]),
    "text for a number": (
        grpc_request(inputs(datatype="BYTES", data=["a"])),
        "wrong_datatype",
        ["'seats' has datatype BYTES, expected FP32"],
    ),
    "too few": (grpc_request(inputs(data=[])), "wrong_length", ["0 values", "needs 1"]),
    "too few raw": (grpc_request(raw(raw=b"12")), "wrong_length", ["2 bytes", "need 4"]),
    "infinite": (grpc_request(inputs(data=[math.inf])), "invalid_request", ["element 0", "FP32"]),
    "infinite raw": (
        grpc_request(raw(raw=packed("FP32", [-math.inf]))),
        "invalid_request",
        ["'seats'", "range of FP32"],
    ),
    "fp64 beyond fp32": (
        grpc_request(inputs(datatype="FP64", data=[1e39])),
        "invalid_request",
        ["'seats'", "1e+39"],
    ),
    "beyond int8": (
        grpc_request(inputs(datatype="INT8", data=[128])),
        "invalid_request",
        ["128, expected -128 to 127"],
    ),
    "beyond uint16": (
        grpc_request(inputs(datatype="UINT16", data=[65536])),
        "invalid_request",
        ["expected 0 to 65535"],
    ),
    "text": (
        grpc_request([inputs()[0], inputs()[1] | {"data": [b"\xff"]}]),
        "malformed_binary",
        ["element 0 of input 'carrier' is not UTF-8"],
    ),
    "rows": (grpc_request(inputs(rows=2, shape=[1])), "wrong_shape", ["N = 2"]),
    "negative": (
        grpc_request([x | {"shape": [-1]} for x in inputs()]),
        "wrong_row_count",
        ["-1 rows"],
    ),
    "long id": (grpc_request(inputs(), id="x" * 257), "invalid_request", ["257 characters"]),
    "output": (_selected("other"), "unknown_output", ["'other'"]),
    "output twice": (_selected("probability", "probability"), "duplicate_output", ["twice"]),
    "classes": (_selected("probability", classification=1), "unsupported", ["classification"]),
    "model": (grpc_request(inputs(), model_name="x"), "unknown_model", ["'flight-delay'"]),
    "version": (grpc_request(inputs(), model_version="8"), "unknown_version", ["'7'"]),
}


@pytest.mark.parametrize(("sent", "code", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_requests_are_refused_with_a_reason(
    client: Client, sent: Any, code: str, says: list[str]
) -> None:
    answer = client.call("ModelInfer", sent)
    assert answer.code == code
    assert answer.status == ("NOT_FOUND" if code.startswith("unknown_") and code != "unknown_output"
                             else "INVALID_ARGUMENT")  # fmt: skip
    for words in says:
        assert words in answer.details


def test_one_output_may_be_selected(client: Client) -> None:
    assert client.call("ModelInfer", _selected("probability")).scores == client.infer(raw()).scores


def test_nan_is_missing_or_refused_as_the_policy_says(bundle: Path, client: Client) -> None:
    row = FULL | {"temp": None}
    assert client.infer(inputs(row)).scores == client.infer(raw(row)).scores
    strict = Client(start(bundle, nan_policy="reject"))
    for sent in (inputs(row), raw(row)):
        assert strict.infer(sent).code == "missing_value"


numbers = st.floats(width=32, allow_infinity=False) | st.none()
names = st.sampled_from(["AA", "B6", "UA", "??", "é", "", None])


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    rows = draw(st.integers(1, 4))
    columns = {
        name: draw(st.lists(names if isinstance(FULL[name], str) else numbers,
                            min_size=rows, max_size=rows))
        for name in FULL
    }  # fmt: skip
    return columns, rows


def _finite(column: list[Any]) -> list[Any]:
    """JSON has no NaN: a missing number is null."""
    return [None if isinstance(x, float) and math.isnan(x) else x for x in column]


@settings(max_examples=100, deadline=timedelta(seconds=5))
@given(table=tables())
def test_any_rows_get_the_same_scores_over_rest_and_grpc(
    shared: Running, client: Client, table: tuple[dict[str, Any], int]
) -> None:
    columns, rows = table
    wanted = shared.infer({k: _finite(v) for k, v in columns.items()}, rows).scores
    for sent in (inputs(columns, rows), raw(columns, rows)):
        np.testing.assert_array_equal(
            np.float32(client.infer(sent).scores), np.array(wanted, np.float32)
        )


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message, its fields changed, then some of its bytes."""
    sent = inputs(COLUMNS, 3)
    made = grpc_request(raw(COLUMNS, 3) if draw(st.booleans()) else sent)
    for tensor in draw(st.lists(st.sampled_from(list(made.inputs)), max_size=2)):
        match draw(st.sampled_from(["type", "shape", "contents", "name"])):
            case "type":
                tensor.datatype = draw(st.sampled_from([*WIDTHS, "BYTES", ""]))
            case "shape":
                sizes = st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 4)
                tensor.shape[:] = draw(st.lists(sizes, max_size=3))
            case "contents":
                field = draw(st.sampled_from(sorted(set(FIELDS.values()) - {"bytes_contents"})))
                fill(tensor, draw(st.lists(st.integers(0, 1))), field)
            case "name":
                tensor.name = draw(st.text(max_size=5))
    content = bytearray(made.SerializeToString())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        match draw(st.sampled_from(["set", "cut", "insert", "end"])):
            case "set":
                content[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del content[at : at + draw(st.integers(1, 8))]
            case "insert":
                content[at:at] = draw(st.binary(max_size=8))
            case "end":
                del content[at:]
    return bytes(content)


@settings(max_examples=500, deadline=timedelta(seconds=5))
@given(content=mutated())
def test_no_message_at_all_is_a_failure_of_the_server(client: Client, content: bytes) -> None:
    answer = client.call("ModelInfer", content)
    if answer.status == "OK":
        assert len(answer.scores) in (1, 2, 3)
    else:
        assert answer.status in ("INVALID_ARGUMENT", "NOT_FOUND")
        assert answer.code
        assert "Traceback" not in answer.details


def test_the_compiled_messages_are_those_of_the_source(tmp_path: Path) -> None:
    from grpc_tools import protoc

    folder, made = schema.COMPILED.parent, tmp_path / "made.binpb"
    options = [f"-I{folder}", f"--descriptor_set_out={made}", "open_inference.proto"]
    assert protoc.main(["protoc", *options]) == 0
    assert made.read_bytes() == schema.COMPILED.read_bytes(), "run: make proto"
