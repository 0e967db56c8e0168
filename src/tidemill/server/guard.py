"""What a request must pass before it is read: its head, the server's load, its key."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from tidemill.server.keys import Permission
from tidemill.server.protocol import Rejected
from tidemill.settings.serving import LimitSettings

__all__ = ["CODES", "PENDING", "Doorkeeper", "Guard", "too_large", "too_slow"]

CODES = (
    *("missing_key", "unknown_key", "expired_key", "invalid_token", "expired_token"),
    *("forbidden", "rate_limited", "quota_exceeded"),
    *("overloaded", "request_timeout", "head_too_large", "malformed_http"),
)
"""Refusals for reasons that are not in a request's content; each is counted."""
PENDING = "pending"
"""Key of a scope's `state`: requests that had arrived and were not answered when this one came."""
RETRY = {b"retry-after": b"1"}


class Doorkeeper(Protocol):
    """Tells who may ask what."""

    def admit(self, authorization: bytes, needed: Permission) -> None:
        """Let a request with this header pass; raises Rejected with 401, 403 or 429."""
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
        self._open_metrics = open_metrics
        self._most = limits.max_in_flight + limits.max_waiting

    def admit(
        self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes], *, infers: bool
    ) -> None:
        """Let a request pass; raises Rejected with 401, 403, 429, 431 or 503.

        Answers to probes are open and never overloaded.
        """
        self._weigh(scope)
        path = scope["path"]
        if infers and scope.get("state", {}).get(PENDING, 0) >= self._most:
            raise Rejected("overloaded", f"{self._most} requests wait already", 503, RETRY)
        if self.keys is None or path.startswith("/v2/health/") or path.endswith("/ready"):
            return
        if path == "/metrics":
            if not self._open_metrics:
                self.keys.admit(headers.get(b"authorization", b""), "admin")
            return
        self.keys.admit(headers.get(b"authorization", b""), "infer")

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
