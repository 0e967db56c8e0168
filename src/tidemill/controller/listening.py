"""An HTTP server of one thread a connection, for callers who ask a few times a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Self

from tidemill.errors import Unavailable

__all__ = ["Answer", "HttpServer", "Respond"]

MAX_BODY = 65_536
"""Bytes of a request: a question to the judge has a few hundred."""
POLL_SECONDS = 0.1
"""How late the end of the server is noticed."""
SILENCE_SECONDS = 10.0
"""A client that sends or takes nothing for so long is not waited for."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: {"content-type": "text/plain"})


Respond = Callable[[str, str, str, bytes], Answer]
"""Answers a request by its method, target, Authorization header (empty when it has none) and body;
is called from many threads."""


class HttpServer:
    """Answers while it is entered."""

    def __init__(self, address: tuple[str, int], respond: Respond, name: str) -> None:
        """Take the address, port 0 for a free one; raises Unavailable when it is taken."""

        class Handler(_Handler):
            answer = staticmethod(respond)

        try:
            self._server = ThreadingHTTPServer(address, Handler)
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {address[0]}:{address[1]}: {error.strerror}",
                hint="choose another port; 0 takes a free one",
            ) from error
        self._server.daemon_threads = False  # what was asked is answered before the end
        self._thread = Thread(target=self._server.serve_forever, args=(POLL_SECONDS,), name=name)

    @property
    def port(self) -> int:
        """The port that was taken."""
        return self._server.server_port

    def __enter__(self) -> Self:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    answer: Respond
    timeout = SILENCE_SECONDS

    def do_GET(self) -> None:
        """Answer a request, whatever its method."""
        length = self.headers.get("content-length", "0")
        if "transfer-encoding" in self.headers or not length.isdigit():
            self._send(Answer(411, b"say the body's length: content-length\n"))
        elif int(length) > MAX_BODY:
            self._send(Answer(413, f"the body is larger than {MAX_BODY} bytes\n".encode()))
        else:
            body = self.rfile.read(int(length))
            authorization = self.headers.get("authorization", "")
            self._send(self.answer(self.command, self.path, authorization, body))

    do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_GET  # noqa: N815 - http.server's names

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def version_string(self) -> str:
        """Say who answers, not on which Python."""
        return "tidemill"

    def log_message(self, *_: object) -> None:
        """Say nothing: probes come every few seconds; who answers logs what is worth it."""
