"""The body of a request: read within a size, or let go by."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tidemill.server.protocol import Rejected

__all__ = ["Gone", "Receive", "linger", "read"]

Receive = Callable[[], Awaitable[Mapping[str, Any]]]

DISCARDED = 8
"""A body of up to this many times the limit is read to its end before it is refused: a client that
still sends would see a broken connection instead of the reason."""
LINGER_SECONDS = 1.0
"""A request that is refused by its head has this long to send the rest, for the same reason."""


class Gone(Exception):
    """The client closed the connection before its request was complete."""


async def read(receive: Receive, limit: int) -> bytes:
    """Return the body; raises Rejected when it is larger than `limit` bytes, and Gone.

    How long it may take is the connection's matter.
    """
    chunks: list[bytes] = []
    size = 0
    more = True
    while more and size <= DISCARDED * limit:
        message = await _next(receive)
        size += len(message["body"])
        more = message.get("more_body", False)
        if size <= limit:
            chunks.append(message["body"])
    if size > limit:
        raise Rejected("body_too_large", f"the body is larger than {limit} bytes", 413)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def linger(receive: Receive, limit: int) -> bool:
    """Let the body go by; return whether it came to its end, so that the connection can stay."""
    size = 0
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while size <= limit:
                message = await _next(receive)
                size += len(message["body"])
                if not message.get("more_body", False):
                    return True
    except TimeoutError:
        pass
    return False


async def _next(receive: Receive) -> Mapping[str, Any]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise Gone
    return message
