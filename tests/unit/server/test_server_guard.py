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


@pytest.mark.parametrize("given", [{"cert": "c"}, {"key": "k"}, {"client_ca": "ca"}])
def test_half_a_tls_is_none(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="cert and key"):
        TlsSettings(**given)
