"""What the server answers at which path, and the permission that this needs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache
from typing import Literal, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from tidemill.server import operations as told
from tidemill.server import records, rest
from tidemill.server.answers import identify
from tidemill.server.binary import HEADER, header_length
from tidemill.server.documents import Live, ModelReady, Ready, describe_model, describe_server
from tidemill.server.guard import Guard, Need
from tidemill.server.inference import Inference
from tidemill.server.messages import Response
from tidemill.server.metrics import Metrics
from tidemill.server.observer import Observer
from tidemill.server.openapi import Documented, Known, describe_api
from tidemill.server.operations import Operation
from tidemill.server.orders import Orders
from tidemill.server.protocol import Rejected, encode
from tidemill.server.repository import Change, Entry, Filter, Nothing, Repository, Served
from tidemill.server.trail import Trail

__all__ = ["Call", "Route", "Routes", "make_route"]

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
OCTETS = b"application/octet-stream"
T = TypeVar("T", bound=Struct)
LONGEST = 512
"""Paths up to this length are remembered: they are the client's, and it may be anybody."""


class Call(NamedTuple):
    """A request that was admitted and has arrived."""

    headers: Mapping[bytes, bytes]
    body: bytes
    trail: Trail
    name: str = ""
    """The model in the path …"""
    version: str = ""
    """… and its version, empty for the newest."""
    side: str = ""
    """Whose answers are asked for …"""
    after: str = ""
    """… and the number that they follow."""


class Choice(NamedTuple):
    """What answers a request for a model."""

    served: Served
    inference: Inference
    marks: Mapping[str, str]
    """How its answers are marked."""


class Route(NamedTuple):
    """One path and method."""

    path: str
    """With the names of what varies: `/v2/models/{name}`."""
    pattern: re.Pattern[str]
    method: Literal["GET", "POST"]
    need: Need
    answer: Callable[[Call], Awaitable[Response]]
    told: Operation


class Routes:
    """The handlers; `ready` says whether the process takes requests and stays."""

    def __init__(
        self,
        repository: Repository,
        orders: Orders,
        metrics: Metrics,
        guard: Guard,
        observer: Observer,
        ready: Callable[[], bool],
    ) -> None:
        self._repository = repository
        self._orders = orders
        self._metrics = metrics
        self._guard = guard
        self._observer = observer
        self._ready = ready
        self._routes = self._table()
        # The same few paths come again and again, each looked up at its head and when it is whole.
        self._known = lru_cache(maxsize=1024)(self._find)

    def _table(self) -> list[Route]:
        """Return the routes; the first that fits a path answers."""
        model, version, repo = "/v2/models/{name}", "/versions/{version}", "/v2/repository"
        return [
            make_route(f"{model}/infer", "POST", "infer", self._infer, told.INFER),
            make_route(f"{model}{version}/infer", "POST", "infer", self._infer, told.INFER),
            make_route("/predict", "POST", "infer", self._predict, told.PREDICT_ONLY),
            make_route(f"{model}/predict", "POST", "infer", self._predict, told.PREDICT),
            make_route(f"{model}{version}/predict", "POST", "infer", self._predict, told.PREDICT),
            make_route(model, "GET", "infer", self._describe, told.DESCRIBE),
            make_route(f"{model}{version}", "GET", "infer", self._describe, told.DESCRIBE),
            make_route(f"{model}/ready", "GET", "nothing", self._model_ready, told.MODEL_READY),
            make_route(
                f"{model}{version}/ready", "GET", "nothing", self._model_ready, told.MODEL_READY
            ),
            make_route("/v2", "GET", "infer", self._server, told.SERVER),
            make_route("/v2/health/live", "GET", "nothing", self._live, told.LIVE),
            make_route("/v2/health/ready", "GET", "nothing", self._server_ready, told.READY),
            make_route("/metrics", "GET", "metrics", self._show_metrics, told.METRICS),
            make_route("/openapi.json", "GET", "infer", self._openapi, told.OPENAPI),
            make_route(f"{repo}/index", "POST", "admin", self._index, told.INDEX),
            make_route(f"{repo}/models/{{name}}/load", "POST", "admin", self._load, told.LOAD),
            make_route(
                f"{repo}/models/{{name}}/unload", "POST", "admin", self._unload, told.UNLOAD
            ),
        ]

    def find(self, path: str) -> tuple[Route, dict[str, str]] | None:
        """Return the route of a path and what the path names; None when there is none."""
        return self._known(path) if len(path) <= LONGEST else self._find(path)

    def _find(self, path: str) -> tuple[Route, dict[str, str]] | None:
        for route in self._routes:
            if found := route.pattern.fullmatch(path):
                return route, found.groupdict()
        return None

    def turn_away(self, name: str = "", version: str = "") -> None:
        """Count a request for a model, which the path names, that was refused unread."""
        served = self._repository.find(name, version)
        if served is not None:
            served.counters.turned_away()

    async def _choose(self, name: str, call: Call) -> Choice:
        """Return what does the work of this port; note who asks what if that is compared."""
        served, marks = await self._repository.stand_in(name, call.version)
        if served.answers.wanted:
            call.trail.identity = identify(call.headers, call.body)
        return Choice(served, served.inference, marks)

    async def _infer(self, call: Call) -> Response:
        headers, body = call.headers, call.body
        self._observer.trace(call.trail, headers, told.INFER.name)
        json_size = header_length(headers[HEADER], len(body)) if HEADER in headers else None
        _, inference, marks = await self._choose(call.name, call)
        answer = await inference.answer(
            lambda: rest.read(body, json_size), rest.write, call.trail, marks
        )
        if answer.json_size is None:
            return Response(200, answer.body)
        return Response(200, answer.body, OCTETS, {HEADER: b"%d" % answer.json_size})

    async def _predict(self, call: Call) -> Response:
        self._observer.trace(call.trail, call.headers, told.PREDICT.name)
        name = call.name or self._repository.only()
        served, inference, marks = await self._choose(name, call)
        answer = await inference.answer(
            lambda: served.records.read(call.body), records.write, call.trail, marks
        )
        return Response(200, answer)

    async def _describe(self, call: Call) -> Response:
        served = self._repository.loaded(call.name, call.version)
        model = served.inference.model
        return Response(200, encode(describe_model(model, self._repository.versions(model.name))))

    async def _model_ready(self, call: Call) -> Response:
        """Tell whether a model can be asked without waiting for it to be loaded."""
        ready = await self._orders.ready(call.name, call.version) and self._ready()
        return _state(ModelReady(call.name, ready), ready)

    async def _server(self, _: Call) -> Response:
        return Response(200, encode(describe_server()))

    async def _live(self, _: Call) -> Response:
        return Response(200, encode(Live(True)))

    async def _server_ready(self, _: Call) -> Response:
        ready = self._ready()
        return _state(Ready(ready), ready)

    async def _show_metrics(self, _: Call) -> Response:
        return Response(200, await self._metrics.render(), TEXT)

    async def _openapi(self, _: Call) -> Response:
        """Describe the routes, with the models that can be asked now."""
        routes = [
            Documented(r.path, r.method, self._guard.asks(r.need), r.told) for r in self._routes
        ]
        loaded = {served.key: served for served in self._repository}
        models = [_known(e, loaded.get((e.name, e.version))) for e in self._repository.index()]
        return Response(200, encode(describe_api(routes, models)))

    async def _index(self, call: Call) -> Response:
        wanted = _options(call.body, Filter).ready
        entries = await self._orders.index()
        return Response(200, encode([e for e in entries if not wanted or e.state == "READY"]))

    async def _load(self, call: Call) -> Response:
        await self._orders.load(call.name, _options(call.body, Change).parameters.version)
        return Response(200, encode(Nothing()))

    async def _unload(self, call: Call) -> Response:
        await self._orders.unload(call.name, _options(call.body, Change).parameters.version)
        return Response(200, encode(Nothing()))


def make_route(
    path: str,
    method: Literal["GET", "POST"],
    need: Need,
    answer: Callable[[Call], Awaitable[Response]],
    operation: Operation,
) -> Route:
    """Return a route whose pattern is the path with its names for anything but a slash."""
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
    return Route(path, re.compile(pattern), method, need, answer, operation)


def _known(entry: Entry, served: Served | None) -> Known:
    if served is None:
        return Known(entry.name, entry.version)
    manifest = served.inference.model.manifest
    return Known(entry.name, entry.version, manifest, served.records.body)


def _state(document: Struct, ready: bool) -> Response:
    return Response(200 if ready else 503, encode(document))


def _options(body: bytes, kind: type[T]) -> T:
    """Read an optional body; raises Rejected."""
    try:
        return msgspec.json.decode(body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected("invalid_request", f"the body is not as expected: {error}") from error
