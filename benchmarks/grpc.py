"""gRPC against binary REST: CPU of the same server process per request, the same rows and model.

25 numbers and 3 categories a row, 32 requests in flight, raw contents. The clients run in this
process; only the server's CPU is counted, so it holds on a shared machine. Rounds take turns.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import msgspec
import numpy as np

from tidemill.bundle import InputColumn
from tidemill.server import serve
from tidemill.server.rpc.schema import message
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, VALUES, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import make_app
from tidemill.workers.lines import log_as_json
from tidemill.workers.listener import listen

NUMBERS = [f"number_{i}" for i in range(25)]
TEXTS = ["carrier", "origin", "other"]
SIZES = (1, 32, 256)
CLIENTS = 32
CHANNELS = 4
ROUNDS = 7
REQUESTS = 50
"""Of each client in a round."""
TICK = os.sysconf("SC_CLK_TCK")

Ask = Callable[[], Awaitable[None]]


def main() -> None:
    """Print requests and rows per CPU second of both, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.grpc", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout
        try:
            ports = int(server.stdout.readline()), int(server.stdout.readline())
            asyncio.run(_compare(server.pid, *ports))
        finally:
            server.terminate()
            server.wait(30)


def _be_server(folder: Path) -> None:
    from tidemill.server.rpc import Endpoint

    log_as_json()
    columns = [InputColumn(name, "FP32", "request") for name in NUMBERS]
    columns += [InputColumn(name, "BYTES", "request") for name in TEXTS]
    manifest = replace(MANIFEST, inputs=tuple(columns))
    settings = ServingSettings()
    app, _ = make_app(
        write_bundle(folder, manifest=manifest),
        settings,
        reader=MemoryOnline(manifest.features.digest, datetime.now(UTC), {}),
        objects=MemoryObjects(),
        moment=datetime.now(UTC),
    )
    bound = listen("127.0.0.1", 0)
    print(bound.getsockname()[1], flush=True)
    tell = lambda url: print(url.rpartition(":")[2], flush=True)  # noqa: E731
    serve(app, bound, settings, None, Endpoint(app, settings, ("127.0.0.1", 0), None, tell))


async def _compare(pid: int, http: int, rpc: int) -> None:
    print("                rows  requests/CPU s   rows/CPU s  of REST")
    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(
                    f"127.0.0.1:{rpc}", [("grpc.use_local_subchannel_pool", 1)]
                )
            )
            for _ in range(CHANNELS)
        ]
        for rows in SIZES:
            columns = _columns(rows)
            rest = [await _rest(http, columns) for _ in range(CLIENTS)]
            calls = [_call(channels[n % CHANNELS], columns) for n in range(CLIENTS)]
            kinds = {"binary REST": rest, "gRPC": calls}
            spent = await _measure(pid, kinds)
            for name, seconds in spent.items():
                ratio = spent["binary REST"] / seconds
                speeds = f"{1 / seconds:14,.0f}  {rows / seconds:11,.0f}"
                print(f"  {name:12s}  {rows:4d}  {speeds}  {ratio:7.2f}")


async def _measure(pid: int, kinds: dict[str, list[Ask]]) -> dict[str, float]:
    """Return the median of the server's CPU seconds per request."""
    spent: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(ROUNDS + 1):
        for name, asks in kinds.items():
            before = _cpu(pid)
            await asyncio.gather(*map(_repeat, asks))
            if turn:  # the first warms up
                spent[name].append((_cpu(pid) - before) / (len(asks) * REQUESTS))
    return {name: median(seconds) for name, seconds in spent.items()}


async def _repeat(ask: Ask) -> None:
    for _ in range(REQUESTS):
        await ask()


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _columns(rows: int) -> dict[str, tuple[str, bytes]]:
    """Return datatype and bytes by input."""
    rng = np.random.default_rng(11)
    made = {name: ("FP32", rng.normal(100, 30, rows).astype("<f4").tobytes()) for name in NUMBERS}
    for name in TEXTS:
        words = rng.choice(VALUES.get(name, ("A",)), rows).tolist()
        packed = b"".join(len(w).to_bytes(4, "little") + w.encode() for w in words)
        made[name] = "BYTES", packed
    return made


def _rows(columns: dict[str, tuple[str, bytes]]) -> int:
    return len(columns[NUMBERS[0]][1]) // 4


def _call(channel: grpc.aio.Channel, columns: dict[str, tuple[str, bytes]]) -> Ask:
    request = message("ModelInferRequest")(model_name=MANIFEST.name)
    for name, (datatype, raw) in columns.items():
        request.inputs.add(name=name, datatype=datatype, shape=[_rows(columns)])
        request.raw_input_contents.append(raw)
    content = request.SerializeToString()
    infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    async def ask() -> None:
        await infer(content)

    return ask


async def _rest(port: int, columns: dict[str, tuple[str, bytes]]) -> Ask:
    inputs = [
        {
            "name": name,
            "datatype": datatype,
            "shape": [_rows(columns)],
            "parameters": {"binary_data_size": len(raw)},
        }
        for name, (datatype, raw) in columns.items()
    ]
    asked = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    head = msgspec.json.encode(asked)
    body = b"".join([head, *(raw for _, raw in columns.values())])
    sent = (
        f"POST /v2/models/{MANIFEST.name}/infer HTTP/1.1\r\nhost: localhost\r\n"
        f"content-length: {len(body)}\r\ninference-header-content-length: {len(head)}\r\n\r\n"
    ).encode() + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask() -> None:
        writer.write(sent)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode("latin-1"))
        await reader.readexactly(int(answer.partition(b"\r\ncontent-length: ")[2].split()[0]))

    return ask


if __name__ == "__main__":
    _be_server(Path(sys.argv[1]))
