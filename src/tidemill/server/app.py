"""The application: routes, permissions, errors; one route is a look-up in a table."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import structlog

from tidemill import __version__
from tidemill.errors import TidemillError
from tidemill.server.binary import HEADER, header_length
from tidemill.server.guard import Guard
from tidemill.server.inference import Inference
from tidemill.server.messages import Request, Response
from tidemill.server.metrics import Metrics
from tidemill.server.protocol import Rejected, encode

__all__ = ["App"]

log = structlog.get_logger(__name__)

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
OCTETS = b"application/octet-stream"
TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C `traceparent`: https://www.w3.org/TR/trace-context/."""


class App:
    """The server's HTTP interface; `ready` and `draining` are set by the process around it."""

    def __init__(self, inference: Inference, metrics: Metrics, guard: Guard) -> None:
        self.guard = guard
        self._inference = inference
        self._metrics = metrics
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

    def admit(self, request: Request, pending: int) -> bool:
        """Judge a request by its head, return whether its body is wanted; raises Rejected."""
        infers = self._infers(request)
        self.guard.admit(request, pending, infers=infers)
        return infers

    async def answer(self, request: Request) -> Response:
        """Answer a request that was admitted and is whole."""
        try:
            if self._infers(request):
                return await self._infer_one(request)
            return self._document(request.path, request.method)
        except Rejected as refusal:
            return self.refuse(refusal)
        except TidemillError as error:
            log.error("request failed", reason=str(error))
            return _tell(Rejected("unavailable", "the server cannot answer now", 503))
        except Exception:
            log.exception("request failed")
            return _tell(Rejected("internal", "the server failed; its log says why", 500))

    def refuse(self, refusal: Rejected) -> Response:
        """Return how a refusal is told; it is counted if its reason is not in a request's body."""
        if refusal.code in self._metrics.refused:
            self._metrics.refused[refusal.code] += 1
        return _tell(refusal)

    def _infers(self, request: Request) -> bool:
        return request.path in self._infer and request.method == "POST"

    async def _infer_one(self, request: Request) -> Response:
        headers = request.headers
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Rejected("unsupported_encoding", "compressed bodies are not supported", 415)
        found = TRACE.fullmatch(headers.get(b"traceparent", b""))
        body = bytes(request.body)
        json_size = header_length(headers[HEADER], len(body)) if HEADER in headers else None
        async with self.guard.slots:
            answer = await self._inference.answer(
                body, found[1].decode() if found else None, json_size=json_size
            )
        if answer.json_size is None:
            return Response(200, answer.body)
        return Response(200, answer.body, OCTETS, {HEADER: b"%d" % answer.json_size})

    def _document(self, path: str, method: str) -> Response:
        answer = self._documents.get(path)
        if answer is not None and method in ("GET", "HEAD"):
            status, body = answer()
            return Response(status, body, TEXT) if path == "/metrics" else Response(status, body)
        if answer is not None or path in self._infer:
            allowed = "GET, HEAD" if answer is not None else "POST"
            message = f"{path} answers {allowed}, not {method}"
            raise Rejected("method_not_allowed", message, 405, {b"allow": allowed.encode()})
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


def _tell(refusal: Rejected) -> Response:
    return Response(refusal.status, refusal.body(), headers=refusal.headers)


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
