"""What each route is for, as the OpenAPI document tells it, and what it may answer."""

from __future__ import annotations

from typing import Any, NamedTuple

from tidemill.server.documents import Live, ModelMetadata, ModelReady, Ready, ServerMetadata
from tidemill.server.protocol import InferRequest, InferResponse
from tidemill.server.records import Predicted
from tidemill.server.repository import Change, Entry, Filter, Nothing

__all__ = [
    "DESCRIBE",
    "INDEX",
    "INFER",
    "LIVE",
    "LOAD",
    "METRICS",
    "MODEL_READY",
    "OPENAPI",
    "PREDICT",
    "PREDICT_ONLY",
    "READY",
    "SERVER",
    "STATUS",
    "UNLOAD",
    "Operation",
]

CONTENT = {
    "malformed_json": 400,
    "invalid_request": 400,
    "unknown_input": 400,
    "missing_input": 400,
    "duplicate_input": 400,
    "wrong_datatype": 400,
    "wrong_shape": 400,
    "wrong_length": 400,
    "wrong_row_count": 400,
    "missing_value": 400,
    "unknown_entity": 400,
    "unknown_output": 400,
    "duplicate_output": 400,
    "unsupported": 400,
    "malformed_binary": 400,
}
TENSORS = {
    *("duplicate_input", "wrong_shape", "wrong_length", "malformed_binary"),
    *("unknown_output", "duplicate_output", "unsupported"),
}
"""Of these, what only tensors can be."""
AMBIGUOUS = {"ambiguous_model": 400}
ALWAYS = {
    "malformed_http": 400,
    "request_timeout": 408,
    "head_too_large": 431,
    "internal": 500,
    "unavailable": 503,
}
KEYED = {
    "missing_key": 401,
    "unknown_key": 401,
    "expired_key": 401,
    "invalid_token": 401,
    "expired_token": 401,
    "forbidden": 403,
    "rate_limited": 429,
    "quota_exceeded": 429,
}
BODY = {"body_too_large": 413, "unsupported_encoding": 415}
MODEL = {"unknown_model": 404, "unknown_version": 404}
LOADED = {"not_loaded": 503}
WORK = {"overloaded": 503, "deadline_exceeded": 504}
ELSEWHERE = {"not_found": 404, "method_not_allowed": 405}
"""Of paths and methods that are no operation."""

STATUS = CONTENT | AMBIGUOUS | ALWAYS | KEYED | BODY | MODEL | LOADED | WORK | ELSEWHERE
"""Every code of a refusal, and its status."""


class Operation(NamedTuple):
    """One route's documentation."""

    name: str
    summary: str
    answers: Any = None
    """Type of the answer's JSON; None: text, or whatever JSON there is."""
    reads: Any = None
    """Type of the body's JSON; None: there is no body."""
    optional: bool = False
    """The body may be left out."""
    codes: tuple[str, ...] = ()
    """Refusals beyond those of every route."""
    unready: bool = False
    """503 with the same document says that it is not ready."""
    binary: bool = False
    """Body and answer may carry binary tensors."""
    records: bool = False
    """The body is of the model's own type of records."""
    text: bool = False
    """The answer is text."""

    @property
    def traced(self) -> bool:
        """Whether it takes and returns a trace context."""
        return self.binary or self.records


ORDER = (*BODY, *MODEL, *LOADED, "invalid_request", "unsupported")
INFER = Operation(
    "infer",
    "Score rows, given as tensors by column.",
    InferResponse,
    InferRequest,
    codes=(*CONTENT, *BODY, *MODEL, *LOADED, *WORK),
    binary=True,
)
PREDICT = Operation(
    "predict",
    "Score rows, given as JSON objects.",
    Predicted,
    codes=(*(code for code in CONTENT if code not in TENSORS), *BODY, *MODEL, *LOADED, *WORK),
    records=True,
)
PREDICT_ONLY = PREDICT._replace(
    name="predictOnly",
    summary="Score rows with the only model of this server.",
    codes=("ambiguous_model", *PREDICT.codes),
)
DESCRIBE = Operation(
    "describeModel",
    "Tell a model's inputs and outputs.",
    ModelMetadata,
    codes=(*MODEL, *LOADED),
)
MODEL_READY = Operation(
    "modelReady",
    "Tell whether a model answers without being loaded first.",
    ModelReady,
    codes=("unknown_model",),
    unready=True,
)
SERVER = Operation("describeServer", "Tell the server's version and extensions.", ServerMetadata)
LIVE = Operation("live", "Tell that the process answers.", Live)
READY = Operation("ready", "Tell whether requests may be sent.", Ready, unready=True)
METRICS = Operation("metrics", "Counters in Prometheus' text format.", text=True)
OPENAPI = Operation("openapi", "This document.", dict[str, Any])
INDEX = Operation(
    "repositoryIndex",
    "List every version that is loaded or could be.",
    list[Entry],
    Filter,
    optional=True,
    codes=(*BODY, "invalid_request"),
)
LOAD = Operation(
    "loadModel",
    "Load a version, the newest by default.",
    Nothing,
    Change,
    optional=True,
    codes=ORDER,
)
UNLOAD = Operation(
    "unloadModel",
    "Unload a version, by default all, after the requests in flight.",
    Nothing,
    Change,
    optional=True,
    codes=tuple(code for code in ORDER if code != "not_loaded"),
)
