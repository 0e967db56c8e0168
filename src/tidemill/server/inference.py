"""The path of one request: read, check, look up, score, log, answer."""

from __future__ import annotations

import itertools
import uuid
from time import perf_counter

from tidemill.ports.clock import Clock
from tidemill.server.encoding import Prediction
from tidemill.server.lookup import Found, Lookup
from tidemill.server.metrics import Metrics
from tidemill.server.model import Model
from tidemill.server.predictions import PredictionLog
from tidemill.server.protocol import InferResponse, OutputTensor, Rejected, decode, encode
from tidemill.server.validation import Validator

__all__ = ["Inference"]

NOTHING = Found()


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

    async def answer(self, body: bytes, trace_id: str | None = None) -> bytes:
        """Answer one request body; raises Rejected when it is refused.

        Every request is counted, with the time from its last byte to its answer.
        """
        started = perf_counter()
        outcome = "error"
        try:
            answer = await self._score(body, trace_id, started)
            outcome = "ok"
        except Rejected:
            outcome = "rejected"
            raise
        finally:
            self._metrics.answered(outcome, perf_counter() - started)
        return answer

    async def _score(self, body: bytes, trace_id: str | None, started: float) -> bytes:
        request = decode(body)
        batch = self._validator.check(request)
        now = self._clock.now()
        found = await self._lookup.fill(batch, now) if batch.views else NOTHING
        scores = self.model.predict(batch.numbers, batch.texts)
        request_id = f"{self._boot}-{next(self._numbers)}" if request.id is None else request.id
        values = scores.tolist()
        answer = encode(self._response(request_id, values, found))
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

    def _response(self, request_id: str, scores: list[float], found: Found) -> InferResponse:
        model = self.model
        parameters = {"revision": model.revision}
        if found.as_of is not None:
            parameters["features_as_of"] = found.as_of.isoformat()
        if found.defaulted:
            parameters["defaulted"] = ",".join(
                f"{name}={rows.mean():.4g}" for name, rows in found.defaulted.items()
            )
        output = OutputTensor(model.manifest.output, "FP32", [len(scores)], scores)
        return InferResponse(model.name, model.version, request_id, parameters, [output])
