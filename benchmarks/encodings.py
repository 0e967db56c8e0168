"""Serving: rows per CPU second of JSON against the binary tensor extension, same rows, one process.

From the body to the answer's bytes with validation, prediction log and metrics on, without HTTP:
what the two encodings themselves cost. CPU seconds, so that it holds on a shared machine.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tidemill.bundle import InputColumn
from tidemill.server import rest
from tidemill.server.inference import Inference
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, VALUES, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import make_app

NUMBERS, TEXTS = 25, 3
"""Inputs of each type, as many as the reference model has."""
SIZES = (1, 32, 256)
ROUNDS = 15
ROWS_PER_ROUND = 2048
NOW = datetime(2013, 6, 15, 18, tzinfo=UTC)


def main() -> None:
    """Print rows per CPU second of both encodings, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_compare(Path(folder)))


async def _compare(folder: Path) -> None:
    inference = _inference(folder)

    def ask(body: bytes, size: int | None = None) -> Coroutine[Any, Any, rest.Answer]:
        return inference.answer(lambda: rest.read(body, size), rest.write)

    print(f"{NUMBERS} FP32 and {TEXTS} BYTES inputs, rows per CPU second:")
    print("  rows      JSON    binary")
    for rows in SIZES:
        columns = _columns(rows)
        text, (packed, size) = _as_json(columns), _as_binary(columns)
        answers = await ask(text), await ask(packed, size)
        scores = json.loads(answers[0].body)["outputs"][0]["data"]
        assert np.array_equal(np.float32(scores), np.frombuffer(_tail(answers[1]), "<f4"))
        speeds = await _measure(
            rows,
            lambda text=text: ask(text),
            lambda packed=packed, size=size: ask(packed, size),
        )
        print(f"  {rows:4d}  {speeds[0]:8,.0f}  {speeds[1]:8,.0f}   {speeds[1] / speeds[0]:.2f}x")


async def _measure(rows: int, *asks: Callable[[], Coroutine[Any, Any, Any]]) -> list[float]:
    """Return rows per CPU second of each, the median of rounds that take turns."""
    seconds: list[list[float]] = [[] for _ in asks]
    times = max(1, ROWS_PER_ROUND // rows // 4)
    for _ in range(ROUNDS):
        for ask, spent in zip(asks, seconds, strict=True):
            begin = time.process_time()
            for _ in range(times):
                await ask()
            spent.append((time.process_time() - begin) / times)
    return [rows / statistics.median(spent) for spent in seconds]


def _inference(folder: Path) -> Inference:
    names = [f"number_{i}" for i in range(NUMBERS)]
    inputs = [InputColumn(name, "FP32", "request") for name in names]
    inputs += [InputColumn(name, "BYTES", "request") for name in _texts()]
    manifest = replace(MANIFEST, inputs=tuple(inputs))
    _, served = make_app(
        write_bundle(folder, manifest=manifest),
        ServingSettings(),
        reader=MemoryOnline(manifest.features.digest, NOW, {}),
        objects=MemoryObjects(),
        moment=NOW,
    )
    return served.inference


def _texts() -> list[str]:
    return ["carrier", "origin", *(f"text_{i}" for i in range(TEXTS - 2))]


def _columns(rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(11)
    numbers = {f"number_{i}": rng.normal(100, 30, rows).astype(np.float32) for i in range(NUMBERS)}
    return numbers | {
        name: rng.choice(VALUES.get(name, ("ATL", "LAX", "MIA")), rows).tolist()
        for name in _texts()
    }


def _as_json(columns: dict[str, Any]) -> bytes:
    inputs = [
        _header(name, values) | {"data": values if type(values) is list else values.tolist()}
        for name, values in columns.items()
    ]
    return json.dumps({"inputs": inputs}).encode()


def _as_binary(columns: dict[str, Any]) -> tuple[bytes, int]:
    parts = [_packed(values) for values in columns.values()]
    inputs = [
        _header(name, values) | {"parameters": {"binary_data_size": len(part)}}
        for (name, values), part in zip(columns.items(), parts, strict=True)
    ]
    head = json.dumps({"inputs": inputs, "parameters": {"binary_data_output": True}}).encode()
    return b"".join([head, *parts]), len(head)


def _packed(values: Any) -> bytes:
    if type(values) is not list:
        return bytes(values.tobytes())
    return b"".join(len(x).to_bytes(4, "little") + x.encode() for x in values)


def _header(name: str, values: Any) -> dict[str, Any]:
    datatype = "BYTES" if type(values) is list else "FP32"
    return {"name": name, "shape": [len(values)], "datatype": datatype}


def _tail(answer: Any) -> bytes:
    return bytes(answer.body[answer.json_size :])
