"""Traces: the tree of spans at a real collector, the caller's context, a collector that fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.collector import Collector, Span, collector
from tests.server_app import FULL, INFER, ROW, Running, request, start

KEYED = ROW | {"tailnum": "N1"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


@pytest.fixture
def received() -> Iterator[Collector]:
    with collector() as made:
        yield made


def traced(bundle: Path, received: Collector, **options: Any) -> Running:
    settings = {"endpoint": received.url, "ratio": 1.0, "flush_seconds": 0.05} | options
    return start(bundle, traces=settings)


def spans(served: Running, received: Collector) -> dict[str, Span]:
    served.app.observer.close()
    found = {span.name: span for span in received.spans}
    assert len(found) == len(received.spans)
    return found


def ask(served: Running, row: dict[str, Any] = KEYED, rows: int = 2, flags: str = "01") -> Any:
    content = json.dumps(request(row, rows)).encode()
    return served.ask(INFER, content, traceparent=f"00-{TRACE}-{CALLER}-{flags}")


def test_a_request_is_a_tree_of_spans_below_the_callers(bundle: Path, received: Collector) -> None:
    served = traced(bundle, received)
    answer = ask(served)
    found = spans(served, received)
    assert found.keys() == {"infer", "lookup", "predict"}
    root = found["infer"]
    assert (root.trace, root.parent, root.kind) == (TRACE, CALLER, 2)
    assert {found[name].parent for name in ("lookup", "predict")} == {root.id}
    assert {span.trace for span in found.values()} == {TRACE}
    assert root.resource["service.name"] == "tidemill"
    for span in found.values():
        told = {k.removeprefix("tidemill."): v for k, v in span.attributes.items()}
        assert (told["model"], told["version"], told["rows"]) == ("flight-delay", "7", 2)
        assert told["revision"] == served.served.inference.model.revision
    assert root.attributes["tidemill.outcome"] == "ok"
    assert root.attributes["http.response.status_code"] == 200
    assert root.seconds >= found["lookup"].seconds + found["predict"].seconds
    assert answer.headers[b"traceparent"].decode() == f"00-{TRACE}-{root.id}-01"


def test_one_trace_id_leads_to_the_row_of_the_log(bundle: Path, received: Collector) -> None:
    served = traced(bundle, received)
    answer = served.infer(FULL)
    served.log.close(10)
    (content,) = served.objects.kept.values()
    (logged,) = pl.read_parquet(content)["trace_id"]
    assert answer.headers[b"traceparent"].split(b"-")[1].decode() == logged
    assert {span.trace for span in spans(served, received).values()} == {logged}


def test_the_caller_decides_whether_a_request_is_traced(bundle: Path, received: Collector) -> None:
    served = traced(bundle, received, ratio=0.0)
    unsampled = ask(served, flags="00")
    served.infer(FULL)
    assert unsampled.headers[b"traceparent"].startswith(f"00-{TRACE}-".encode())
    assert unsampled.headers[b"traceparent"].endswith(b"-00")
    ask(served)
    assert spans(served, received)["infer"].trace == TRACE


@pytest.mark.parametrize(
    "sent", ["", "00-0-0-01", f"00-{'0' * 32}-{CALLER}-01", "é" * 9, "x" * 999]
)
def test_a_context_that_is_none_begins_a_trace(
    bundle: Path, received: Collector, sent: str
) -> None:
    served = traced(bundle, received)
    answer = served.ask(INFER, json.dumps(request(FULL)).encode(), traceparent=sent)
    assert answer.status == 200
    assert spans(served, received)["infer"].parent == ""


def test_a_refusal_is_told(bundle: Path, received: Collector) -> None:
    served = traced(bundle, received)
    refused = served.ask(INFER, b"{}")
    span = spans(served, received)["infer"]
    assert refused.headers[b"traceparent"].split(b"-")[2].decode() == span.id
    assert span.attributes["tidemill.outcome"] == "invalid_request"
    assert not span.failed


def test_a_failure_is_told_without_its_reason(bundle: Path, received: Collector) -> None:
    served = start(bundle, traces={"endpoint": received.url, "ratio": 1.0}, fallback=[])

    class Broken:
        def run(self, *_: Any) -> Any:
            raise RuntimeError("/secret/path")

    object.__setattr__(served.served.inference.model, "session", Broken())
    assert served.infer(FULL).status == 500
    found = spans(served, received)
    assert found["infer"].failed
    assert found["predict"].failed
    assert "secret" not in str(found)


def test_a_dead_collector_costs_spans_and_no_request(bundle: Path) -> None:
    with collector() as gone:
        url = gone.url
    served = start(
        bundle,
        traces={"endpoint": url, "ratio": 1.0, "flush_seconds": 0.01, "timeout_seconds": 0.2},
    )
    assert [served.infer(FULL).status for _ in range(20)] == [200] * 20
    served.app.observer.close()
    assert served.app.observer.traces
    exported, lost = served.app.observer.traces.counts()
    assert (exported, lost) == (0, 40)  # each request and its prediction


def test_a_collector_that_hangs_fills_the_queue_and_no_more(
    bundle: Path, received: Collector
) -> None:
    received.open.clear()
    served = traced(bundle, received, queue_spans=8, flush_seconds=0.01, timeout_seconds=0.5)
    assert [served.infer(FULL).status for _ in range(20)] == [200] * 20
    assert served.app.observer.traces
    _, lost = served.app.observer.traces.counts()
    assert lost >= 40 - 8
    served.app.observer.close()
    assert sum(served.app.observer.traces.counts()) == 40


def test_without_traces_the_sdk_is_not_imported() -> None:
    code = (
        "import sys; from tidemill import server; from tidemill.settings.serving import "
        "ServingSettings; from tidemill.server.observer import Observer; "
        "Observer.of(ServingSettings()); print([m for m in sys.modules if 'opentelemetry' in m])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"


def test_without_traces_no_context_is_claimed(served: Running) -> None:
    assert b"traceparent" not in ask(served).headers
