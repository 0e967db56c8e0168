"""What the connections of one server share: the application, the bounds, what is under way."""

from __future__ import annotations

from email.utils import formatdate
from typing import Protocol

from tidemill.server.messages import Request, Response
from tidemill.server.protocol import Rejected
from tidemill.settings.serving import ServingSettings

__all__ = ["Application", "Client", "Traffic"]


class Client(Protocol):
    """A connection, as the process ends it."""

    def shutdown(self) -> None:
        """Close it if it is idle; otherwise its last answer closes it."""
        ...

    def abort(self) -> None:
        """Close it whatever is under way."""
        ...


class Application(Protocol):
    """What answers requests; it knows nothing of sockets."""

    draining: bool
    """Connections are closed after their answer."""

    def admit(self, request: Request, pending: int) -> bool:
        """Judge a request by its head, return whether its body is wanted; raises Rejected.

        `pending` requests had arrived and were not answered when this one came.
        """
        ...

    async def answer(self, request: Request) -> Response:
        """Answer a request that was admitted and is whole; raises nothing."""
        ...

    def cut(self, request: Request) -> None:
        """Note a request that will have no answer, as the process ends."""
        ...

    def turn_away(self) -> None:
        """Count a connection that is closed at once, as too many are held."""
        ...

    def refuse(self, request: Request, refusal: Rejected) -> Response:
        """Count a refusal, and return how it is told."""
        ...


class Traffic:
    """The connections, and how many requests they hold."""

    def __init__(self, app: Application, settings: ServingSettings) -> None:
        self.app = app
        self.limits = settings.limits
        self.max_body_bytes = settings.max_body_bytes
        self.keep_alive_seconds = settings.keep_alive_seconds
        self.connections: set[Client] = set()
        self.pending = 0
        """Requests whose head arrived, and that are not answered."""
        self.date = b""
        """The header `date` of what is answered now; `tick` keeps it true."""
        self.tick()

    @property
    def idle(self) -> bool:
        """Whether nobody is connected and nothing is being answered."""
        return not self.connections and not self.pending

    def tick(self) -> None:
        """Note the time; called once a second."""
        self.date = formatdate(usegmt=True).encode()
