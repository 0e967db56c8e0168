"""What a request must pass before it is read: its head, the server's load, its key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from tidemill.server.auth import Keyring
from tidemill.server.keys import Permission
from tidemill.server.protocol import Rejected
from tidemill.settings.serving import LimitSettings

__all__ = ["CODES", "PENDING", "RETRY", "Guard", "Need", "too_large", "too_slow"]

Need = Literal["nothing", "metrics", "infer", "admin"]
"""What a caller must be allowed: `metrics` as the settings say, `nothing` is open to probes."""

CODES = (
    *("missing_key", "unknown_key", "expired_key", "forbidden", "rate_limited"),
    *("overloaded", "request_timeout", "head_too_large"),
    *("malformed_http", "malformed_message", "draining"),
)
"""Refusals for reasons that are not in a request's content; each is counted."""
PENDING = "pending"
"""Key of a scope's `state`: requests that had arrived and were not answered when this one came."""
RETRY = {b"retry-after": b"1"}


class Guard:
    """Admits requests; `slots` is held while one is answered."""

    def __init__(
        self, limits: LimitSettings, keys: Keyring | None, *, open_metrics: bool = True
    ) -> None:
        self.limits = limits
        self.keys = keys
        self.slots = asyncio.Semaphore(limits.max_in_flight)
        self._open_metrics = open_metrics
        self._most = limits.max_in_flight + limits.max_waiting

    def admit(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes], need: Need) -> None:
        """Let a request pass; raises Rejected with 401, 403, 429, 431 or 503.

        Only work is refused under overload: probes, metrics and orders to the server are answered.
        """
        self._weigh(scope)
        working = need == "infer" and scope["method"] == "POST"
        pending = scope.get("state", {}).get(PENDING, 0) if working else 0
        self.let_in(headers.get(b"authorization", b""), need, pending)

    def let_in(self, authorization: bytes, need: Need, pending: int) -> None:
        """Let a caller pass whose head is in order; raises Rejected with 401, 403, 429 or 503.

        `pending` requests had arrived and were not answered when this one came.
        """
        if pending >= self._most:
            raise Rejected("overloaded", f"{self._most} requests wait already", 503, RETRY)
        if self.keys is None or need == "nothing" or (need == "metrics" and self._open_metrics):
            return
        permission: Permission = "infer" if need == "infer" else "admin"
        self.keys.admit(authorization, permission)

    def _weigh(self, scope: Mapping[str, Any]) -> None:
        size = sum(map(_length, scope["headers"]))
        size += len(scope.get("raw_path", b"")) + len(scope.get("query_string", b""))
        if size > self.limits.max_head_bytes:
            raise too_large(self.limits.max_head_bytes)


def too_large(limit: int) -> Rejected:
    """Build the refusal of a head that is larger than `limit` bytes."""
    return Rejected("head_too_large", f"the request's head is larger than {limit} bytes", 431)


def too_slow(what: str, seconds: float) -> Rejected:
    """Build the refusal of a head or body that did not arrive within `seconds`."""
    return Rejected("request_timeout", f"the {what} did not arrive within {seconds:g} s", 408)


def _length(header: Iterable[bytes]) -> int:
    name, value = header
    return len(name) + len(value)
