"""What is known of one request along its way: for its trace, its log row and its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any

from msgspec import Struct, field

from tidemill.server.answers import Identity
from tidemill.server.protocol import NONE

__all__ = ["GONE", "Trail"]

GONE = 499
"""Status in the access log alone: nobody waits for the answer any more."""
UNTRACED: AbstractContextManager[Any] = nullcontext()


class Trail(Struct):
    """Filled by whoever learns a part; what is empty was never reached."""

    method: str = ""
    path: str = ""
    trace_id: str | None = None
    """W3C trace id, 32 hexadecimal digits."""
    request_id: str = ""
    key: str = ""
    """Id of the API key, or `token:` and a hash of the token's subject."""
    model: str = ""
    version: str = ""
    revision: str = ""
    rows: int = 0
    identity: Identity | None = None
    """Set if the answer is to be compared with another version's …"""
    scores: Sequence[float] = ()
    """… and what was answered."""
    received: int = 0
    """Bytes of the body."""
    code: str = ""
    """Why the request was refused."""
    started: float = field(default_factory=perf_counter)
    """When its first byte was read, seconds of `perf_counter` …"""
    arrived: float = field(default_factory=perf_counter)
    """… and when all of it was, and those before it on its connection were answered: what it takes
    from then on is the server's time."""
    late: bool = False
    """It was not answered within `serving.limits.request_seconds`."""
    headers: Mapping[bytes, bytes] = field(default_factory=lambda: NONE)
    """What the answer carries of it: HTTP's headers, gRPC's trailing metadata."""
    span: Any = None
    """The request's span, if it is traced; `steps` begins one below it."""
    steps: Callable[[str, Trail], AbstractContextManager[Any]] | None = None

    def step(self, name: str) -> AbstractContextManager[Any]:
        """Return a context in which a part of the work is done: a span, if the request has one."""
        return UNTRACED if self.steps is None else self.steps(name, self)
