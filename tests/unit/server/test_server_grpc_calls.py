"""gRPC's calls: who comes in, what is counted and traced, and what ends a call."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.collector import collector
from tests.grpc_calls import TRACE, Answer, Client, Context, inputs, named
from tests.grpc_calls import request as grpc_request
from tests.server_app import ROW, Running, start

from tidemill.errors import Unavailable
from tidemill.server import Authentication, Keyring
from tidemill.server.keys import make_entry
from tidemill.server.rpc import schema
from tidemill.server.rpc.calls import Calls
from tidemill.server.rpc.service import Method


def test_keys_are_asked_for_with_their_permissions_and_rates(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    infer, entry = make_entry("shop", permissions=["infer"])
    admin, other = make_entry("operator", permissions=["admin"])
    slow, limited = make_entry("slow", permissions=["infer"], rate=0.01, burst=1)
    path.write_text(yaml.safe_dump([entry, other, limited]))
    served = start(bundle, Authentication(Keyring(path, tmp_path / "quota.db")))
    client = Client(served)
    content = grpc_request(inputs())

    def ask(name: str, token: str, sent: Any = b"") -> Answer:
        return client.call(name, sent, authorization=f"Bearer {token}")

    assert client.call("ServerReady").status == "OK"
    refused = client.call("ModelInfer", content)
    assert (refused.status, refused.code) == ("UNAUTHENTICATED", "missing_key")
    assert refused.trailing["www-authenticate"].startswith("Bearer")
    assert ask("ModelInfer", admin[:-1] + "x", content).code == "unknown_key"
    assert ask("ModelInfer", infer, content).status == "OK"
    assert ask("ModelInfer", admin, content).status == "PERMISSION_DENIED"
    assert ask("RepositoryIndex", infer).status == "PERMISSION_DENIED"
    (entry,) = ask("RepositoryIndex", admin).message.models
    assert (entry.name, entry.version, entry.state) == ("flight-delay", "7", "READY")
    assert ask("ServerMetadata", slow).status == "OK"
    limit = ask("ModelInfer", slow, content)
    assert (limit.status, limit.code) == ("RESOURCE_EXHAUSTED", "rate_limited")
    assert 0 < int(limit.trailing["retry-after"]) <= 100
    text = served.ask("/metrics", method="GET").content.decode()
    assert 'tidemill_refused_total{code="forbidden"} 2.0' in text
    assert 'tidemill_refused_total{code="rate_limited"} 1.0' in text


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ValueError("/secret/path"), "INTERNAL", "internal"),
        (Unavailable("/secret/path"), "UNAVAILABLE", "unavailable"),
    ],
)
def test_what_fails_inside_is_told_without_its_reason(
    shared: Running, failure: Exception, status: str, code: str
) -> None:
    async def fail(_: Any, __: str | None) -> Any:
        raise failure

    app = shared.app
    method = Method("ServerLive", "infer", schema.message("ServerLiveRequest"), fail)
    answer = Client(shared, Calls([method], app)).call("ServerLive")
    assert (answer.status, answer.code) == (status, code)
    assert "secret" not in answer.details


def test_more_calls_than_fit_the_queue_are_refused(bundle: Path) -> None:
    served = start(bundle, limits={"max_in_flight": 1, "max_waiting": 1})
    client = Client(served)
    content = grpc_request(inputs()).SerializeToString()

    async def crowd() -> None:
        first = asyncio.create_task(client.run("ModelInfer", Context(content, silent=True)))
        async with served.app.guard.slots:
            second = asyncio.create_task(client.run("ModelInfer", Context(content)))
            await asyncio.sleep(0)
            third = await client.run("ModelInfer", Context(content))
            assert (third.status, third.code) == ("UNAVAILABLE", "overloaded")
            assert third.trailing["retry-after"] == "1"
            about = await client.run("ServerMetadata", Context(b""))
            assert about.code == "overloaded"
            assert (await client.run("ServerLive", Context(b""))).status == "OK"
        assert (await second).status == "OK"
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await client.run("ModelInfer", Context(content))).status == "OK"

    asyncio.run(crowd())
    text = served.ask("/metrics", method="GET").content.decode()
    assert 'tidemill_refused_total{code="overloaded"} 2.0' in text
    labels = {"model": "flight-delay", "version": "7"}
    assert served.metric("tidemill_requests_total", outcome="overloaded", **labels) == 1


def test_overload_is_no_models_where_several_are_loaded(bundle: Path) -> None:
    """The message, which names the model, is not read."""
    served = start(bundle, limits={"max_in_flight": 1, "max_waiting": 0})
    served.app.repository.add(bundle, "8")
    client = Client(served)
    content = grpc_request(inputs()).SerializeToString()

    async def crowd() -> None:
        async with served.app.guard.slots:
            waiting = asyncio.create_task(client.run("ModelInfer", Context(content)))
            await asyncio.sleep(0)
            assert (await client.run("ModelInfer", Context(content))).code == "overloaded"
        assert (await waiting).status == "OK"

    asyncio.run(crowd())
    assert [s.counters.outcomes["overloaded"] for s in served.app.repository] == [0, 0]
    text = served.ask("/metrics", method="GET").content.decode()
    assert 'tidemill_refused_total{code="overloaded"} 1.0' in text


def test_a_scored_call_is_a_span_and_carries_its_context(bundle: Path) -> None:
    with collector() as received:
        traces = {"endpoint": received.url, "ratio": 1.0, "flush_seconds": 0.05}
        served = start(bundle, traces=traces)
        client = Client(served)
        caller = f"00-{TRACE}-00f067aa0ba902b7-01"
        content = grpc_request(inputs(), id="mine")
        scored = client.call("ModelInfer", content, traceparent=caller)
        refused = client.call("ModelInfer", grpc_request([]), traceparent=caller)
        described = client.call("ModelMetadata", named("ModelMetadata"), traceparent=caller)
        served.app.observer.close()
    assert (scored.status, refused.code) == ("OK", "missing_input")
    assert (described.status, described.trailing) == ("OK", {})
    ids = [span.id for span in received.spans if span.name == "infer"]
    told = [answer.trailing["traceparent"] for answer in (scored, refused)]
    assert told == [f"00-{TRACE}-{span}-01" for span in ids]
    assert {span.name for span in received.spans} == {"infer", "predict"}


def test_a_message_that_does_not_come_ends_its_call(bundle: Path) -> None:
    served = start(bundle, limits={"body_seconds": 0.01})
    client = Client(served)

    async def wait() -> Answer:
        call = asyncio.create_task(client.run("ModelInfer", Context(b"", silent=True)))
        while not call.done():
            client.calls.expire()
            await asyncio.sleep(0.005)
        return await call

    answer = asyncio.run(wait())
    assert (answer.status, answer.code) == ("DEADLINE_EXCEEDED", "request_timeout")
    assert client.infer(inputs()).status == "OK"


def test_a_caller_that_goes_is_no_failure_of_the_model(bundle: Path) -> None:
    served = start(bundle, lookup_deadline_ms=60_000)
    client = Client(served)
    content = grpc_request(inputs(ROW | {"tailnum": "N1"})).SerializeToString()
    reads, go_on = threading.Event(), threading.Event()

    def read(*_: Any) -> Any:
        reads.set()
        go_on.wait(60)

    served.online.read = read  # type: ignore[method-assign]

    async def leave() -> None:
        call = asyncio.create_task(client.run("ModelInfer", Context(content)))
        await asyncio.to_thread(reads.wait, 60)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        go_on.set()

    asyncio.run(leave())
    labels = {"model": "flight-delay", "version": "7"}
    assert served.metric("tidemill_requests_total", outcome="cancelled", **labels) == 1
    assert served.metric("tidemill_requests_total", outcome="error", **labels) == 0
    assert served.served.counters.in_flight == 0
