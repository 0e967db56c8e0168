"""Batching: requests per CPU second and latency with and without, for a small and a large model.

Clients that ask one row again and again, in one process on uvloop: a client's request arrives, and
is read in the next turn of the loop together with those of all others, as with sockets. Latency is
from arrival to answer. The two kinds take turns, as the machine's speed drifts; figures are medians
over the rounds.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import onnx
import uvloop
from onnx import TensorProto, helper, numpy_helper

from tidemill.bundle import FeatureService, InputColumn, Manifest, write_manifest
from tidemill.server import rest
from tidemill.server.inference import Inference
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, write_bundle, write_profile
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import make_app

CLIENTS = (1, 8, 32, 64)
ROUNDS = 7
REQUESTS = {"small": 3000, "large": 200}
"""Per round and kind."""
MAX_ROWS = 256
WIDTH, LAYERS = 2048, 3
VALUES = {"FP32": 1.0, "BYTES": "UA"}
NOW = datetime(2013, 6, 15, 18, tzinfo=UTC)


class Load(NamedTuple):
    """What one round of clients saw: requests per CPU second, and latency in seconds."""

    rate: float
    p50: float
    p99: float


def main() -> None:
    """Print requests per CPU second, p50 and p99 of both models by number of clients."""
    with tempfile.TemporaryDirectory() as folder:
        bundles = {
            "small": write_bundle(Path(folder, "small")),
            "large": write_large(Path(folder, "large")),
        }
        print(f"one row a request, {ROUNDS} rounds, batches of up to {MAX_ROWS} rows")
        for name, bundle in bundles.items():
            compare(name, bundle)


def compare(name: str, bundle: Path) -> None:
    """Print a table of one model."""
    kinds = {"alone": inference(bundle, 0), "batched": inference(bundle, MAX_ROWS)}
    body = request(kinds["alone"].model.manifest)
    print(
        f"{name}: clients       alone/cpu s p50 ms  p99 ms    batched/cpu s p50 ms  p99 ms   ratio"
    )
    for clients in CLIENTS:
        found = measure(kinds, body, clients, REQUESTS[name])
        alone, batched = found["alone"], found["batched"]
        cells = [
            f"{x.rate:10,.0f}  {x.p50 * 1e3:6.2f}  {x.p99 * 1e3:6.2f}" for x in (alone, batched)
        ]
        print(f"{clients:15d}     {'    '.join(cells)}   {batched.rate / alone.rate:5.2f}x")


def measure(
    kinds: Mapping[str, Inference], body: bytes, clients: int, requests: int
) -> dict[str, Load]:
    """Return the medians of rounds that take turns."""
    seen: dict[str, list[Load]] = {kind: [] for kind in kinds}
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for _ in range(ROUNDS):
            for kind, asked in kinds.items():
                seen[kind].append(runner.run(drive(asked, body, clients, requests)))
    return {
        kind: Load(*(median(values) for values in zip(*loads, strict=True)))
        for kind, loads in seen.items()
    }


async def drive(asked: Inference, body: bytes, clients: int, requests: int) -> Load:
    """Let clients ask until all requests are answered."""
    latencies: list[float] = []

    async def client(times: int) -> None:
        for _ in range(times):
            arrived = perf_counter()
            await asyncio.sleep(0)
            await asked.answer(lambda: rest.read(body, None), rest.write)
            latencies.append(perf_counter() - arrived)

    begin = process_time()
    await asyncio.gather(*(client(-(-requests // clients)) for _ in range(clients)))
    seconds = process_time() - begin
    p50, p99 = np.quantile(latencies, [0.5, 0.99])
    return Load(len(latencies) / seconds, float(p50), float(p99))


def inference(bundle: Path, max_batch_rows: int) -> Inference:
    """Return the path of a request with everything on but a log that is written."""
    _, served = make_app(
        bundle,
        ServingSettings(max_batch_rows=max_batch_rows, log={"buffer_rows": 1}),
        reader=MemoryOnline(MANIFEST.features.digest, NOW, {}),
        objects=MemoryObjects(),
        moment=NOW,
    )
    return served.inference


def request(manifest: Manifest) -> bytes:
    """Return a request of one row with every input."""
    tensors = [
        {"name": c.name, "datatype": c.datatype, "shape": [1], "data": [VALUES[c.datatype]]}
        if c.width == 1
        else {"name": c.name, "datatype": "FP32", "shape": [1, c.width], "data": [1.0] * c.width}
        for c in manifest.inputs
    ]
    return json.dumps({"inputs": tensors}).encode()


def write_large(folder: Path) -> Path:
    """Write a bundle whose model is a perceptron of wide layers."""
    rng = np.random.default_rng(7)
    nodes, constants, last = [], [], "x"
    sizes = [32, *[WIDTH] * LAYERS, 1]
    for i, (rows, columns) in enumerate(pairwise(sizes)):
        weights = rng.normal(0, rows**-0.5, (rows, columns)).astype(np.float32)
        constants.append(numpy_helper.from_array(weights, f"w{i}"))
        kind = "Relu" if columns > 1 else "Sigmoid"
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"dot{i}"]))
        nodes.append(helper.make_node(kind, [f"dot{i}"], [f"out{i}"]))
        last = f"out{i}"
    nodes.append(helper.make_node("Squeeze", [last, "axis"], ["probability"]))
    constants.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", sizes[0]])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])],
        constants,
    )
    folder.mkdir()
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, folder / "model.onnx")
    inputs = (InputColumn("x", "FP32", "request", width=sizes[0]),)
    features = FeatureService("none", "flights", MANIFEST.features.digest, ())
    write_manifest(folder, Manifest("large", inputs, "probability", "row", features, 0.2))
    write_profile(folder)
    return folder
