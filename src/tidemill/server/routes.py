"""What the server answers at which path, and the permission that this needs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from tidemill.server import rest
from tidemill.server.binary import HEADER, header_length
from tidemill.server.documents import describe_model, describe_server
from tidemill.server.guard import Need
from tidemill.server.messages import Response
from tidemill.server.metrics import Metrics
from tidemill.server.protocol import Rejected, encode
from tidemill.server.repository import Repository

__all__ = ["Call", "Route", "Routes"]

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
OCTETS = b"application/octet-stream"
TRACE = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C `traceparent`: https://www.w3.org/TR/trace-context/."""
T = TypeVar("T", bound=Struct)
MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"


class Call(NamedTuple):
    """A request that was admitted and has arrived."""

    headers: Mapping[bytes, bytes]
    body: bytes
    name: str = ""
    """The model in the path …"""
    version: str = ""
    """… and its version, empty for the newest."""


class Route(NamedTuple):
    """One path and method."""

    path: re.Pattern[str]
    method: Literal["GET", "POST"]
    need: Need
    answer: Callable[[Call], Awaitable[Response]]


class _Ready(Struct):
    """Body of a request for the index."""

    ready: bool = False


class _Parameters(Struct, frozen=True):
    version: str = ""


class _Change(Struct):
    """Body of a request to load or unload; parameters that are not known are ignored."""

    parameters: _Parameters = _Parameters()


class Routes:
    """The handlers; `ready` says whether the process takes requests and stays."""

    def __init__(self, repository: Repository, metrics: Metrics, ready: Callable[[], bool]) -> None:
        self._repository = repository
        self._metrics = metrics
        self._ready = ready
        repo = r"/v2/repository"
        self._routes = [
            _route(rf"{MODEL}/infer", "POST", "infer", self._infer),
            _route(MODEL, "GET", "infer", self._describe),
            _route(rf"{MODEL}/ready", "GET", "nothing", self._model_ready),
            _route(r"/v2", "GET", "infer", self._server),
            _route(r"/v2/health/live", "GET", "nothing", self._live),
            _route(r"/v2/health/ready", "GET", "nothing", self._server_ready),
            _route(r"/metrics", "GET", "metrics", self._show_metrics),
            _route(rf"{repo}/index", "POST", "admin", self._index),
            _route(rf"{repo}/models/(?P<name>[^/]+)/load", "POST", "admin", self._load),
            _route(rf"{repo}/models/(?P<name>[^/]+)/unload", "POST", "admin", self._unload),
        ]

        # The same few paths come again and again, each looked up at its head and when it is whole.
        self.find = lru_cache(maxsize=1024)(self._find)

    def _find(self, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a path and what the path names; None when there is none."""
        for route in self._routes:
            if found := route.path.fullmatch(path):
                return route, found.groupdict("")
        return None

    async def _infer(self, call: Call) -> Response:
        headers, body = call.headers, call.body
        found = TRACE.fullmatch(headers.get(b"traceparent", b""))
        json_size = header_length(headers[HEADER], len(body)) if HEADER in headers else None
        served = await self._repository.get(call.name, call.version)
        answer = await served.inference.answer(
            lambda: rest.read(body, json_size), rest.write, found[1].decode() if found else None
        )
        if answer.json_size is None:
            return Response(200, answer.body)
        return Response(200, answer.body, OCTETS, {HEADER: b"%d" % answer.json_size})

    async def _describe(self, call: Call) -> Response:
        served = await self._repository.get(call.name, call.version)
        model = served.inference.model
        return Response(200, describe_model(model, self._repository.versions(model.name)))

    async def _model_ready(self, call: Call) -> Response:
        """Tell whether a model can be asked without waiting for it to be loaded."""
        served = self._repository.find(call.name, call.version)
        if served is None:
            self._repository.require(call.name, call.version)
        return _state({"name": call.name}, served is not None and self._ready())

    async def _server(self, _: Call) -> Response:
        return Response(200, describe_server())

    async def _live(self, _: Call) -> Response:
        return Response(200, encode({"live": True}))

    async def _server_ready(self, _: Call) -> Response:
        return _state({}, self._ready())

    async def _show_metrics(self, _: Call) -> Response:
        return Response(200, self._metrics.render(), TEXT)

    async def _index(self, call: Call) -> Response:
        wanted = _options(call.body, _Ready).ready
        entries = self._repository.index()
        return Response(200, encode([e for e in entries if not wanted or e.state == "READY"]))

    async def _load(self, call: Call) -> Response:
        await self._repository.load(call.name, _options(call.body, _Change).parameters.version)
        return Response(200, b"{}")

    async def _unload(self, call: Call) -> Response:
        await self._repository.unload(call.name, _options(call.body, _Change).parameters.version)
        return Response(200, b"{}")


def _route(
    path: str,
    method: Literal["GET", "POST"],
    need: Need,
    answer: Callable[[Call], Awaitable[Response]],
) -> Route:
    return Route(re.compile(path), method, need, answer)


def _state(body: dict[str, Any], ready: bool) -> Response:
    return Response(200 if ready else 503, encode(body | {"ready": ready}))


def _options(body: bytes, kind: type[T]) -> T:
    """Read an optional body; raises Rejected."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("invalid_request", f"the body is not as expected: {error}") from error
