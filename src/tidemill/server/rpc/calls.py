"""Who comes in, and how a call ends: gRPC's side of what `app` does for HTTP.

A handler reads the one message of its call itself, although every call is unary: so the caller is
admitted before the message is read, and a message that does not come does not hold the call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from functools import partial
from time import monotonic, perf_counter
from typing import Any

import grpc
import structlog

from tidemill.errors import TidemillError
from tidemill.server.app import App
from tidemill.server.guard import RETRY, too_slow
from tidemill.server.operations import INFER
from tidemill.server.protocol import Rejected
from tidemill.server.rpc.schema import SERVICE, parse
from tidemill.server.rpc.service import Method
from tidemill.server.trail import GONE, Trail

__all__ = ["Calls"]

log = structlog.get_logger(__name__)

Status = grpc.StatusCode
STATUS = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    408: Status.DEADLINE_EXCEEDED,
    429: Status.RESOURCE_EXHAUSTED,
    500: Status.INTERNAL,
    503: Status.UNAVAILABLE,
    504: Status.DEADLINE_EXCEEDED,
}
"""Of a refusal's HTTP status."""
SCORE = "ModelInfer"
"""The call that scores rows: it alone is traced and counted for a model, as of REST's requests."""
CONTEXT = ("traceparent", "tracestate")
CODE = "error-code"
"""Trailing metadata: the stable code, which the message starts with too."""


class Calls(grpc.GenericRpcHandler):
    """The handlers; gRPC answers UNIMPLEMENTED for every other path.

    Once `closing` is set, calls that come are refused with a reason, probes excepted.
    """

    def __init__(self, methods: Iterable[Method], app: App) -> None:
        """`app` is HTTP's application: its guard, counters, observer and models hold here too."""
        self._app = app
        self._guard = app.guard
        self._observer = app.observer
        self.closing = False
        self._pending = 0
        self._arriving: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._handlers: dict[str, Any] = {
            f"/{SERVICE}/{method.name}": grpc.stream_unary_rpc_method_handler(
                partial(self._handle, method)
            )
            for method in methods
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Return the handler of a call; gRPC calls this for each."""
        return self._handlers.get(details.method)

    def expire(self) -> None:
        """Give up calls whose message has not come in time; to be called now and then."""
        before = monotonic() - self._guard.limits.body_seconds
        for task, began in self._arriving.items():
            if began > before:
                break
            self._late.add(task)
            task.cancel()

    async def _handle(self, method: Method, _: Any, context: Any) -> bytes:
        """Answer one call, or end it with a status that tells why not."""
        trail = Trail("gRPC", f"/{SERVICE}/{method.name}")
        try:
            answer = await self._answer(method, context, trail)
            context.set_trailing_metadata(tuple(_texts(trail.headers)))
            self._observer.end(trail, 200, len(answer))
            return answer
        except Rejected as error:
            refusal = error
        except TidemillError as error:
            log.error("call failed", call=method.name, reason=str(error))
            refusal = Rejected("unavailable", "the server cannot answer now", 503)
        except Exception:  # a fault of ours: the client gets a status, and nothing of the fault
            log.exception("call failed", call=method.name)
            refusal = Rejected("internal", "the server failed; its log says why", 500)
        except asyncio.CancelledError:
            self._observer.end(trail, GONE, 0)
            raise
        self._app.count(refusal)
        trail.code = refusal.code
        self._observer.end(trail, refusal.status, 0)
        told = _texts({**refusal.headers, **trail.headers})
        return await context.abort(  # type: ignore[no-any-return]  # it raises
            STATUS.get(refusal.status, Status.INTERNAL),
            f"{refusal.code}: {refusal.message}",
            trailing_metadata=((CODE, refusal.code), *told),
        )

    async def _answer(self, method: Method, context: Any, trail: Trail) -> bytes:
        if self.closing and method.need != "nothing":
            raise Rejected("draining", "the server is going away; ask another", 503, RETRY)
        metadata = dict(context.invocation_metadata())
        authorization = metadata.get("authorization", "").encode()
        trail.key = self._admit(method, authorization)
        self._pending += 1
        try:
            content = await self._read(context)
            trail.arrived, trail.received = perf_counter(), len(content)
            request = parse(method.request, content)
            if method.need == "nothing":
                return await self._ask(method, request, trail)
            if method.name == SCORE:
                headers = {k.encode(): v.encode() for k, v in metadata.items() if k in CONTEXT}
                self._observer.trace(trail, headers, INFER.name)
            return await self._work(method, request, trail)
        finally:
            self._pending -= 1

    async def _work(self, method: Method, request: Any, trail: Trail) -> bytes:
        """Answer a call in its turn; raises Rejected, also when it took too long."""
        try:
            with self._guard.in_time(method.need, trail):
                async with self._guard.slots:
                    return await self._ask(method, request, trail)
        except Rejected:
            if trail.late and not trail.model and method.name == SCORE:
                served = self._app.repository.find(request.model_name, request.model_version)
                if served is not None:
                    served.counters.turned_away()
            raise

    def _admit(self, method: Method, authorization: bytes) -> str:
        """Let a call pass, and return whose it is; raises Rejected."""
        pending = self._pending if method.need == "infer" else 0
        try:
            return self._guard.let_in(authorization, method.need, pending)
        except Rejected as refusal:
            if refusal.code == "overloaded" and method.name == SCORE:
                self._turn_away()
            raise

    def _turn_away(self) -> None:
        """Count a refused call for its model, where only one version is loaded.

        Which one it is for stands in the message, and that was not read.
        """
        loaded = list(self._app.repository)
        if len(loaded) == 1:
            loaded[0].counters.turned_away()

    async def _ask(self, method: Method, request: Any, trail: Trail) -> bytes:
        return (await method.answer(request, trail)).SerializeToString()  # type: ignore[no-any-return]

    async def _read(self, context: Any) -> bytes:
        """Return the message of a call; raises Rejected when none comes in time."""
        task = asyncio.current_task()
        assert task is not None
        self._arriving[task] = monotonic()
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if task not in self._late:
                raise  # the caller has gone, or its deadline is over
            raise too_slow("message", self._guard.limits.body_seconds) from None
        finally:
            del self._arriving[task]
            self._late.discard(task)
        if message is grpc.aio.EOF:
            raise Rejected("malformed_message", "the call ended without a message")
        return message  # type: ignore[no-any-return]


def _texts(headers: Mapping[bytes, bytes]) -> list[tuple[str, str]]:
    """Return headers of HTTP as metadata of gRPC."""
    return [(name.decode(), value.decode()) for name, value in headers.items()]
