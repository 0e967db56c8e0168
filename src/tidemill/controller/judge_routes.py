"""What the judge answers to each request."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from tidemill.controller.answers import FLAGGER, as_document, as_status
from tidemill.controller.judge import Judge
from tidemill.controller.listening import Answer
from tidemill.controller.probes import PROBES, Check, Probes
from tidemill.controller.questions import Asked, read_body, read_flagger, read_query
from tidemill.domain.rollout.judge import Finding
from tidemill.errors import (
    NotFound,
    PermanentError,
    Refused,
    RetryableError,
    TidemillError,
)

__all__ = ["Denied", "Routes"]

log = structlog.get_logger(__name__)

JUDGE, ATTEMPTS, WEBHOOKS = "/v1/judge", "/v1/attempts/", "/v1/flagger/"
PATHS = f"GET or POST {JUDGE}, GET or DELETE {ATTEMPTS}NAME, POST {WEBHOOKS}{{{'|'.join(FLAGGER)}}}"

Door = Callable[[str], None]
"""Lets a request with this Authorization header pass; raises Denied."""
Weigh = Callable[[str, str], float]
"""Finds the weight of Flagger's canary, percent, by its namespace and name; raises NotFound,
Refused, Unavailable."""


class Denied(PermanentError):
    """A caller who may not ask; `status` says whether another token would help."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Routes:
    """Answers requests; may be asked from many threads."""

    def __init__(self, judge: Judge, weigh: Weigh, door: Door, ready: Check) -> None:
        self._judge, self._weigh, self._door = judge, weigh, door
        registry = CollectorRegistry()
        self._verdicts = Counter(
            "tidemill_judge_answers", "Answers by verdict.", ("verdict",), registry=registry
        )
        self._refused = Counter(
            "tidemill_judge_refused", "Refusals by status.", ("status",), registry=registry
        )
        self._looks = Histogram(
            "tidemill_judge_look_seconds", "Time of one look.", registry=registry
        )
        self._probes = Probes(lambda: "", ready, registry)

    def respond(self, method: str, target: str, authorization: str, body: bytes) -> Answer:
        """Answer one request; a refusal says what was expected, and what to do."""
        url = urlsplit(target)
        if method == "GET" and url.path in PROBES:
            return self._probes.answer(url.path)
        try:
            self._door(authorization)
            return self._route(method, url.path, url.query, body)
        except TidemillError as error:
            return self._refuse(error)
        except Exception:  # whoever asks hears that it is not their fault, and nothing of the fault
            log.exception("a question failed", path=url.path)
            self._refused.labels("500").inc()
            return _json({"error": "a fault of the judge; its log says which"}, 500)

    def _route(self, method: str, path: str, query: str, body: bytes) -> Answer:
        if path == JUDGE and method in ("GET", "POST"):
            asked = read_query(query) if method == "GET" else read_body(body)
            return _json(as_document(self._look(asked)))
        if path.startswith(ATTEMPTS) and method in ("GET", "DELETE"):
            attempt = unquote(path.removeprefix(ATTEMPTS))
            if method == "GET":
                return _json(as_document(self._judge.recall(attempt)))
            self._judge.forget(attempt)
            return Answer(204, b"")
        asked_for = path.removeprefix(WEBHOOKS)
        if path.startswith(WEBHOOKS) and asked_for in FLAGGER and method == "POST":
            return self._webhook(asked_for, body)
        raise NotFound(f"there is no {method} {path}", hint=f"known: {PATHS}")

    def _webhook(self, asked_for: str, body: bytes) -> Answer:
        try:
            asked = read_flagger(body, self._weigh)
        except (NotFound, Refused, RetryableError) as error:  # the weight is not known
            finding = Finding("", "missing", error.message, 0, (0, 0))
        else:
            finding = self._look(asked)
        status, said = as_status(finding, asked_for)
        return Answer(status, said.encode())

    def _look(self, asked: Asked) -> Finding:
        began = perf_counter()
        finding = self._judge.answer(asked)
        self._looks.observe(perf_counter() - began)
        self._verdicts.labels(finding.verdict).inc()
        log.info(
            "answered",
            attempt=finding.attempt,
            verdict=finding.verdict,
            reason=finding.reason,
            weight=finding.weight,
        )
        return finding

    def _refuse(self, error: TidemillError) -> Answer:
        status = _status(error)
        self._refused.labels(str(status)).inc()
        headers = {"www-authenticate": 'Bearer realm="tidemill"'} if status == 401 else {}
        return _json({"error": error.message, "next": error.hint}, status, headers)


def _status(error: TidemillError) -> int:
    if isinstance(error, Denied):
        return error.status
    if isinstance(error, RetryableError):
        return 503
    return 404 if isinstance(error, NotFound) else 400


def _json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    body = json.dumps(document, allow_nan=False).encode() + b"\n"
    return Answer(status, body, {"content-type": "application/json", **(headers or {})})
