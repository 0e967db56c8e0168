"""What a request must pass before it is read: the server's load, its key."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol

from tidemill.server.deadlines import Deadlines
from tidemill.server.keys import Permission
from tidemill.server.messages import Request
from tidemill.server.protocol import Rejected
from tidemill.server.trail import Trail
from tidemill.settings.serving import LimitSettings

__all__ = ["CODES", "RETRY", "Doorkeeper", "Guard", "Need", "too_large", "too_slow"]

Need = Literal["nothing", "metrics", "infer", "admin"]
"""What a caller must be allowed: `metrics` as the settings say, `nothing` is open to probes."""

CODES = (
    *("missing_key", "unknown_key", "expired_key", "invalid_token", "expired_token"),
    *("forbidden", "rate_limited", "quota_exceeded"),
    *("overloaded", "deadline_exceeded", "request_timeout", "head_too_large"),
    *("malformed_http", "malformed_message", "draining"),
    *("body_too_large", "unsupported_encoding", "not_loaded"),
)
"""Refusals for reasons that are not in a request's content; each is counted."""
RETRY = {b"retry-after": b"1"}
UNBOUNDED: AbstractContextManager[None] = nullcontext()


class Doorkeeper(Protocol):
    """Tells who may ask what."""

    def admit(self, authorization: bytes, needed: Permission) -> str:
        """Let a request with this header pass, and return whose it is; raises Rejected."""
        ...

    def recognise(self, authorization: bytes, needed: Permission) -> str:
        """Do the same, and count nothing: neither rate nor quota."""
        ...

    def reload(self) -> None:
        """Once a second: look for keys that changed; returns at once."""
        ...


class Guard:
    """Admits requests; `slots` is held while one is answered."""

    def __init__(
        self, limits: LimitSettings, keys: Doorkeeper | None, *, open_metrics: bool = True
    ) -> None:
        self.limits = limits
        self.keys = keys
        self.slots = asyncio.Semaphore(limits.max_in_flight)
        self._deadlines = Deadlines(limits.request_seconds)
        self._open_metrics = open_metrics
        self._most = limits.max_in_flight + limits.max_waiting

    def asks(self, need: Need) -> bool:
        """Tell whether a caller must show a key for this."""
        return (
            self.keys is not None
            and need != "nothing"
            and not (need == "metrics" and self._open_metrics)
        )

    def in_time(self, need: Need, trail: Trail) -> AbstractContextManager[None]:
        """Return a context in which a request is answered; raises Rejected with 504 when late.

        An order takes as long as it takes: a model is loaded, or requests are answered first.
        """
        return self._deadlines.of(trail) if need == "infer" else UNBOUNDED

    def admit(self, request: Request, pending: int, need: Need) -> str:
        """Let a request pass, and return whose it is, if it was asked for a key.

        Raises Rejected with 401, 403, 429 or 503.

        `pending` requests had arrived and were not answered when it came. Only work is refused
        under overload: probes, metrics and orders to the server are answered.
        """
        working = need == "infer" and request.method == "POST"
        authorization = request.headers.get(b"authorization", b"")
        return self.let_in(authorization, need, pending if working else 0)

    def let_in(self, authorization: bytes, need: Need, pending: int) -> str:
        """Let a caller pass whose head is in order, and return who it is.

        `pending` calls for work had arrived and were not answered when this one came. Raises
        Rejected as `admit` does.
        """
        if pending >= self._most:
            raise Rejected("overloaded", f"{self._most} requests wait already", 503, RETRY)
        if self.keys is None or not self.asks(need):
            return ""
        permission: Permission = "infer" if need == "infer" else "admin"
        return self.keys.admit(authorization, permission)


def too_large(limit: int) -> Rejected:
    """Build the refusal of a head that is larger than `limit` bytes."""
    return Rejected("head_too_large", f"the request's head is larger than {limit} bytes", 431)


def too_slow(what: str, seconds: float) -> Rejected:
    """Build the refusal of a head or body that did not arrive within `seconds`."""
    return Rejected("request_timeout", f"the {what} did not arrive within {seconds:g} s", 408)
