"""Requests that arrive together are scored together, each as if it were alone."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server_app import FULL, Running, expected, request, start
from tests.server_vectors import PLACE, asked, by_hand, tensor, write

from tidemill.server import rest
from tidemill.server.inference import ModelFailed
from tidemill.server.model import Model
from tidemill.server.protocol import Rejected
from tidemill.testing.models import MANIFEST, write_bundle

POISON = "poison"


class Spoiled:
    """A session that fails when a carrier is `POISON`, and counts its calls."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.rows: list[int] = []

    def run(self, outputs: Any, feed: dict[str, Any]) -> Any:
        self.rows.append(len(feed["carrier"]))
        if POISON in feed["carrier"]:
            raise RuntimeError("a kernel failed")
        return self._session.run(outputs, feed)


def spoil(served: Running) -> Spoiled:
    model: Model = served.served.inference.model
    spoiled = Spoiled(model.session)
    object.__setattr__(model, "session", spoiled)
    return spoiled


def together(served: Running, *asked: dict[str, Any]) -> list[Any]:
    """Send requests in one turn of the event loop; return answers and failures."""

    async def one(document: dict[str, Any]) -> Any:
        body = json.dumps(document).encode()
        answer = await served.served.inference.answer(lambda: rest.read(body, None), rest.write)
        return json.loads(answer.body)

    async def talk() -> list[Any]:
        return await asyncio.gather(*map(one, asked), return_exceptions=True)

    return asyncio.run(talk())


def scores(answer: Any) -> list[float]:
    return answer["outputs"][0]["data"]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def running(bundle: Path) -> Running:
    return start(bundle)


@given(st.lists(st.lists(st.floats(-500, 500, width=32), min_size=1, max_size=5), max_size=12))
@settings(max_examples=50)
def test_each_request_gets_its_own_rows_in_order(
    running: Running, temperatures: list[list[float]]
) -> None:
    asked = [request(FULL | {"temp": rows}, len(rows)) for rows in temperatures]
    wanted = [[expected(FULL | {"temp": t}) for t in rows] for rows in temperatures]
    for answer, hand in zip(together(running, *asked), wanted, strict=True):
        assert scores(answer) == pytest.approx(hand, abs=1e-6)


def test_what_arrives_together_is_one_call(bundle: Path) -> None:
    served = start(bundle)
    session = spoil(served)
    together(served, *(request(FULL, rows) for rows in (1, 3, 2)))
    assert session.rows == [6]
    assert served.metric("tidemill_batch_rows_sum") == 6
    assert served.metric("tidemill_batch_rows_count") == 1
    assert served.metric("tidemill_queue_seconds_count") == 3
    assert served.metric("tidemill_requests_total", outcome="ok") == 3
    assert served.metric("tidemill_rows_total") == 6


def test_a_batch_is_bounded_and_a_larger_request_is_one_of_its_own(bundle: Path) -> None:
    served = start(bundle, max_batch_rows=4)
    session = spoil(served)
    answers = together(served, *(request(FULL, rows) for rows in (3, 1, 1, 9, 2, 2)))
    assert session.rows == [4, 1, 9, 4]
    assert [len(scores(a)) for a in answers] == [3, 1, 1, 9, 2, 2]


def test_only_the_request_that_the_model_fails_on_fails(bundle: Path) -> None:
    served = start(bundle, fallback=[])
    spoil(served)
    bad = request(FULL | {"carrier": POISON})
    answers = together(served, request(FULL), bad, request(FULL | {"temp": 70.0}, 2), bad)
    assert [type(a) for a in answers] == [dict, ModelFailed, dict, ModelFailed]
    assert scores(answers[0]) == pytest.approx([expected(FULL)], abs=1e-6)
    assert scores(answers[2]) == pytest.approx([expected(FULL | {"temp": 70.0})] * 2, abs=1e-6)
    assert served.metric("tidemill_requests_total", outcome="error") == 2
    assert served.metric("tidemill_requests_total", outcome="ok") == 2


def test_what_is_refused_is_in_no_batch(bundle: Path) -> None:
    served = start(bundle)
    session = spoil(served)
    answers = together(served, request(FULL), {"inputs": []}, request(FULL))
    assert [type(a) for a in answers] == [dict, Rejected, dict]
    assert session.rows == [2]


def test_a_client_that_is_gone_harms_nobody(bundle: Path) -> None:
    served = start(bundle)
    body = json.dumps(request(FULL)).encode()

    async def talk() -> Any:
        ask = served.served.inference.answer
        gone, stays = (
            asyncio.create_task(ask(lambda: rest.read(body, None), rest.write)) for _ in range(2)
        )
        await asyncio.sleep(0)
        gone.cancel()
        return await stays

    assert scores(json.loads(asyncio.run(talk()).body)) == pytest.approx([expected(FULL)], abs=1e-6)
    assert served.served.counters.in_flight == 0


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_models_of_one_type_alone_are_batched_too(tmp_path: Path, datatype: str) -> None:
    inputs = tuple(replace(c, origin="request") for c in MANIFEST.inputs if c.datatype == datatype)
    served = start(write_bundle(tmp_path / "b", manifest=replace(MANIFEST, inputs=inputs)))
    row = {c.name: FULL[c.name] for c in inputs}
    answers = together(served, request(row, 2), request(row, 3))
    assert [len(scores(a)) for a in answers] == [2, 3]
    assert served.metric("tidemill_batch_rows_sum") == 5


def test_vectors_are_batched(tmp_path: Path) -> None:
    served = start(write(tmp_path / "b"))
    other = [[9.0, 8.0, 7.0], [-1.0, 0.5, 0.25]]
    places = [PLACE, other, PLACE]
    answers = together(served, *(asked(tensor("place", place, [2, 3])) for place in places))
    for place, answer in zip(places, answers, strict=True):
        assert np.allclose(scores(answer), by_hand(place), atol=1e-6)
    assert served.metric("tidemill_batch_rows_count") == 1


def test_switched_off_nothing_is_awaited(bundle: Path) -> None:
    served = start(bundle, max_batch_rows=0)
    body = json.dumps(request(FULL)).encode()
    asking = served.served.inference.answer(lambda: rest.read(body, None), rest.write)
    with pytest.raises(StopIteration) as ended:
        asking.send(None)
    assert scores(json.loads(ended.value.value.body)) == pytest.approx([expected(FULL)], abs=1e-6)
    assert served.metric("tidemill_batch_rows_count") == 0
