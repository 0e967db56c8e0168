"""The cluster's name server: A records of services, over UDP (RFC 1035)."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from typing import Any, cast

from tests.cluster.node.services import Services

A, IN, TTL = 1, 1, 5
HEADER = 12
ANSWER, NO_SUCH_NAME = 0x8580, 0x8583
POINTER = b"\xc0\x0c"
"""The name of the question, again."""


class NameServer(asyncio.DatagramProtocol):
    """Answers A with addresses, other types of a known name with nothing, else: no such name."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        """Answer one question."""
        self._transport.sendto(answer(data, self._services), addr)


def answer(query: bytes, services: Services) -> bytes:
    """Return the answer to a query of one question."""
    labels, at = [], HEADER
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    question = query[HEADER : at + 5]
    (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
    found = services.resolve(".".join(labels))
    flags = NO_SUCH_NAME if found is None else ANSWER
    records = [
        POINTER + struct.pack("!HHIH", A, IN, TTL, 4) + ipaddress.IPv4Address(address).packed
        for address in (found or [])
        if kind == A
    ]
    counts = struct.pack("!HHHHH", flags, 1, len(records), 0, 0)
    return query[:2] + counts + question + b"".join(records)
