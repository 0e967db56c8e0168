"""One HTTP/1.1 connection: what arrives becomes requests, answers leave in the same order.

llhttp parses, strictly: what it refuses (a length that is given twice, a length beside chunks, a
bare line feed, a space before a colon) is refused here with 400, and nothing behind it is read. So
no two parties can disagree about where a request ends.

A client is given bounds in size and time for a head, a body, silence, and for taking its answers. A
request that arrives in one piece, as most do, sets no timer: the connection has one that is moved
only when it fires.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter
from typing import cast

import httptools

from tidemill.server.guard import too_large, too_slow
from tidemill.server.messages import Request, Response, read_path, render
from tidemill.server.protocol import Rejected
from tidemill.server.traffic import Traffic

__all__ = ["Connection"]

DISCARDED = 8
"""A body of up to this many times the limit is read to its end before it is refused: a client that
still sends would see a broken connection instead of the reason."""
LINGER_SECONDS = 1.0
"""A request that is refused by its head has this long to send the rest, for the same reason."""
PIPELINED = 128
"""Requests that are read ahead of their answers; the connection closes after so many."""
NEVER = float("inf")

IDLE, HEAD, BODY, DEAF = range(4)
"""What arrives next: a request, the rest of its head, of its body; nothing that matters."""


class _Deaf(Exception):
    """Stops the parser: what is left of a piece does not matter."""


class Connection(asyncio.Protocol):
    """Reads requests, has them answered one after the other, and bounds what a client takes."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._app = traffic.app
        self._limits = traffic.limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._phase = IDLE
        self._request = Request()
        self._queue: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._stuck = False
        self._paused = False
        self._progress = False
        self._piece = 0
        self._arrived = 0
        self._deadline = NEVER
        self._timer: asyncio.TimerHandle | None = None
        self._wakes = NEVER

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Await a request, as long as between two; those who are connected go before who comes."""
        self._transport = cast("asyncio.Transport", transport)
        if len(self._traffic.connections) >= self._limits.max_connections:
            self._phase = DEAF
            self._app.turn_away()
            self._transport.abort()
            return
        self._traffic.connections.add(self)
        self._allow(self._traffic.keep_alive_seconds)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        """Forget what nobody waits for; what is being answered is answered, and logged."""
        self._phase = DEAF
        self._deadline = NEVER
        if self._timer is not None:
            self._timer.cancel()
        self._drop(keep=1 if self._task else 0)
        self._traffic.connections.discard(self)

    def eof_received(self) -> bool:
        """Answer what was asked by a client that sends no more; TLS knows no half-closed state."""
        if self._phase == BODY:
            self._drop(keep=len(self._queue) - 1)
        self._phase, self._deadline = DEAF, NEVER
        if not self._queue or self._transport.get_extra_info("sslcontext"):
            return False
        self._queue[-1].keep_alive = False
        return True

    def shutdown(self) -> None:
        """Close the connection if it is idle; otherwise its last answer closes it."""
        if not self._queue and self._phase == IDLE:
            self._close()

    def abort(self) -> None:
        """Close the connection whatever is under way."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        for request in (*self._queue, *([self._request] if self._phase == HEAD else [])):
            self._app.cut(request)
        self._drop(keep=0)
        self._transport.abort()

    # What arrives

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self._phase == DEAF:
            return
        if self._phase == IDLE:
            self._phase, self._deadline = HEAD, NEVER
        self._piece = len(data)
        self._progress = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            if not isinstance(error.__context__, _Deaf):
                raise
        except httptools.HttpParserUpgrade:
            pass  # it is answered as any other, and nothing behind it is read
        except httptools.HttpParserError:
            if self._phase != DEAF:
                self._refuse(_malformed())
        if self._phase in (HEAD, BODY):
            self._weigh()
            self._watch()

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self._phase == DEAF:
            raise _Deaf
        self._phase, self._deadline, self._progress = HEAD, NEVER, True
        self._request = Request()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; one that follows a body was not there when the request was admitted."""
        if self._phase == HEAD:
            headers = self._request.headers
            name = name.lower()
            headers[name] = value if name not in headers else headers[name] + b", " + value

    def on_headers_complete(self) -> None:
        """Judge the request before its body is read."""
        request = self._request
        pending = self._traffic.pending
        self._enqueue(request)
        self._phase, self._deadline = BODY, NEVER
        request.method = self._parser.get_method().decode()
        try:
            self._check(request)
            request.wanted = self._app.admit(request, pending)
        except Rejected as refusal:
            request.refusal = refusal
            request.keep_alive &= refusal.code not in ("malformed_http", "head_too_large")
        if request.expects:
            self._encourage()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body, or let it go by."""
        self._progress = True
        if self._phase != BODY:
            return
        request = self._request
        request.size += len(body)
        if request.size > self._traffic.max_body_bytes and request.refusal is None:
            request.refusal = too_long(self._traffic.max_body_bytes)
        if request.refusal is not None:
            request.body = b""
            if request.size > DISCARDED * self._traffic.max_body_bytes:
                self._refuse(request.refusal)
        elif not request.wanted:
            return
        elif not request.body:
            request.body = body
        else:
            if isinstance(request.body, bytes):
                request.body = bytearray(request.body)
            request.body += body

    def on_message_complete(self) -> None:
        """Have the request answered, in its turn."""
        if self._phase != BODY:
            return
        request = self._request
        request.whole = True
        request.expects = False
        if len(self._queue) >= PIPELINED:
            request.keep_alive = False
        self._phase, self._deadline = IDLE if request.keep_alive else DEAF, NEVER
        self._advance()

    def _check(self, request: Request) -> None:
        """Read what of a head concerns the connection; raises Rejected."""
        headers = request.headers
        version = self._parser.get_http_version()
        request.keep_alive = version == "1.1" and self._parser.should_keep_alive()
        if b"expect" in headers and version == "1.1":
            request.expects = headers[b"expect"].lower() == b"100-continue"
        large = self._piece > self._limits.max_head_bytes or not self._progress
        if large and request.weigh() > self._limits.max_head_bytes:
            raise too_large(self._limits.max_head_bytes)
        try:
            request.path = read_path(request.target)
        except httptools.HttpParserError as error:
            raise _malformed() from error
        if version == "1.1":
            if b"," in headers.get(b"host", b","):
                raise Rejected("malformed_http", "a request needs the header 'Host', once")
        elif version != "1.0" or b"transfer-encoding" in headers:
            raise _malformed()
        if self._parser.should_upgrade():
            request.keep_alive = False
            if b"content-length" in headers or b"transfer-encoding" in headers:
                raise Rejected("malformed_http", "a request with a body cannot ask for an upgrade")
        if int(headers.get(b"content-length", 0)) > self._traffic.max_body_bytes:
            raise too_long(self._traffic.max_body_bytes)

    # What leaves

    def _enqueue(self, request: Request) -> None:
        self._queue.append(request)
        self._traffic.pending += 1
        self._balance()

    def _advance(self) -> None:
        """Answer what is whole, in the order of arrival, while the client takes its answers."""
        queue = self._queue
        while queue and queue[0].whole and self._task is None and not self._stuck:
            request = queue[0]
            if request.refusal is None:
                request.trail.arrived = perf_counter()
                self._task = self._loop.create_task(self._answer(request))
            else:
                self._send(request, self._app.refuse(request, request.refusal))

    async def _answer(self, request: Request) -> None:
        response = await self._app.answer(request)
        self._task = None
        self._send(request, response)
        self._advance()

    def _send(self, request: Request, response: Response) -> None:
        self._queue.popleft()
        self._traffic.pending -= 1
        if self._transport.is_closing():
            return
        closes = not request.keep_alive or (self._app.draining and not self._queue)
        self._transport.write(
            render(response, self._traffic.date, closes=closes, bodyless=request.method == "HEAD")
        )
        if closes:
            self._close()
            return
        if not self._queue and self._phase == IDLE:
            self._allow(self._traffic.keep_alive_seconds)
        self._balance()
        self._encourage()

    def _encourage(self) -> None:
        """Ask for the body that a client holds back; one that is refused need not be sent."""
        if not self._queue or not self._queue[0].expects:
            return
        request = self._queue[0]
        request.expects = False
        if request.refusal is not None:
            self._refuse(request.refusal)
        else:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _refuse(self, refusal: Rejected) -> None:
        """Refuse the request that is arriving, once those before it are answered, and close."""
        if self._phase != BODY:
            self._request = Request()
            self._enqueue(self._request)
        request = self._request
        request.refusal = request.refusal or refusal
        request.whole, request.keep_alive = True, False
        self._phase, self._deadline = DEAF, NEVER
        self._advance()

    def _close(self) -> None:
        """Close once the answers are written, and anyhow after a while."""
        self._drop(keep=0)
        self._phase = DEAF
        self._allow(self._traffic.keep_alive_seconds)
        self._transport.close()

    def _drop(self, keep: int) -> None:
        while len(self._queue) > keep:
            self._queue.pop()
            self._traffic.pending -= 1

    # How much, how long

    def pause_writing(self) -> None:
        """Answer and read nothing more to a client that does not take its answers."""
        self._stuck = True
        self._balance()
        self._allow(self._traffic.keep_alive_seconds)

    def resume_writing(self) -> None:
        """Go on answering."""
        self._stuck = False
        self._deadline = NEVER
        self._advance()
        self._balance()

    def _balance(self) -> None:
        """Read only while at most one request waits behind the one that is being answered."""
        pause = self._stuck or len(self._queue) > 1
        if pause is self._paused or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
            self._deadline = NEVER
        else:
            self._transport.resume_reading()
            self._watch()

    def _weigh(self) -> None:
        """Bound what arrives and is no body: a head, or what follows the last chunk."""
        self._arrived = 0 if self._progress else self._arrived + self._piece
        if self._arrived > self._limits.max_head_bytes:
            self._refuse(too_large(self._limits.max_head_bytes))

    def _watch(self) -> None:
        """Bound the time of what arrives; it begins once and goes on over the pieces."""
        if self._deadline != NEVER or self._paused:
            return
        if self._phase == HEAD:
            self._allow(self._limits.head_seconds)
        elif self._phase == BODY:
            refused = self._request.refusal is not None
            self._allow(LINGER_SECONDS if refused else self._limits.body_seconds)

    def _allow(self, seconds: float) -> None:
        """Give the client so long for what comes next."""
        self._deadline = self._loop.time() + seconds
        if self._wakes > self._deadline:
            if self._timer is not None:
                self._timer.cancel()
            self._sleep()

    def _sleep(self) -> None:
        self._wakes = self._deadline
        self._timer = self._loop.call_at(self._wakes, self._wake)

    def _wake(self) -> None:
        self._timer, self._wakes = None, NEVER
        if self._deadline == NEVER:
            return
        if self._loop.time() < self._deadline:
            self._sleep()
        elif self._stuck or self._transport.is_closing():
            self._transport.abort()
        elif self._phase == HEAD:
            self._refuse(too_slow("request's head", self._limits.head_seconds))
        elif self._phase == BODY:
            self._refuse(too_slow("body", self._limits.body_seconds))
        else:
            self._transport.close()


def too_long(limit: int) -> Rejected:
    """Build the refusal of a body that is larger than `limit` bytes."""
    return Rejected("body_too_large", f"the body is larger than {limit} bytes", 413)


def _malformed() -> Rejected:
    return Rejected("malformed_http", "this is not a valid HTTP/1.1 request")
