"""What a worker is started with: its number, and what of the parent's it inherits."""

from __future__ import annotations

from typing import NamedTuple, Self

__all__ = ["Place"]


class Place(NamedTuple):
    """One worker's place; all but the first and last are file descriptors."""

    number: int
    wire: int
    """One end of a pair of sockets, whose other end the parent holds."""
    cells: int
    """The file of numbers that all workers share."""
    sockets: tuple[int, ...]
    """A listening socket for each worker, by number."""
    grpc_port: int | None = None
    """Port of gRPC, which all workers bind; None without gRPC."""

    @property
    def inherited(self) -> tuple[int, ...]:
        """The descriptors that the worker's process must inherit."""
        return (self.wire, self.cells, *self.sockets)

    def __str__(self) -> str:
        """Write it for a command line, as `parse` reads it."""
        port = -1 if self.grpc_port is None else self.grpc_port
        return ",".join(map(str, (self.number, self.wire, self.cells, port, *self.sockets)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote; raises ValueError."""
        number, wire, cells, port, *sockets = map(int, text.split(","))
        return cls(number, wire, cells, tuple(sockets), None if port < 0 else port)
