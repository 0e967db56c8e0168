"""HTTP: routes, bodies, errors. A raw ASGI application: one route is a look-up in a table."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from tidemill import __version__
from tidemill.errors import TidemillError
from tidemill.server import body as bodies
from tidemill.server.binary import HEADER, header_length
from tidemill.server.body import Gone, Receive
from tidemill.server.guard import Guard
from tidemill.server.inference import Answer, Inference
from tidemill.server.metrics import Metrics
from tidemill.server.protocol import NONE, Rejected, encode

__all__ = ["App"]

log = structlog.get_logger(__name__)

Scope = Mapping[str, Any]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

JSON = (b"content-type", b"application/json")
TEXT = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
OCTETS = (b"content-type", b"application/octet-stream")
CLOSE = (b"connection", b"close")
TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C `traceparent`: https://www.w3.org/TR/trace-context/."""
CLOSING = frozenset({413, 431})
"""The rest of such a request is not read."""


class App:
    """The server's HTTP interface; `ready` and `draining` are set by the process around it."""

    def __init__(
        self, inference: Inference, metrics: Metrics, guard: Guard, *, max_body_bytes: int
    ) -> None:
        self.guard = guard
        self._inference = inference
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self.ready = False
        self.draining = False
        model = inference.model
        self._base = f"/v2/models/{model.name}"
        paths = (self._base, f"{self._base}/versions/{model.version}")
        self._infer = {f"{path}/infer" for path in paths}
        self._documents: dict[str, Callable[[], tuple[int, bytes]]] = {
            "/v2": lambda: (200, _server()),
            "/v2/health/live": lambda: (200, encode({"live": True})),
            "/v2/health/ready": self._readiness,
            "/metrics": lambda: (200, metrics.render()),
            **dict.fromkeys(paths, lambda: (200, _metadata(inference))),
            **dict.fromkeys((f"{path}/ready" for path in paths), self._model_readiness),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI's entry point."""
        path = scope["path"]
        extra = NONE
        close = False
        kind = JSON
        try:
            status, body, json_size = await self._respond(scope, path, receive)
            if json_size is not None:
                kind, extra = OCTETS, {HEADER: b"%d" % json_size}
            elif path == "/metrics":
                kind = TEXT
        except Rejected as refusal:
            self.count(refusal)
            status, body, extra = refusal.status, refusal.body(), refusal.headers
            close = status in CLOSING
        except Gone:
            return
        except TidemillError as error:
            log.error("request failed", reason=str(error))
            status, body = 503, Rejected("unavailable", "the server cannot answer now").body()
        except Exception:
            log.exception("request failed")
            status, body = 500, Rejected("internal", "the server failed; its log says why").body()
        headers = [kind, (b"content-length", b"%d" % len(body)), *extra.items()]
        if self.draining or close:
            headers.append(CLOSE)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def count(self, refusal: Rejected) -> None:
        """Count a refusal whose reason is not in the request's content."""
        if refusal.code in self._metrics.refused:
            self._metrics.refused[refusal.code] += 1

    async def _respond(
        self, scope: Scope, path: str, receive: Receive
    ) -> tuple[int, bytes, int | None]:
        """Return status, body and, of a binary answer, the size of its JSON part."""
        headers = dict(scope["headers"])
        infers = path in self._infer and scope["method"] == "POST"
        try:
            self.guard.admit(scope, headers, infers=infers)
        except Rejected as refusal:
            if not await bodies.linger(receive, self._max_body_bytes):
                refusal.headers = {**refusal.headers, b"connection": b"close"}
            raise
        if infers:
            answer = await self._answer(headers, receive)
            return 200, answer.body, answer.json_size
        return (*self._document(path, scope["method"]), None)

    async def _answer(self, headers: Mapping[bytes, bytes], receive: Receive) -> Answer:
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Rejected("unsupported_encoding", "compressed bodies are not supported", 415)
        body = await bodies.read(receive, self._max_body_bytes)
        found = TRACE.fullmatch(headers.get(b"traceparent", b""))
        json_size = header_length(headers[HEADER], len(body)) if HEADER in headers else None
        async with self.guard.slots:
            return await self._inference.answer(
                body, found[1].decode() if found else None, json_size=json_size
            )

    def _document(self, path: str, method: str) -> tuple[int, bytes]:
        answer = self._documents.get(path)
        if answer is not None and method == "GET":
            return answer()
        if answer is not None or path in self._infer:
            allowed = "GET" if answer is not None else "POST"
            raise Rejected("method_not_allowed", f"{path} answers {allowed}, not {method}", 405)
        raise self._unknown(path)

    def _unknown(self, path: str) -> Rejected:
        model = self._inference.model
        parts = path.split("/")
        if path.startswith("/v2/models/") and parts[3] != model.name:
            return Rejected(
                "unknown_model",
                f"there is no model '{parts[3]:.80}'; this server has '{model.name}'",
                404,
            )
        if path.startswith(f"{self._base}/versions/") and parts[5] != model.version:
            return Rejected(
                "unknown_version",
                f"there is no version '{parts[5]:.80}' of '{model.name}'; this server has "
                f"'{model.version}'",
                404,
            )
        return Rejected("not_found", f"there is nothing at {path:.200}", 404)

    def _readiness(self) -> tuple[int, bytes]:
        ready = self.ready and not self.draining
        return (200 if ready else 503), encode({"ready": ready})

    def _model_readiness(self) -> tuple[int, bytes]:
        ready = self.ready and not self.draining
        body = {"name": self._inference.model.name, "ready": ready}
        return (200 if ready else 503), encode(body)


def _server() -> bytes:
    return encode(
        {"name": "tidemill", "version": __version__, "extensions": ["binary_tensor_data"]}
    )


def _metadata(inference: Inference) -> bytes:
    model = inference.model
    manifest = model.manifest
    given = {column.name: column for column in manifest.inputs}
    inputs = [
        _tensor(name, column.datatype, column.origin, column.origin == "feature")
        for name, column in given.items()
    ]
    inputs += [_tensor(key, "BYTES", "key", True) for key in manifest.entities if key not in given]
    inputs.append(_tensor(manifest.row_id, "BYTES", "row_id", True))
    return encode(
        {
            "name": model.name,
            "versions": [model.version],
            "platform": "onnxruntime_onnx",
            "inputs": inputs,
            "outputs": [{"name": manifest.output, "datatype": "FP32", "shape": [-1]}],
            "parameters": {"revision": model.revision, "digest": model.digest},
        }
    )


def _tensor(name: str, datatype: str, origin: str, optional: bool) -> dict[str, Any]:
    return {
        "name": name,
        "datatype": datatype,
        "shape": [-1],
        "parameters": {"origin": origin, "optional": optional},
    }
