"""Traffic of the replay: one request per flight, through the gateway, as its clients send them."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import aiohttp
import uvloop

__all__ = ["Clients", "Tally", "infer_request"]

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


def infer_request(row: Mapping[str, object], columns: Mapping[str, str]) -> bytes:
    """Build an Open Inference Protocol request for one row; `columns` maps name to datatype."""
    inputs = [
        {"name": name, "datatype": datatype, "shape": [1], "data": [_cell(row[name], datatype)]}
        for name, datatype in columns.items()
    ]
    return json.dumps({"id": str(row["flight_id"]), "inputs": inputs}).encode()


def _cell(value: object, datatype: str) -> object:
    return ("" if value is None else str(value)) if datatype == "BYTES" else value


class Clients:
    """Ask one URL over `CONNECTIONS` connections, which stay open from step to step."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._session: aiohttp.ClientSession | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        if self._session is not None:
            self._runner.run(self._session.close())
        self._runner.close()

    def send(self, bodies: Sequence[bytes]) -> Tally:
        """Send every request once; nothing is retried."""
        return self._runner.run(self._send(bodies))

    async def _send(self, bodies: Sequence[bytes]) -> Tally:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=30),
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                headers={"Content-Type": "application/json"},
            )
        tally, queue = Tally(), iter(bodies)
        clients = (_client(self._session, self._url, queue, tally) for _ in range(CONNECTIONS))
        await asyncio.gather(*clients)
        return tally


async def _client(
    session: aiohttp.ClientSession, url: str, queue: Iterator[bytes], tally: Tally
) -> None:
    for body in queue:
        begin = time.perf_counter()
        try:
            async with session.post(url, data=body) as response:
                answer = json.loads(await response.read())
            tally.statuses[str(response.status)] += 1
            if response.status == 200:
                tally.versions[answer["model_version"]] += 1
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            tally.statuses[type(error).__name__] += 1
        tally.seconds.append(time.perf_counter() - begin)
