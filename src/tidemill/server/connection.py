"""One connection: uvicorn's, with bounds on what arrives, which uvicorn does not have.

A head that never ends would take memory, a request that never arrives a connection, for as long as
a client likes. A request that arrives in one piece, as most do, sets no timer.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tidemill.server.app import App
from tidemill.server.guard import PENDING, too_large, too_slow
from tidemill.server.protocol import Rejected

__all__ = ["Connection"]


class Connection(HttpToolsProtocol):
    """Refuses heads that are too large or too slow, and what is no HTTP, with the stable codes."""

    _deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _began = False
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Close a connection that stays silent as one that is idle between requests."""
        super().connection_made(transport)
        self._served = cast("App", self.config.app)
        self._limits = self._served.guard.limits
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._disarm()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on; the head of a request may end in this piece, or be under way after it."""
        self._began = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and not self._began:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.max_head_bytes:
                self._refuse(too_large(self._limits.max_head_bytes))
                return
        self._arm()

    def on_message_begin(self) -> None:
        """Count the head's bytes from the next piece on."""
        super().on_message_begin()
        self._in_head = self._began = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """Note how many requests are pending, and answer this one."""
        self._in_head = False
        self._disarm()
        cast("dict[str, Any]", self.scope)["state"][PENDING] = len(self.tasks)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Stop the time of the body."""
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuse what is no HTTP."""
        self._refuse(Rejected("malformed_http", "this is not a valid HTTP/1.1 request"))

    def _between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _arm(self) -> None:
        """Set the time of what is arriving, unless it runs or nothing is."""
        if self._deadline is not None:
            return
        if self._in_head or self._between_requests():
            refusal = too_slow("request's head", self._limits.head_seconds)
            self._deadline = self.loop.call_later(self._limits.head_seconds, self._late, refusal)
        elif self.cycle.more_body:
            refusal = too_slow("body", self._limits.body_seconds)
            self._deadline = self.loop.call_later(self._limits.body_seconds, self._late, refusal)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self, refusal: Rejected) -> None:
        self._deadline = None
        if self.pipeline:  # nothing is read while requests before it are answered
            self._arm()
        else:
            self._refuse(refusal)

    def _refuse(self, refusal: Rejected) -> None:
        """Answer and close; an answer that is under way to the request before goes out first."""
        self._disarm()
        if self.transport.is_closing():
            return
        self._served.count(refusal)
        if self.cycle is not None and self.cycle.more_body and self.cycle.response_started:
            self.transport.close()
            return
        if self.pipeline or (not self._between_requests() and not self.cycle.more_body):
            self.flow.pause_reading()
            self.shutdown()
            return
        body = refusal.body()
        status = HTTPStatus(refusal.status)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()
