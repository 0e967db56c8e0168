"""The path of one request: read, check, look up, score, write, log.

It knows no transport: what reads a request and writes its answer comes with each call.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from tidemill.ports.clock import Clock
from tidemill.server.encoding import Prediction
from tidemill.server.lookup import Found, Lookup
from tidemill.server.metrics import Counters
from tidemill.server.model import Model
from tidemill.server.predictions import PredictionLog
from tidemill.server.protocol import InferRequest, Rejected
from tidemill.server.validation import Validator

__all__ = ["Asked", "Inference", "Scored"]

NOTHING = Found()
T = TypeVar("T")


class Asked(NamedTuple):
    """A request as a transport read it."""

    request: InferRequest
    raw: Mapping[str, bytes]
    """Values of the inputs whose tensors hold no `data`, as `binary.unpack` reads them."""


class Scored(NamedTuple):
    """What an answer is written from."""

    model: Model
    request: InferRequest
    request_id: str
    scores: NDArray[np.float32]
    """`[rows]`."""
    values: list[float]
    """The same."""
    parameters: dict[str, str]


class Inference:
    """Answers inference requests with one model."""

    def __init__(
        self,
        model: Model,
        validator: Validator,
        lookup: Lookup,
        log: PredictionLog,
        counters: Counters,
        clock: Clock,
    ) -> None:
        self.model = model
        self.in_flight = 0
        self._validator = validator
        self._lookup = lookup
        self._log = log
        self._counters = counters
        self._clock = clock
        self._boot = uuid.uuid4().hex
        self._numbers = itertools.count(1)

    async def answer(
        self,
        read: Callable[[], Asked],
        write: Callable[[Scored], T],
        trace_id: str | None = None,
    ) -> T:
        """Answer one request; raises Rejected when it is refused.

        Every request is counted, with the time from its last byte to its answer.
        """
        started = perf_counter()
        outcome = "error"
        self.in_flight += 1
        try:
            answer = await self._score(read(), write, trace_id, started)
            outcome = "ok"
        except Rejected:
            outcome = "rejected"
            raise
        except asyncio.CancelledError:  # over gRPC a caller's deadline ends its call
            outcome = "cancelled"
            raise
        finally:
            self.in_flight -= 1
            self._counters.answered(outcome, perf_counter() - started)
        return answer

    async def _score(
        self, asked: Asked, write: Callable[[Scored], T], trace_id: str | None, started: float
    ) -> T:
        request = asked.request
        batch = self._validator.check(request, asked.raw)
        now = self._clock.now()
        found = await self._lookup.fill(batch, now) if batch.views else NOTHING
        scores = self.model.predict(batch.numbers, batch.texts)
        request_id = f"{self._boot}-{next(self._numbers)}" if request.id is None else request.id
        values = scores.tolist()
        parameters = {"revision": self.model.revision, **_marks(found)}
        answer = write(Scored(self.model, request, request_id, scores, values, parameters))
        self._counters.scored(values)
        if found.by_view:
            self._counters.defaults.update(found.by_view)
        self._log.append(
            Prediction(
                request_id,
                batch.row_ids,
                now,
                batch.numbers,
                batch.texts,
                batch.keys,
                found.defaulted,
                found.as_of,
                values,
                perf_counter() - started,
                trace_id,
            )
        )
        return answer


def _marks(found: Found) -> dict[str, str]:
    """Say in an answer's parameters what was looked up, and what fell back to its default."""
    marks: dict[str, str] = {}
    if found.as_of is not None:
        marks["features_as_of"] = found.as_of.isoformat()
    if found.defaulted:
        marks["defaulted"] = ",".join(
            f"{name}={rows.mean():.4g}" for name, rows in found.defaulted.items()
        )
    return marks
