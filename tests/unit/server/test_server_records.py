"""Rows as JSON objects: answered as tensors are, in their order, or refused with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.server_app import FULL, ROW, Answer, Running, expected, start

from tidemill.bundle import InputColumn
from tidemill.server.records import Records
from tidemill.testing.models import MANIFEST

PATH = "/v2/models/flight-delay/predict"
KEYED = ROW | {"tailnum": "N1", "flight_id": "f1"}


def predict(served: Running, *records: Any, path: str = PATH, **more: Any) -> Answer:
    return served.ask(path, json.dumps({"records": records} | more).encode())


def scores(answer: Answer) -> list[float]:
    assert answer.status == 200, answer.content
    return [one["score"] for one in answer.body["predictions"]]


@pytest.mark.parametrize("path", ["/predict", PATH, "/v2/models/flight-delay/versions/7/predict"])
def test_records_are_scored_in_their_order(served: Running, path: str) -> None:
    rows = [FULL | {"carrier": carrier, "temp": temp} for carrier, temp in (("AA", 1), ("UA", 90))]
    answer = predict(served, *rows, path=path, id="mine")
    assert scores(answer) == pytest.approx([expected(row) for row in rows])
    assert answer.body["id"] == "mine"
    assert (answer.body["model"], answer.body["version"]) == ("flight-delay", "7")


def test_the_answer_is_that_of_the_protocol(served: Running) -> None:
    for row in (FULL, KEYED, FULL | {"temp": None, "carrier": None}):
        tensors = served.infer(row)
        answer = predict(served, row)
        assert scores(answer) == tensors.scores
        assert answer.body["parameters"] == tensors.body["parameters"]


def test_keys_look_features_up_and_what_is_not_there_is_marked(served: Running) -> None:
    answer = predict(served, KEYED, KEYED | {"tailnum": "N404", "flight_id": None})
    assert answer.body["parameters"]["defaulted"] == "seats=0.5"
    assert [one.get("id") for one in answer.body["predictions"]] == ["f1", None]
    assert scores(answer)[0] == pytest.approx(expected(FULL))
    assert served.metric("tidemill_defaults_total", view="plane") == 1


def test_records_are_logged_and_counted_as_any_request(served: Running, tmp_path: Path) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    header = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    served.ask(PATH, json.dumps({"records": [KEYED] * 3}).encode(), **header)
    predict(served, {})
    assert served.metric("tidemill_rows_total") == 3
    assert served.metric("tidemill_requests_total", outcome="rejected") == 1
    served.log.close(10)
    (content,) = served.objects.kept.values()
    logged = pl.read_parquet(content)
    assert logged["row_id"].to_list() == ["f1"] * 3
    assert set(logged["trace_id"]) == {trace}


REFUSED: dict[str, tuple[Any, str, list[str]]] = {
    "typo": ([ROW | {"carier": "UA"}], "unknown_input", ["record 0", "mean 'carrier'"]),
    "stranger": ([FULL, FULL | {"zzz": 1}], "unknown_input", ["record 1", "'zzz'", "seats"]),
    "absent": ([{"carrier": "UA"}], "missing_input", ["record 0", "'sched_minute'"]),
    "no key": ([ROW], "missing_input", ["'tailnum'", "'plane'"]),
    "uneven": ([FULL, KEYED], "missing_input", ["record 1 has no 'carrier_late", "null"]),
    "text": ([FULL | {"temp": "40"}], "invalid_request", ["got `str`", "records[0].temp"]),
    "truth": ([FULL | {"temp": True}], "invalid_request", ["got `bool`"]),
    "number": ([FULL | {"carrier": 1}], "invalid_request", ["got `int`", "carrier"]),
    "beyond fp32": ([FULL | {"temp": 1e39}], "invalid_request", ["3.4"]),
    "keys": ([KEYED, KEYED | {"tailnum": 1}], "wrong_datatype", ["'tailnum'"]),
    "none": ([], "invalid_request", ["length >= 1"]),
    "many": ([FULL] * 4097, "wrong_row_count", ["4097", "4096"]),
    "row": ([1], "invalid_request", ["records[0]"]),
}


@pytest.mark.parametrize(("records", "code", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_records_are_refused_with_a_reason(
    served: Running, records: list[Any], code: str, says: list[str]
) -> None:
    answer = predict(served, *records)
    assert (answer.status, answer.body["code"]) == (400, code), answer.content
    for words in says:
        assert words in answer.body["error"]
    assert served.metric("tidemill_requests_total", outcome="rejected") == 1


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b'{"records": [', "malformed_json"),
        (b'{"records": [{"temp": ' + b"[" * 100_000, "invalid_request"),
        (b'{"instances": []}', "invalid_request"),
        (b'{"id": "\xff"}', "malformed_json"),
    ],
)
def test_bad_documents_are_refused(served: Running, content: bytes, code: str) -> None:
    answer = served.ask(PATH, content)
    assert (answer.status, answer.body["code"]) == (400, code)


def test_vectors_and_odd_names_are_read() -> None:
    vector = InputColumn("wind-gust: 24h", "FP32", "request", width=2)
    records = Records(replace(MANIFEST, inputs=(*MANIFEST.inputs, vector)), "m", "1")
    row = FULL | {"tailnum": 7, "wind-gust: 24h": [1, None]}
    asked = records.read(json.dumps({"records": [row, row]}).encode())
    found = {t.name: t for t in asked.request.inputs}
    assert found["wind-gust: 24h"].shape == [2, 2]
    assert found["wind-gust: 24h"].data == [[1.0, None]] * 2
    assert found["tailnum"].data == [7, 7]


def test_without_a_model_several_are_ambiguous(bundle: Path) -> None:
    served = start(bundle)
    served.app.repository.add(bundle, "1", "other")
    answer = predict(served, FULL, path="/predict")
    assert (answer.status, answer.body["code"]) == (400, "ambiguous_model")
    assert "'flight-delay', 'other'" in answer.body["error"]
