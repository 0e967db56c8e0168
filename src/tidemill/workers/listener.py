"""The listening socket, and how it is closed without resetting anybody.

The kernel completes connections before the server accepts them. Closing the socket resets those
that wait, although their clients may already have sent a request: under load that was five of
eight. So new handshakes are turned away first, the waiting ones are accepted, then it is closed.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from contextlib import suppress

from tidemill.errors import Unavailable

__all__ = ["BACKLOG", "listen", "listen_together", "reserve", "turn_away"]

BACKLOG = 2048
"""Connections that the kernel holds until they are accepted."""

SO_ATTACH_FILTER = 26
DROP_SYN = (
    (0x30, 0, 0, 13),  # load the flags of the TCP header
    (0x54, 0, 0, 0x12),  # keep SYN and ACK
    (0x15, 0, 1, 0x02),  # SYN alone?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # pass
)
"""Classic BPF, https://www.kernel.org/doc/html/latest/networking/filter.html."""


def listen(host: str, port: int, option: str = "--port") -> socket.socket:
    """Return a listening socket; raises Unavailable, which names `option`, if the port is taken."""
    bound = _bind(host, port, option)
    bound.listen(BACKLOG)
    return bound


def listen_together(host: str, port: int, count: int) -> list[socket.socket]:
    """Return listening sockets of one port, among which the kernel shares the connections out.

    Raises Unavailable when the port is taken. Of one socket that all workers accept from, whoever
    wakes first took all of 32 connections that came together.
    """
    first = reserve(host, port, "--port")
    port = first.getsockname()[1]
    found = [first, *(_bind(host, port, "--port", shared=True) for _ in range(count - 1))]
    for bound in found:
        bound.listen(BACKLOG)
    return found


def reserve(host: str, port: int, option: str) -> socket.socket:
    """Return a socket that keeps a port for others of this user which bind it with SO_REUSEPORT.

    It gets no connections as long as it does not listen. Raises Unavailable, which names `option`,
    when the port is taken, be it by one who would share it.
    """
    if port:
        _bind(host, port, option).close()
    return _bind(host, port, option, shared=True)


def _bind(host: str, port: int, option: str, *, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise Unavailable(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint=f"choose another port with {option}; 0 takes a free one",
        ) from error
    return bound


def turn_away(bound: socket.socket) -> None:
    """Drop the first packet of new connections; handshakes under way still complete.

    The client's kernel sends that packet again after a second, and is then refused or meets the
    next server. Where there is no such filter (not Linux) nothing happens.
    """
    program = b"".join(struct.pack("HBBI", *step) for step in DROP_SYN)
    steps = ctypes.create_string_buffer(program)
    with suppress(OSError):
        bound.setsockopt(
            socket.SOL_SOCKET,
            SO_ATTACH_FILTER,
            struct.pack("HL", len(DROP_SYN), ctypes.addressof(steps)),
        )
