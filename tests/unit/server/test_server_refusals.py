"""What the server refuses, and how it says why: never a 5xx for a body, a path or a header."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server_app import FULL, INFER, ROW, Running, request, start


def bad(**changes: Any) -> dict[str, Any]:
    """A good request with its first input (sched_minute) changed."""
    body = request(FULL, 2)
    body["inputs"][0] |= changes
    return body


def without(name: str) -> dict[str, Any]:
    return request({k: v for k, v in FULL.items() if k != name}, 2)


REFUSED: dict[str, tuple[Any, str, list[str]]] = {
    "unknown input": (bad(name="sched_minut"), "unknown_input", ["sched_minut", "'sched_minute'"]),
    "missing input": (without("carrier"), "missing_input", ["'carrier'"]),
    "missing key": (without("seats"), "missing_input", ["'seats'", "'tailnum'", "'plane'"]),
    "duplicate": (
        {"inputs": [*request(FULL)["inputs"], request(FULL)["inputs"][0]]},
        "duplicate_input",
        ["'sched_minute'", "twice"],
    ),
    "datatype": (
        bad(datatype="BYTES", data=["a", "b"]),
        "wrong_datatype",
        ["'sched_minute'", "BYTES", "expected FP32"],
    ),
    "unknown datatype": (bad(datatype="BF16"), "invalid_request", ["BF16", "BYTES, FP16"]),
    "rank": (bad(shape=[2, 1, 1]), "wrong_shape", ["[2, 1, 1]", "[N, 1]"]),
    "width": (bad(shape=[2, 2], data=[1, 2, 3, 4]), "wrong_shape", ["[2, 2]", "[N, 1]"]),
    "length": (bad(data=[1.0]), "wrong_length", ["1 values", "[2]"]),
    "rows differ": (
        {"inputs": [*request(FULL, 2)["inputs"][:5], request({"seats": 1.0}, 3)["inputs"][0]]},
        "wrong_shape",
        ["'seats'", "[3]", "N = 2"],
    ),
    "no rows": (request({k: [] for k in FULL}, 0), "wrong_row_count", ["0 rows"]),
    "too many rows": (request(FULL, 5000), "wrong_row_count", ["5000 rows", "4096"]),
    "string among numbers": (
        bad(data=[1.0, "x"]),
        "invalid_request",
        ["'sched_minute'", "got `str`", "data[1]"],
    ),
    "bool among numbers": (bad(data=[True, 1]), "invalid_request", ["got `bool`"]),
    "nested": (bad(data=[[1.0], [2.0]]), "wrong_shape", ["nested"]),
    "half nested": (bad(shape=[2, 1], data=[[1.0], 2.0]), "wrong_shape", ["nested"]),
    "beyond fp32": (bad(data=[1.0, 1e39]), "invalid_request", ["data[1]", "3.4"]),
    "beyond fp64": (b'{"inputs": [{"name": "a", "shape": [1e999]}]}', "invalid_request", []),
    "negative shape": (bad(shape=[-1]), "invalid_request", ["shape"]),
    "NaN literal": (b'{"inputs": [NaN]}', "malformed_json", ["null"]),
    "no JSON": (b"\x00\x01", "malformed_json", []),
    "empty": (b"", "malformed_json", []),
    "no object": (b"[]", "invalid_request", ["`object`"]),
    "not UTF-8": (b'{"id": "\xff\xfe"}', "malformed_json", []),
    "surrogate": (b'{"id": "\\ud800"}', "malformed_json", []),
    "too deep": (b'{"parameters": {"a": ' + b"[" * 100_000, "malformed_json", ["nested"]),
    "no inputs": ({"inputs": []}, "missing_input", ["'carrier'", "'origin'", "'sched_minute'"]),
    "unknown key": (request(FULL) | {"input": []}, "invalid_request", ["`input`"]),
    "unknown output": (
        request(FULL) | {"outputs": [{"name": "label"}]},
        "unknown_output",
        ["'label'", "'probability'"],
    ),
    "output given twice": (
        request(FULL) | {"outputs": [{"name": "probability"}] * 2},
        "duplicate_output",
        ["'probability'", "twice"],
    ),
    "classification": (
        request(FULL) | {"outputs": [{"name": "probability", "parameters": {"classification": 2}}]},
        "unsupported",
        ["classification"],
    ),
    "binary output of another type": (
        request(FULL) | {"parameters": {"binary_data_output": 1}},
        "invalid_request",
        ["`bool`", "binary_data_output"],
    ),
    "fp16 in JSON": (bad(datatype="FP16"), "wrong_datatype", ["'sched_minute'", "FP16", "binary"]),
    "beyond fp32 in fp64": (
        bad(datatype="FP64", data=[1.0, 1e39]),
        "invalid_request",
        ["data[1]", "3.4"],
    ),
    "beyond int8": (bad(datatype="INT8", data=[1, 128]), "invalid_request", ["data[1]", "127"]),
    "beyond uint64": (
        bad(datatype="UINT64", data=[1, 2**64]),
        "invalid_request",
        ["'sched_minute'", "18446744073709551615"],
    ),
    "far beyond uint64": (bad(datatype="UINT64", data=[1, 10**400]), "invalid_request", []),
    "negative uint": (bad(datatype="UINT16", data=[-1, 1]), "invalid_request", [">= 0"]),
    "number among bools": (bad(datatype="BOOL", data=[True, 1]), "invalid_request", ["`bool"]),
    "binary input": (
        {"inputs": [{"name": "temp", "shape": [1], "datatype": "FP32", "parameters": {}}]},
        "invalid_request",
        ["'temp'", "binary"],
    ),
    "long id": (request(FULL) | {"id": "x" * 300}, "invalid_request", ["256"]),
}


@pytest.mark.parametrize(("body", "code", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_requests_are_refused_with_a_reason(
    served: Running, body: Any, code: str, says: list[str]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = served.ask(INFER, content)
    assert (answer.status, answer.body["code"]) == (400, code)
    for words in says:
        assert words in answer.body["error"]
    assert served.metric("tidemill_requests_total", outcome="rejected") == 1


def test_null_is_refused_where_the_policy_says_so(bundle: Path) -> None:
    strict = start(bundle, nan_policy="reject")
    for name in ("temp", "carrier"):
        answer = strict.infer(FULL | {name: None})
        assert answer.body["code"] == "missing_value"
        assert f"'{name}'" in answer.body["error"]
    assert strict.infer(ROW | {"tailnum": None}).status == 200  # a key may be unknown


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "says"),
    [
        ("POST", "/v2/models/churn/infer", 404, "unknown_model", "'flight-delay'"),
        ("GET", "/v2/models/flight-delay/versions/8", 404, "unknown_version", "'7'"),
        ("GET", "/v2/models/flight-delay/versions", 404, "not_found", "nothing at"),
        ("GET", "/", 404, "not_found", "nothing at"),
        ("GET", INFER, 405, "method_not_allowed", "POST"),
        ("POST", "/v2/health/ready", 405, "method_not_allowed", "GET"),
    ],
)
def test_wrong_paths_and_methods_say_what_is_there(
    served: Running, method: str, path: str, status: int, code: str, says: str
) -> None:
    answer = served.ask(path, method=method)
    assert (answer.status, answer.body["code"]) == (status, code)
    assert says in answer.body["error"]


def test_extensions_that_are_not_spoken_are_refused(served: Running) -> None:
    content = json.dumps(request(FULL)).encode()
    packed = served.ask(INFER, content, content_encoding="gzip")
    assert (packed.status, packed.body["code"]) == (415, "unsupported_encoding")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from([*FULL, "tailnum", "flight_id", "other"])
shapes = st.lists(st.integers(-1, 4), max_size=3) | st.just([2])
elements = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tensors = st.fixed_dictionaries(
    {
        "name": names,
        "shape": shapes,
        "datatype": st.sampled_from(
            ["FP32", "BYTES", "INT64", "FP64", "BOOL", "FP16", "UINT64", "UINT8", "BF16"]
        ),
        "data": st.lists(elements | st.lists(elements, max_size=2), max_size=4),
    }
)
documents = (
    json_values
    | st.builds(lambda inputs: {"inputs": inputs}, st.lists(tensors | json_values, max_size=9))
    | st.builds(
        lambda name, key, value: {
            "inputs": [
                t | {key: value} if t["name"] == name else t for t in request(FULL, 2)["inputs"]
            ]
        },
        names,
        st.sampled_from(["name", "shape", "datatype", "data", "parameters"]),
        json_values | shapes | st.lists(elements, min_size=2, max_size=2),
    )
)


@settings(max_examples=400)
@given(body=documents.map(lambda d: json.dumps(d).encode()) | st.binary(max_size=64))
def test_no_body_at_all_gives_a_5xx(shared: Running, body: bytes) -> None:
    answer = shared.ask(INFER, body)
    if answer.status == 200:
        assert answer.scores
    else:
        assert answer.status == 400
        assert set(answer.body) == {"error", "code"}
        assert "Traceback" not in answer.body["error"]


def test_the_docs_list_every_error_code() -> None:
    root = Path(__file__).parents[3]
    source = "".join(p.read_text() for p in (root / "src/tidemill/server").glob("*.py"))
    raised = set(re.findall(r"(?:Rejected|unauthenticated)\(\s*\"(\w+)\"", source))
    table = (root / "docs/serving.md").read_text().partition("| status | codes |")[2]
    listed = set(re.findall(r"`(\w+)`", table.partition("\n\n")[0]))
    assert raised == listed


def test_a_text_that_is_too_long_is_refused(served: Running) -> None:
    for name in ("carrier", "flight_id"):
        assert served.infer(FULL | {name: "x" * 1024}).status == 200
        answer = served.infer(FULL | {name: "x" * 1025})
        assert (answer.status, answer.body["code"]) == (400, "invalid_request")
        assert f"'{name}' holds a text that is longer than 1024" in answer.body["error"]
