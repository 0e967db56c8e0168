"""What is refused for its size, its slowness, or the server's load."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from tests.server_app import FULL, INFER, request, start

from tidemill.server.inference import Asked
from tidemill.server.rest import Answer
from tidemill.settings.serving import TlsSettings

BODY = json.dumps(request(FULL)).encode()


def test_a_full_queue_refuses_and_says_when_to_return(bundle: Path) -> None:
    served = start(bundle, limits={"max_in_flight": 2, "max_waiting": 3})
    assert served.ask(INFER, BODY, pending=4).status == 200
    answer = served.ask(INFER, BODY, pending=5)
    assert (answer.status, answer.body["code"]) == (503, "overloaded")
    assert answer.headers[b"retry-after"] == b"1"
    assert b"connection" not in answer.headers  # its body came: the connection can stay
    assert served.metric("tidemill_refused_total", code="overloaded") == 1
    for path in ("/v2/health/ready", "/metrics", "/v2"):
        assert served.ask(path, method="GET", pending=1000).status == 200


def test_no_more_are_answered_at_once_than_may_be_and_none_is_lost(bundle: Path) -> None:
    served = start(bundle, limits={"max_in_flight": 3})
    now: list[int] = []
    most: list[int] = []

    class Slow:
        async def answer(self, read: Callable[[], Asked], *_: Any) -> Answer:
            now.append(1)
            most.append(len(now))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            now.pop()
            return Answer(str(read().request.id).encode(), None)

    object.__setattr__(served.served, "inference", Slow())

    async def burst() -> list[Any]:
        return await asyncio.gather(*(served._ask(INFER, body, "POST", 0, {}) for body in bodies))

    ids = [f"r{n}" for n in range(40)]
    bodies = [json.dumps(request(FULL) | {"id": one}).encode() for one in ids]
    answers = asyncio.run(burst())
    assert [answer.content.decode() for answer in answers] == ids
    assert max(most) == 3


def test_a_large_head_is_refused(bundle: Path) -> None:
    served = start(bundle, limits={"max_head_bytes": 1024})
    assert served.ask("/v2", method="GET", x="a" * 1023).status == 200
    answer = served.ask("/v2", method="GET", x="a" * 1024)
    assert (answer.status, answer.body["code"]) == (431, "head_too_large")
    assert answer.headers[b"connection"] == b"close"


def test_a_refused_request_does_not_wait_for_its_body(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemill.server.body.LINGER_SECONDS", 0.01)
    served = start(bundle, limits={"max_in_flight": 1, "max_waiting": 0})
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": INFER, "method": "POST", "headers": []}
    asyncio.run(served.app(scope | {"state": {"pending": 1}}, receive, send))
    assert sent[0]["status"] == 503
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["code"] == "overloaded"


@pytest.mark.parametrize("given", [{"cert": "c"}, {"key": "k"}, {"client_ca": "ca"}])
def test_half_a_tls_is_none(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="cert and key"):
        TlsSettings(**given)
