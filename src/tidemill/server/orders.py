"""Orders to the models, and questions about them, of all workers of a server.

In one process they go to its repository. Where there are several, every worker carries out every
order, all in the same order, and a model is ready where it is ready in each of them.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec
from msgspec import Struct

from tidemill.server.crew import Crew
from tidemill.server.folder import Key
from tidemill.server.metrics import Metrics
from tidemill.server.protocol import Rejected
from tidemill.server.repository import Entry, Repository

__all__ = ["Orders"]


class Order(Struct):
    """What is to be loaded or unloaded; without a version the repository's default."""

    name: str
    version: str


class Outcome(Struct):
    """How an order went: refused with this, or carried out."""

    code: str = ""
    message: str = ""
    status: int = 200


_encode = msgspec.msgpack.encode
_order = msgspec.msgpack.Decoder(Order).decode
_outcome = msgspec.msgpack.Decoder(Outcome).decode
_keys = msgspec.msgpack.Decoder(set[Key]).decode


class Orders:
    """Gives orders to all workers, and carries out those of the others."""

    def __init__(self, repository: Repository, metrics: Metrics, crew: Crew | None = None) -> None:
        self._repository = repository
        self._metrics = metrics
        self._crew = crew

    async def load(self, name: str, version: str = "") -> None:
        """Load a version, the folder's newest by default; raises Rejected."""
        await self._give("load", Order(name, version))

    async def unload(self, name: str, version: str = "") -> None:
        """Unload a version, by default every version of the model; raises Rejected."""
        await self._give("unload", Order(name, version))

    async def ready(self, name: str, version: str = "") -> bool:
        """Tell whether a model answers without being loaded first; raises Rejected."""
        if self._repository.find(name, version) is None:
            self._repository.require(name, version)
            return False
        told = await self._everyone("held")
        return all(any(key == (name, version or key[1]) for key in keys) for keys in told)

    async def index(self) -> list[Entry]:
        """Return every version that is loaded or in the folder, by name and version."""
        found = self._repository.index()
        told = await self._everyone("held")
        return [
            _missed(entry)
            if entry.state == "READY" and not all((entry.name, entry.version) in k for k in told)
            else entry
            for entry in found
        ]

    async def answer(self, call: str, body: bytes) -> bytes:
        """Answer another worker's call."""
        repository = self._repository
        if call == "counters":
            return _encode(self._metrics.families())
        if call == "held":
            return _encode([served.key for served in repository])
        if call == "withdrawn":
            return _encode(repository.withdrawn)
        if call == "withdraw":
            repository.withdraw(_keys(body))
            return b""
        order = _order(body)
        carry_out = {"load": repository.load, "unload": repository.unload}[call]
        try:
            await carry_out(order.name, order.version)
        except Rejected as refusal:
            return _encode(Outcome(refusal.code, refusal.message, refusal.status))
        return _encode(Outcome())

    async def _give(self, call: str, order: Order) -> None:
        """Have every worker carry out an order; raises Rejected if one of them refuses it."""
        if self._crew is None:
            told = [await self.answer(call, _encode(order))]
        else:
            told = await self._crew.everyone(call, _encode(order))
        for outcome in map(_outcome, told):
            if outcome.code:
                raise Rejected(outcome.code, outcome.message, outcome.status)

    async def _everyone(self, call: str) -> list[set[Key]]:
        return [] if self._crew is None else list(map(_keys, await self._crew.everyone(call, b"")))


def _missed(entry: Entry) -> Entry:
    return replace(entry, state="UNAVAILABLE", reason="not loaded in every worker")
