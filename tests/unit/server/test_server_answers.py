"""What the server answers: scores in order, under a version, and whether it is ready."""

from __future__ import annotations

import json

import pytest
from tests.server_app import FULL, INFER, ROW, Running, expected, request


def test_an_answer_carries_score_version_and_revision(served: Running) -> None:
    answer = served.infer(FULL, id="a-1")
    assert answer.status == 200
    assert answer.scores == pytest.approx([expected(FULL)], abs=1e-6)
    body = answer.body
    assert (body["model_name"], body["model_version"], body["id"]) == ("flight-delay", "7", "a-1")
    metadata = served.ask("/v2/models/flight-delay", method="GET").body
    assert body["parameters"] == {"revision": metadata["parameters"]["revision"]}
    assert metadata["parameters"]["digest"].startswith(
        "sha256:" + metadata["parameters"]["revision"]
    )


def test_ids_are_made_and_unique_where_none_is_given(served: Running) -> None:
    first, second = served.infer(FULL).body["id"], served.infer(FULL).body["id"]
    assert first != second


def test_the_version_path_answers_the_same(served: Running) -> None:
    content = json.dumps(request(FULL)).encode()
    by_version = served.ask("/v2/models/flight-delay/versions/7/infer", content)
    assert by_version.scores == served.ask(INFER, content).scores


def test_rows_stay_in_order(served: Running) -> None:
    row = FULL | {"sched_minute": [300.0, 600.0, 900.0], "carrier": ["UA", "??", None]}
    wanted = [
        expected(FULL | {"sched_minute": m, "carrier": c})
        for m, c in [(300, "UA"), (600, "??"), (900, "")]
    ]
    assert served.infer(row, 3).scores == pytest.approx(wanted, abs=1e-6)


def test_null_is_a_missing_number_that_the_graph_imputes(served: Running) -> None:
    answer = served.infer(FULL | {"temp": None})
    assert answer.scores == pytest.approx([expected(FULL | {"temp": None})], abs=1e-6)
    assert "defaulted" not in answer.body["parameters"]


def test_shape_n_by_1_may_be_flat_or_nested(served: Running) -> None:
    body = request(FULL, 2)
    for tensor in body["inputs"]:
        tensor["shape"] = [2, 1]
    flat = served.ask(INFER, json.dumps(body).encode())
    for tensor in body["inputs"]:
        tensor["data"] = [[value] for value in tensor["data"]]
    nested = served.ask(INFER, json.dumps(body).encode())
    assert flat.scores == nested.scores == pytest.approx([expected(FULL)] * 2, abs=1e-6)


def test_metadata_tells_what_a_request_needs(served: Running) -> None:
    body = served.ask("/v2/models/flight-delay/versions/7", method="GET").body
    optional = {t["name"]: t["parameters"]["optional"] for t in body["inputs"]}
    assert {name for name, may in optional.items() if not may} == set(ROW)
    assert optional["flight_id"]
    assert optional["tailnum"]
    assert body["versions"] == ["7"]
    assert served.ask("/v2", method="GET").body["name"] == "tidemill"


def test_documents_answer_head_as_get(served: Running) -> None:
    for path in ("/v2", "/v2/health/ready", "/v2/models/flight-delay"):
        head, get = served.ask(path, method="HEAD"), served.ask(path, method="GET")
        assert (head.status, head.content) == (get.status, get.content)  # the connection omits it
    refused = served.ask(INFER, method="HEAD")
    assert (refused.status, refused.headers[b"allow"]) == (405, b"POST")
    assert served.ask("/v2", method="PUT").headers[b"allow"] == b"GET, HEAD"


def test_draining_is_not_ready_but_answers(served: Running) -> None:
    assert served.ask("/v2/health/ready", method="GET").status == 200
    served.app.draining = True
    assert served.ask("/v2/health/ready", method="GET").body == {"ready": False}
    ready = served.ask("/v2/models/flight-delay/versions/7/ready", method="GET")
    assert (ready.status, ready.body) == (503, {"name": "flight-delay", "ready": False})
    assert served.ask("/v2/health/live", method="GET").status == 200
    assert served.infer(FULL).status == 200


def test_kserves_client_may_repeat_the_model(served: Running) -> None:
    assert served.infer(FULL, model_name="flight-delay").scores == served.infer(FULL).scores
