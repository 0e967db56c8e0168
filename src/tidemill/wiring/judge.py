"""The judge: store, eyes on the servers, HTTP, who may ask."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Lock
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from tidemill.adapters.kubernetes.access import connect
from tidemill.adapters.kubernetes.arms import Arms
from tidemill.adapters.kubernetes.client import KubeClient
from tidemill.adapters.store.attempts import StoredAttempts
from tidemill.controller.judge import Judge
from tidemill.controller.judge_routes import Denied, Routes
from tidemill.controller.listening import HttpServer
from tidemill.domain.rollout.model import Plan
from tidemill.errors import TidemillError
from tidemill.ports.rollout import CounterSource

if TYPE_CHECKING:
    from tidemill.server import Authentication

__all__ = ["door", "judge_server"]


def judge_server(
    address: tuple[str, int],
    store: Engine,
    counters: CounterSource,
    plan: Plan,
    authentication: Authentication | None,
) -> HttpServer:
    """Return the judge at an address, not yet entered."""
    attempts = StoredAttempts(store)
    arms = Arms(lambda: KubeClient(connect()))
    judge = Judge(attempts, arms, counters, plan, lambda: datetime.now(UTC))

    def ready() -> str:
        try:
            attempts.state("")
        except TidemillError as error:
            return error.message
        return ""

    routes = Routes(judge, arms.weight, door(authentication), ready)
    return HttpServer(address, routes.respond, "judge")


def door(authentication: Authentication | None) -> Callable[[str], None]:
    """Return who lets callers in: everyone, or the keys and tokens of the model server."""
    if authentication is None:
        return lambda _: None
    from tidemill.server.protocol import Rejected

    one_at_a_time = Lock()  # a server asks its keys from one thread

    def admit(authorization: str) -> None:
        try:
            with one_at_a_time:
                authentication.reload()
                authentication.admit(_bearer(authorization), "admin")
        except Rejected as error:
            raise Denied(error.message, error.status) from error

    return admit


def _bearer(authorization: str) -> bytes:
    """Return the header as a bearer's; the password of Basic is the token.

    Flagger sends no headers of one's own, but what stands before the host in a webhook's URL.
    """
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "basic":
        try:
            value = base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            value = ""
    elif scheme.lower() != "bearer":
        return b""
    return f"Bearer {value}".encode("latin-1", "replace")
