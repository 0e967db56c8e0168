"""The path of one request: read, check, look up, score, log, answer."""

from __future__ import annotations

import itertools
import uuid
from time import perf_counter
from typing import NamedTuple

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from tidemill.ports.clock import Clock
from tidemill.server.encoding import Prediction
from tidemill.server.lookup import Found, Lookup
from tidemill.server.metrics import Metrics
from tidemill.server.model import Model
from tidemill.server.predictions import PredictionLog
from tidemill.server.protocol import (
    InferRequest,
    InferResponse,
    OutputTensor,
    Rejected,
    decode,
    encode,
)
from tidemill.server.tensors import Size
from tidemill.server.validation import Validator

__all__ = ["Answer", "Inference"]

NOTHING = Found()


class Answer(NamedTuple):
    """The body of an answer."""

    body: bytes
    json_size: int | None
    """How many of its bytes are JSON, binary values follow; None if all are."""


class Inference:
    """Answers inference requests with one model."""

    def __init__(
        self,
        model: Model,
        validator: Validator,
        lookup: Lookup,
        log: PredictionLog,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self.model = model
        self._validator = validator
        self._lookup = lookup
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._boot = uuid.uuid4().hex
        self._numbers = itertools.count(1)

    async def answer(
        self, body: bytes, trace_id: str | None = None, *, json_size: int | None = None
    ) -> Answer:
        """Answer one request body; raises Rejected when it is refused.

        `json_size` is how many of its bytes are JSON, binary values follow; None if all are. Every
        request is counted, with the time from its last byte to its answer.
        """
        started = perf_counter()
        outcome = "error"
        try:
            answer = await self._score(body, json_size, trace_id, started)
            outcome = "ok"
        except Rejected:
            outcome = "rejected"
            raise
        finally:
            self._metrics.answered(outcome, perf_counter() - started)
        return answer

    async def _score(
        self, body: bytes, json_size: int | None, trace_id: str | None, started: float
    ) -> Answer:
        if json_size is None:
            request = decode(body)
            batch = self._validator.check(request)
        else:
            request = decode(body[:json_size])
            batch = self._validator.check(request, body[json_size:])
        now = self._clock.now()
        found = await self._lookup.fill(batch, now) if batch.views else NOTHING
        scores = self.model.predict(batch.numbers, batch.texts)
        request_id = f"{self._boot}-{next(self._numbers)}" if request.id is None else request.id
        values = scores.tolist()
        answer = self._write(request, request_id, scores, values, found)
        self._metrics.scored(values)
        if found.by_view:
            self._metrics.defaults.update(found.by_view)
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

    def _write(
        self,
        request: InferRequest,
        request_id: str,
        scores: NDArray[np.float32],
        values: list[float],
        found: Found,
    ) -> Answer:
        output = OutputTensor(self.model.manifest.output, "FP32", [len(values)])
        response = self._response(request_id, output, found)
        if not _wants_binary(request):
            output.data = values
            return Answer(encode(response), None)
        tail = scores.astype("<f4", copy=False).tobytes()
        output.parameters = Size(len(tail))
        head = encode(response)
        return Answer(head + tail, len(head))

    def _response(self, request_id: str, output: OutputTensor, found: Found) -> InferResponse:
        model = self.model
        parameters = {"revision": model.revision}
        if found.as_of is not None:
            parameters["features_as_of"] = found.as_of.isoformat()
        if found.defaulted:
            parameters["defaulted"] = ",".join(
                f"{name}={rows.mean():.4g}" for name, rows in found.defaulted.items()
            )
        return InferResponse(model.name, model.version, request_id, parameters, [output])


def _wants_binary(request: InferRequest) -> bool:
    """Return what the selected output says, or the request for all outputs."""
    if request.outputs:
        chosen = request.outputs[0].parameters.binary_data
        if chosen is not UNSET:
            return chosen
    return request.parameters.binary_data_output
