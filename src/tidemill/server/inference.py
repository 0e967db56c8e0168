"""The path of one request: read, check, look up, score, write, log.

It knows no transport: what reads a request and writes its answer comes with each call.

When the model itself fails, or what it cannot do without is not in the online store, an older
version of it answers, or the share of the event in training, as the settings say. The failure is
counted as one all the same: a rollout that watches the version must not take a fallback's answer
for its health. An older version counts and logs what it answered as its own; a prior is no model's
score, so it is in no prediction log.
"""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from time import perf_counter
from types import MappingProxyType
from typing import Literal, TypeVar

import numpy as np
import structlog
from msgspec import Struct
from numpy.typing import NDArray

from tidemill.errors import Unavailable
from tidemill.ports.clock import Clock
from tidemill.server.answers import Answers
from tidemill.server.batching import Batcher
from tidemill.server.cache import Cache
from tidemill.server.encoding import Prediction
from tidemill.server.lookup import Found, Lookup
from tidemill.server.metrics import Counters
from tidemill.server.model import Model
from tidemill.server.predictions import PredictionLog
from tidemill.server.protocol import InferRequest, Rejected
from tidemill.server.trail import Trail
from tidemill.server.validation import Batch, Validator

__all__ = ["UNMARKED", "Asked", "Inference", "Scored"]

log = structlog.get_logger(__name__)

NOTHING = Found()
UNMARKED: Mapping[str, str] = MappingProxyType({})
TOLD_SECONDS = 60.0
"""How long a model that fails is not spoken of again; each failure is counted."""
T = TypeVar("T")


class Asked(Struct, gc=False):
    """A request as a transport read it."""

    request: InferRequest
    raw: Mapping[str, bytes]
    """Values of the inputs whose tensors hold no `data`, as `binary.unpack` reads them."""


class Scored(Struct, gc=False):
    """What an answer is written from."""

    model: Model
    request: InferRequest
    request_id: str
    scores: NDArray[np.float32]
    """`[rows]`."""
    values: list[float]
    """The same."""
    parameters: dict[str, str]


class ModelFailed(Exception):
    """A request that was found good could not be scored."""

    def __init__(self, request: InferRequest, rows: int) -> None:
        super().__init__("the model could not score a request")
        self.request = request
        self.rows = rows


class Inference:
    """Answers inference requests with one model."""

    def __init__(
        self,
        model: Model,
        validator: Validator,
        lookup: Lookup,
        log: PredictionLog | None,
        counters: Counters,
        clock: Clock,
        answers: Answers,
        fallback: Iterable[Literal["previous", "prior"]] = (),
        batcher: Batcher | None = None,
        cache: Cache | None = None,
    ) -> None:
        """`fallback` says what answers when the model fails, in this order; nothing: an error.

        Without a `log` predictions are not logged. Without a `batcher` each request is scored
        alone, and nothing is awaited for it.
        """
        self.model = model
        self.older: Callable[[], Iterable[Inference]] = tuple
        """Older versions of the model that are loaded, the newest first."""
        self._labels = (model.name, model.version, model.revision)
        self._validator = validator
        self._lookup = lookup
        self._log = log
        self._answers = answers
        self._counters = counters
        self._clock = clock
        self._fallback = tuple(fallback)
        self._batcher = batcher
        self._cache = cache
        self._boot = uuid.uuid4().hex
        self._numbers = itertools.count(1)
        self._told = -TOLD_SECONDS

    async def answer(
        self,
        read: Callable[[], Asked],
        write: Callable[[Scored], T],
        trail: Trail | None = None,
        marks: Mapping[str, str] = UNMARKED,
    ) -> T:
        """Answer one request; raises Rejected when it is refused, ModelFailed when nothing could.

        What is learned of it is noted on `trail`, whose trace id goes to the prediction log. The
        answer carries `marks` among its parameters.

        Every request is counted, with the time from its arrival to its answer.
        """
        trail = trail or Trail()
        self._counters.waited.observe(perf_counter() - trail.arrived)
        try:
            return await self._counted(read, write, trail, trail.arrived, marks)
        except ModelFailed as failure:
            return await self._fall_back(failure, read, write, trail)

    async def _fall_back(
        self,
        failure: ModelFailed,
        read: Callable[[], Asked],
        write: Callable[[Scored], T],
        trail: Trail,
    ) -> T:
        """Answer instead of the model; raises the failure when nothing can."""
        self._tell(failure)
        for kind in self._fallback:
            tried: set[Inference] = set()
            # Looked at anew each time: meanwhile a version may have been unloaded, its log closed.
            while kind == "previous" and (older := self._next_older(tried)):
                tried.add(older)
                with suppress(ModelFailed, Rejected):  # it may take other inputs
                    mark = {"fallback": f"version {older.model.version}"}
                    # Its time, too, was spent by the version that failed and counts the error.
                    answer = await older._counted(
                        read, write, trail, perf_counter(), mark, late="cancelled"
                    )
                    self._counters.fallbacks[kind] += 1
                    return answer
            if kind == "prior":
                self._counters.fallbacks[kind] += 1
                return self._answer_prior(failure, write, trail)
        raise failure

    def _tell(self, failure: ModelFailed) -> None:
        """Log why the model failed; again after a minute only, as each request may fail."""
        if (now := perf_counter()) < self._told + TOLD_SECONDS:
            return
        self._told = now
        model, reason = self.model, repr(failure.__cause__)
        log.error("the model failed", model=model.name, version=model.version, reason=reason)

    def _next_older(self, tried: set[Inference]) -> Inference | None:
        return next((older for older in self.older() if older not in tried), None)

    def _answer_prior(self, failure: ModelFailed, write: Callable[[Scored], T], trail: Trail) -> T:
        scores = np.full(failure.rows, self.model.manifest.prior, np.float32)
        marks = {"revision": self._labels[2], "fallback": "prior"}
        name = self._name(failure.request)
        self._sign(trail)
        trail.rows, trail.request_id = failure.rows, name
        return write(Scored(self.model, failure.request, name, scores, scores.tolist(), marks))

    def _sign(self, trail: Trail) -> None:
        """Note which version answers."""
        trail.model, trail.version, trail.revision = self._labels

    def _name(self, request: InferRequest) -> str:
        return f"{self._boot}-{next(self._numbers)}" if request.id is None else request.id

    async def _counted(
        self,
        read: Callable[[], Asked],
        write: Callable[[Scored], T],
        trail: Trail,
        started: float,
        marks: Mapping[str, str],
        *,
        late: Literal["error", "cancelled"] = "error",
    ) -> T:
        """Answer a request and count it; as `late` where the time for it ends."""
        outcome = "error"
        self._counters.in_flight += 1
        self._sign(trail)
        try:
            answer = await self._score(read(), write, trail, started, marks)
            outcome = "ok"
        except Rejected:
            outcome = "rejected"
            raise
        except asyncio.CancelledError:  # over gRPC a caller's deadline ends its call
            outcome = late if trail.late else "cancelled"
            raise
        finally:
            seconds = perf_counter() - started
            self._counters.in_flight -= 1
            self._counters.answered(outcome, seconds)
            if trail.identity is not None:
                self._answers.note(trail.identity, outcome, seconds, trail.scores)
        return answer

    async def _score(
        self,
        asked: Asked,
        write: Callable[[Scored], T],
        trail: Trail,
        started: float,
        marks: Mapping[str, str],
    ) -> T:
        request = asked.request
        batch = self._validator.check(request, asked.raw)
        trail.rows = batch.rows
        now = self._clock.now()
        found = NOTHING
        if batch.views:
            with trail.step("lookup"):
                found = await self._lookup.fill(batch, now)
            if found.unknown:
                raise Rejected("unknown_entity", found.unknown)
            if found.lacking:
                self._fell_back(found)
                names = ", ".join(found.lacking)
                reason = Unavailable(f"looked up in vain, without a default: {names}")
                raise ModelFailed(request, batch.rows) from reason
        with trail.step("predict"):
            scores = await self._predict(request, batch)
        request_id = trail.request_id = self._name(request)
        values = trail.scores = scores.tolist()
        parameters = {"revision": trail.revision, **_marks(found), **marks}
        answer = write(Scored(self.model, request, request_id, scores, values, parameters))
        self._counters.scored(values)
        if found is not NOTHING:
            self._fell_back(found)
            self._counters.aged += found.age_seconds is not None
        if self._log is not None:
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
                    scores,
                    perf_counter() - started,
                    trail.trace_id,
                )
            )
        return answer

    def _fell_back(self, found: Found) -> None:
        self._counters.defaults.update(found.by_view)
        self._counters.stale.update(found.stale)

    async def _predict(self, request: InferRequest, batch: Batch) -> NDArray[np.float32]:
        """Score a batch, or know its scores; raises ModelFailed."""
        scores = self._cache.get(batch) if self._cache else None
        if scores is not None:
            return scores
        try:
            if self._batcher is None:
                scores = self.model.predict(batch.numbers, batch.texts)
            else:
                scores = await self._batcher.predict(batch.numbers, batch.texts)
        except Exception as error:  # ONNX Runtime's exceptions share no base but Exception
            raise ModelFailed(request, batch.rows) from error
        if self._cache:
            self._cache.put(batch, scores)
        return scores


def _marks(found: Found) -> dict[str, str]:
    """Say in an answer's parameters what was looked up, and what fell back to its default."""
    marks: dict[str, str] = {}
    if found.as_of is not None:
        marks["features_as_of"] = found.as_of.isoformat()
    if found.defaulted:
        marks["defaulted"] = ",".join(
            f"{name}={np.count_nonzero(rows) / len(rows):.4g}"
            for name, rows in found.defaulted.items()
        )
    if found.age_seconds is not None:
        marks["stale"] = f"{found.age_seconds:g}"
    return marks
