"""A server under load for a long time: nothing fails, nothing is lost, memory stays flat.

Real `tidemill serve` on a repository of two versions. Clients ask without a pause over their own
connections, each in turn JSON, binary tensors and requests that must be refused, while the newest
version is loaded anew and unloaded all the time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import httpx
import pyarrow.parquet as pq
import uvloop

from benchmarks.serving import mlp, ours
from benchmarks.serving.process import Launch, Server, run
from tidemill.server.binary import SPELLED

MINUTES = 10.0
CLIENTS = 16
ROWS = 4
SWAP_SECONDS = 2.0
LOOK_SECONDS = 0.5
GROWTH_MB = 16.0
"""What memory may grow by between the second and the last fifth of the time."""
LOST = ("tidemill_log_lost_total{", "tidemill_log_lost_unloaded_total{")
PATH = f"/v2/models/{mlp.NAME}/infer"


@dataclass
class Report:
    """What was seen."""

    statuses: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(expected, found) → requests."""
    swaps: int = 0
    memory: list[float] = field(default_factory=list)
    """Resident MB, in time."""
    lost: int = 0
    """Rows that the log lost, of versions that are unloaded now, too."""
    logged: int = 0
    """Rows in the log once the server has ended."""
    problems: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Rows that were scored."""
        return ROWS * sum(count for (_, found), count in self.statuses.items() if found == 200)

    @property
    def growth(self) -> float:
        """MB by which the last fifth of the time is above the second."""
        fifth = max(1, len(self.memory) // 5)
        return median(self.memory[-fifth:]) - median(self.memory[fifth : 2 * fifth])


def main(*arguments: str) -> None:
    """Print what happened; exits with 1 when a request failed, a row was lost or memory grew."""
    parser = argparse.ArgumentParser("python -m benchmarks soak")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        report = soak(Path(folder), options.minutes * 60)
    answers = sum(count for (_, found), count in report.statuses.items() if found == 200)
    refusals = sum(count for (_, found), count in report.statuses.items() if found == 400)
    print(
        f"{answers:,} answers, {refusals:,} refusals of bad requests, {report.swaps} swaps of the"
    )
    print(f"newest version in {options.minutes:g} min; of {report.answered:,} rows scored")
    print(f"{report.logged:,} are in the log, {report.lost} were lost; memory")
    print(f"{report.memory[0]:.0f} MB at first, {report.memory[-1]:.0f} at last, ", end="")
    print(f"{report.growth:+.1f} between the second and the last fifth")
    if problems := judge(report):
        sys.exit("\n".join(problems))


def judge(report: Report) -> list[str]:
    """Return what must not be."""
    found = list(report.problems)
    found += [
        f"{count} requests got {got}, expected {expected}"
        for (expected, got), count in report.statuses.items()
        if expected != got
    ]
    if report.lost:
        found.append(f"{report.lost} rows of the prediction log were lost")
    if report.logged + report.lost != report.answered:
        found.append(f"{report.answered} rows were scored, {report.logged} are in the log")
    if report.growth > GROWTH_MB:
        found.append(f"memory grew by {report.growth:.1f} MB")
    return found


def soak(folder: Path, seconds: float) -> Report:
    """Load a server for so long, and return what was seen."""
    report = Report()
    with run(_launch(folder), 0, folder / "server.log") as server:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_soak(server, report, seconds))
        exposition = httpx.get(f"{server.http}/metrics").text.splitlines()
    lost = (line for line in exposition if line.startswith(LOST))
    report.lost = int(sum(float(line.split()[-1]) for line in lost))
    stored = (folder / "project" / ".tidemill" / "objects").rglob("*.parquet")
    report.logged = sum(pq.read_metadata(file).num_rows for file in stored)
    return report


def _launch(folder: Path) -> Launch:
    launch = ours.launch(folder, {"log": {"flush_seconds": 0.5}})
    for version in ("1", "2"):
        shutil.copytree(folder / "bundle", folder / "models" / mlp.NAME / version)
    begin = launch.command[: launch.command.index("--bundle")]
    options = ("--repository", str(folder / "models"), "--port", "{http}")
    return Launch((*begin, *options), launch.cwd, launch.env)


async def _soak(server: Server, report: Report, seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    clients = [asyncio.create_task(_ask(server, report, end)) for _ in range(CLIENTS)]
    swapping = asyncio.create_task(_swap(server, report, end))
    while asyncio.get_running_loop().time() < end:
        report.memory.append(server.rss_mb)
        await asyncio.sleep(LOOK_SECONDS)
    await asyncio.gather(*clients, swapping)


async def _ask(server: Server, report: Report, end: float) -> None:
    """Ask one request after the other over one connection."""
    requests = itertools.cycle(_requests())
    async with _connect(server) as (reader, writer):
        while asyncio.get_running_loop().time() < end:
            expected, request = next(requests)
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            report.statuses[expected, int(head.split(b" ", 2)[1])] += 1


@asynccontextmanager
async def _connect(
    server: Server,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    url = urlsplit(server.http)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _swap(server: Server, report: Report, end: float) -> None:
    """Load and unload the newest version in turn; the older one answers meanwhile."""
    orders = itertools.cycle(("load", "load", "unload"))
    body = {"parameters": {"version": "2"}}
    async with httpx.AsyncClient(base_url=server.http, timeout=60, trust_env=False) as client:
        while asyncio.get_running_loop().time() < end:
            order = next(orders)
            path = f"/v2/repository/models/{mlp.NAME}/{order}"
            answer = await client.post(path, json=body)
            if answer.status_code != 200:
                report.problems.append(f"{order}: {answer.status_code} {answer.text}")
            report.swaps += 1
            await asyncio.sleep(SWAP_SECONDS)


def _requests() -> list[tuple[int, bytes]]:
    """Return the statuses that are expected, and requests."""
    rows = mlp.make_rows(ROWS)
    ((name, width),) = mlp.WIDE.items()
    tensor = {"name": name, "datatype": "FP32", "shape": [ROWS, width]}
    whole = json.dumps({"inputs": [tensor | {"data": rows.tolist()}]}).encode()
    tail = rows.tobytes()
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(tail)}}]})
    unknown = json.dumps({"inputs": [tensor | {"name": "y", "data": rows.tolist()}]}).encode()
    return [
        (200, _request(whole)),
        (200, _request(head.encode() + tail, f"{SPELLED}: {len(head)}\r\n")),
        (400, _request(unknown)),
        (400, _request(whole[:-7])),
    ]


def _request(body: bytes, header: str = "") -> bytes:
    head = f"POST {PATH} HTTP/1.1\r\nHost: soak\r\n{header}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
