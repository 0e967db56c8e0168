"""A real `tidemill serve` with traces and access log on: one trace id from end to end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.collector import Collector, collector
from tests.serving import KEYS, Project, body, make_project

pytestmark = pytest.mark.slow

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def received() -> Iterator[Collector]:
    with collector() as made:
        yield made


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path)
    yield made
    made.close()


def test_one_trace_id_from_the_request_to_the_log_the_line_and_the_collector(
    project: Project, received: Collector
) -> None:
    traces = ("--set", f"serving.traces.endpoint={received.url}")
    server = project.serve(*traces, "--set", "serving.access_log.sample=1.0")
    answer = httpx.post(
        f"{server.url}/v2/models/flight-delay/infer",
        json=body(KEYS),
        headers={"traceparent": f"00-{TRACE}-{'1' * 16}-01"},
    )
    assert answer.headers["traceparent"].split("-")[1] == TRACE
    assert server.stop() == 0  # the drain writes and exports what is left
    assert {span.name for span in received.spans} == {"infer", "lookup", "predict"}
    assert {span.trace for span in received.spans} == {TRACE}
    (line,) = [e for e in project.events if e["event"] == "request" and e["method"] == "POST"]
    assert line["trace_id"] == TRACE
    (row,) = project.log().iter_rows(named=True)
    assert row["trace_id"] == TRACE
    assert row["request_id"] == line["request_id"] == answer.json()["id"]


def test_a_collector_that_is_not_there_delays_neither_answers_nor_the_end(
    project: Project,
) -> None:
    nowhere = ("--set", "serving.traces.endpoint=http://127.0.0.1:9/v1/traces")
    server = project.serve(*nowhere, "--set", "serving.traces.ratio=1.0")
    assert [server.infer(KEYS).status_code for _ in range(5)] == [200] * 5
    assert server.stop() == 0
    assert len(project.log()) == 5
    assert any("collector takes no spans" in event["event"] for event in project.events)
