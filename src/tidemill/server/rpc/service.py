"""The calls of `inference.GRPCInferenceService`: what each needs, and what it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from google.protobuf.json_format import ParseDict

from tidemill.server.documents import describe_model, describe_server
from tidemill.server.guard import Need
from tidemill.server.orders import Orders
from tidemill.server.repository import Repository
from tidemill.server.rpc.schema import Message, message
from tidemill.server.rpc.tensors import read, write
from tidemill.server.trail import Trail

__all__ = ["Method", "Service"]


class Method(NamedTuple):
    """One call."""

    name: str
    need: Need
    request: type[Any]
    answer: Callable[[Message, Trail], Awaitable[Message]]
    """Takes the request and what is known of it; raises Rejected."""


class Service:
    """The calls; `ready` says whether the process takes requests and stays.

    A streaming call, shared memory, statistics and configuration are not offered: gRPC answers
    UNIMPLEMENTED.
    """

    def __init__(self, repository: Repository, orders: Orders, ready: Callable[[], bool]) -> None:
        self._repository = repository
        self._orders = orders
        self._ready = ready
        self.methods = [
            _method("ServerLive", "nothing", self._live),
            _method("ServerReady", "nothing", self._server_ready),
            _method("ModelReady", "nothing", self._model_ready),
            _method("ServerMetadata", "infer", self._server),
            _method("ModelMetadata", "infer", self._describe),
            _method("ModelInfer", "infer", self._infer),
            _method("RepositoryIndex", "admin", self._index),
            _method("RepositoryModelLoad", "admin", self._load),
            _method("RepositoryModelUnload", "admin", self._unload),
        ]

    async def _infer(self, request: Message, trail: Trail) -> Message:
        served, marks = await self._repository.stand_in(request.model_name, request.model_version)
        return await served.inference.answer(lambda: read(request), write, trail, marks)

    async def _live(self, _: Message, __: Trail) -> Message:
        return message("ServerLiveResponse")(live=True)

    async def _server_ready(self, _: Message, __: Trail) -> Message:
        return message("ServerReadyResponse")(ready=self._ready())

    async def _model_ready(self, request: Message, _: Trail) -> Message:
        """Tell whether a model can be asked without waiting for it to be loaded."""
        ready = await self._orders.ready(request.name, request.version) and self._ready()
        return message("ModelReadyResponse")(ready=ready)

    async def _server(self, _: Message, __: Trail) -> Message:
        return _filled("ServerMetadataResponse", msgspec.to_builtins(describe_server()))

    async def _describe(self, request: Message, _: Trail) -> Message:
        served = self._repository.loaded(request.name, request.version)
        model = served.inference.model
        document = msgspec.to_builtins(describe_model(model, self._repository.versions(model.name)))
        document["properties"] = document.pop("parameters")
        return _filled("ModelMetadataResponse", document)

    async def _index(self, request: Message, _: Trail) -> Message:
        entries = await self._orders.index()
        found = [msgspec.to_builtins(e) for e in entries if not request.ready or e.state == "READY"]
        return _filled("RepositoryIndexResponse", {"models": found})

    async def _load(self, request: Message, _: Trail) -> Message:
        await self._orders.load(request.model_name, _version(request))
        return message("RepositoryModelLoadResponse")()

    async def _unload(self, request: Message, _: Trail) -> Message:
        await self._orders.unload(request.model_name, _version(request))
        return message("RepositoryModelUnloadResponse")()


def _method(
    name: str, need: Need, answer: Callable[[Message, Trail], Awaitable[Message]]
) -> Method:
    return Method(name, need, message(f"{name}Request"), answer)


def _version(request: Message) -> str:
    """Return the version that an order names; Triton's messages have no field for it."""
    if "version" not in request.parameters:
        return ""
    return str(request.parameters["version"].string_param)


def _filled(name: str, document: dict[str, Any]) -> Message:
    """Return a message from a document of REST, as far as the message has its fields."""
    return ParseDict(document, message(name)(), ignore_unknown_fields=True)
