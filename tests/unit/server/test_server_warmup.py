"""Recorded requests of a bundle, scored before its server is ready."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.server_app import FULL, expected, request, start

from tidemill.errors import IntegrityError
from tidemill.server.model import Model
from tidemill.testing.models import MEANS, write_bundle


def record(folder: Path, *requests: Any) -> Path:
    bundle = write_bundle(folder / "b")
    (bundle / "warmup.json").write_text(json.dumps(requests))
    return bundle


def test_the_requests_are_scored_and_leave_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    predict = Model.predict

    def counted(self: Model, numbers: Any, texts: Any) -> Any:
        scored.append(numbers.shape[1])
        return predict(self, numbers, texts)

    monkeypatch.setattr(Model, "predict", counted)
    served = start(record(tmp_path, request(FULL), request(FULL | {"temp": None}, 32)))
    assert scored == [1, 1, 32, 2]  # a row of defaults before them, the golden rows after them
    assert served.metric("tidemill_requests_total", outcome="ok") == 0
    assert served.metric("tidemill_rows_total") == 0
    assert served.log.close(10) == 0
    assert not served.objects.kept


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        (request(FULL | {"distance": 1.0}), "no input 'distance'"),
        (request({"carrier": "UA"}), "is required and not given"),
        ({"inputs": 3}, "Expected `array`"),
        ("text", "Expected `object`"),
    ],
    ids=["another input", "an input less", "no request", "no object"],
)
def test_requests_that_the_model_does_not_take_refuse_the_bundle(
    tmp_path: Path, recorded: Any, says: str
) -> None:
    with pytest.raises(IntegrityError, match=r"does not take the requests of warmup.json") as error:
        start(record(tmp_path, recorded))
    assert says in error.value.message


def test_a_file_that_is_no_list_refuses_the_bundle(tmp_path: Path) -> None:
    bundle = record(tmp_path)
    (bundle / "warmup.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"warmup\.json"):
        start(bundle)


def test_an_older_bundle_without_any_of_it_is_served(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    (bundle / "golden.json").unlink()
    with capture_logs() as lines:
        served = start(bundle)
    assert served.infer(FULL).status == 200
    assert any("no golden rows" in line["event"] for line in lines)


def test_a_model_that_scores_a_golden_row_otherwise_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b", bias=-1.0)
    golden = (bundle / "golden.json").read_bytes()
    write_bundle(bundle, bias=-1.001)
    (bundle / "golden.json").write_bytes(golden)
    with pytest.raises(IntegrityError, match="does not score as it did") as error:
        start(bundle)
    said = error.value.message
    usual = expected({**MEANS, "carrier": "AA", "origin": "EWR"})
    row = re.search(r"golden row 0 \(usual\) scored (0\.\d+) when it was packaged", said)
    assert row
    assert float(row[1]) == pytest.approx(usual, abs=1e-6)
    assert "2 of 2 rows deviate by more than 1e-05" in said


def test_golden_rows_that_the_model_does_not_take_refuse_the_bundle(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    body = json.loads((bundle / "golden.json").read_text())
    body["request"]["inputs"].pop(0)
    (bundle / "golden.json").write_text(json.dumps(body))
    with pytest.raises(IntegrityError, match=r"requests of golden\.json: .*is required"):
        start(bundle)
