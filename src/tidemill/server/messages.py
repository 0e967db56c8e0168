"""HTTP/1.1 messages: a request as the application sees it, a response as it goes out.

https://www.rfc-editor.org/rfc/rfc9110, https://www.rfc-editor.org/rfc/rfc9112.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import unquote

import httptools

from tidemill.server.protocol import NONE, Rejected
from tidemill.server.trail import Trail

__all__ = ["JSON", "Request", "Response", "read_path", "render"]

JSON = b"application/json"
PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


class Request:
    """One request; the connection fills it while it arrives."""

    __slots__ = (
        *("body", "expects", "headers", "keep_alive", "method", "path", "refusal", "size"),
        *("target", "trail", "wanted", "whole"),
    )

    def __init__(self) -> None:
        self.method = ""
        self.target = b""
        """As it was sent: path and query."""
        self.path = ""
        """Decoded, without the query."""
        self.headers: dict[bytes, bytes] = {}
        """By name in lower case; the values of a name that is repeated are joined by commas."""
        self.body: bytes | bytearray = b""
        self.wanted = False
        """Whether the body is kept."""
        self.size = 0
        """Bytes of the body that arrived, kept or not."""
        self.keep_alive = True
        self.expects = False
        """The client waits for a word before it sends the body."""
        self.refusal: Rejected | None = None
        """Why it is not answered; its body is let go by."""
        self.trail = Trail()
        """What is learned of it."""
        self.whole = False
        """Nothing more is waited for: it can be answered or refused."""

    def weigh(self) -> int:
        """Return the size of the head: target, names and values."""
        return len(self.target) + sum(
            len(name) + len(value) for name, value in self.headers.items()
        )


class Response(NamedTuple):
    """What the application answers."""

    status: int
    body: bytes
    kind: bytes = JSON
    """Media type of the body."""
    headers: Mapping[bytes, bytes] = NONE
    """Others; names are in lower case."""


def read_path(target: bytes) -> str:
    """Return the decoded path of a request's target; raises HttpParserError when there is none."""
    if target.startswith(b"/"):
        path = target.partition(b"?")[0].partition(b"#")[0]
    else:
        path = httptools.parse_url(target).path or b"/"
    return unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii")


def render(response: Response, date: bytes, *, closes: bool, bodyless: bool) -> bytes:
    """Return a response as bytes; `bodyless` answers HEAD: the length, but not the body."""
    status, body, kind, headers = response
    head = b"HTTP/1.1 %d %b\r\ndate: %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n" % (
        *(status, PHRASES[status], date, kind, len(body)),
    )
    for name, value in headers.items():
        head += b"%b: %b\r\n" % (name, value)
    if closes:
        head += b"connection: close\r\n"
    return head + b"\r\n" if bodyless else b"%b\r\n%b" % (head, body)
