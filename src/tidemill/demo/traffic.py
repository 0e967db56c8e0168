"""Traffic of the replay: one request per flight, through the gateway, as its clients send them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp

__all__ = ["Tally", "infer_request", "send"]

CONNECTIONS = 16


@dataclass(slots=True)
class Tally:
    """What the clients saw."""

    statuses: Counter[str] = field(default_factory=Counter)
    """Requests by HTTP status, or by the name of the transport error."""
    versions: Counter[str] = field(default_factory=Counter)
    """Answers by the model version that gave them."""
    seconds: list[float] = field(default_factory=list)
    """Time from sending to the answer, per request."""

    @property
    def requests(self) -> int:
        """Number of requests sent."""
        return sum(self.statuses.values())

    @property
    def failed(self) -> int:
        """Number of requests that were not answered with 200."""
        return self.requests - self.statuses["200"]

    def add(self, other: Tally) -> None:
        """Add another tally to this one."""
        self.statuses += other.statuses
        self.versions += other.versions
        self.seconds += other.seconds


def infer_request(row: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, object]:
    """Build an Open Inference Protocol request for one row; `columns` maps name to datatype."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1], "data": [_cell(row[name], datatype)]}
        for name, datatype in columns.items()
    ]
    return {"id": str(row["flight_id"]), "inputs": inputs}


def _cell(value: object, datatype: str) -> object:
    return ("" if value is None else str(value)) if datatype == "BYTES" else value


def send(url: str, bodies: Sequence[Mapping[str, object]]) -> Tally:
    """Send every request once, `CONNECTIONS` at a time; nothing is retried."""
    return asyncio.run(_send(url, bodies))


async def _send(url: str, bodies: Sequence[Mapping[str, object]]) -> Tally:
    tally = Tally()
    queue = iter(bodies)
    timeout = aiohttp.ClientTimeout(total=30)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        await asyncio.gather(*(_client(session, url, queue, tally) for _ in range(CONNECTIONS)))
    return tally


async def _client(session: aiohttp.ClientSession, url: str, queue: object, tally: Tally) -> None:
    for body in queue:  # type: ignore[attr-defined]
        begin = time.perf_counter()
        try:
            async with session.post(url, json=body) as response:
                answer = await response.json()
                tally.statuses[str(response.status)] += 1
                if response.status == 200:
                    tally.versions[answer["model_version"]] += 1
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            tally.statuses[type(error).__name__] += 1
        tally.seconds.append(time.perf_counter() - begin)
