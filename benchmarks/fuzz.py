"""Mutated requests against the server's routes and calls: no crash, no 5xx, no lost row.

Good requests (tensors in JSON, binary and gRPC's messages, records, orders, metadata) are changed
in their bytes, their structure, their headers and their path, and answered in this process as the
server does after a request has arrived; memory must stay flat. Input number N of a seed is the same
in every run, so a run goes on where another one ended, and a finding is replayed alone:

    python -m benchmarks fuzz --inputs 1000000
    python -m benchmarks fuzz --start 1000000 --inputs 1000000
    python -m benchmarks fuzz --start 4711 --inputs 1

A server with one bundle refuses orders to load and unload after it has read them; what such orders
do is not fuzzed.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from time import perf_counter
from typing import Any, NamedTuple

import msgspec
import pyarrow as pa
import structlog
import uvloop

from benchmarks import fuzz_grpc
from tidemill.server import App, Served
from tidemill.server.messages import Response
from tidemill.server.operations import STATUS
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline
from tidemill.testing.serving import ask, make_app

INPUTS = 50_000
WARM_INPUTS = 20_000
"""Memory is compared from here on: the log has written its first files, which loads Parquet."""
GROWTH_MB = 16.0
FORGET_EVERY = 1000
"""Inputs between two looks at memory and at what was logged."""

MODEL = "/v2/models/flight-delay"
LENGTH = b"inference-header-content-length"
ROW = {"sched_minute": 600.0, "carrier": "UA", "origin": "JFK"}
FULL = ROW | {"carrier_late_rate_7d": 0.5, "temp": 40.0, "seats": 200.0}
KEYED = ROW | {"tailnum": "N1", "flight_id": "f1"}
TEXTS = {"carrier", "origin", "tailnum", "flight_id"}
SMALL = ROW | dict.fromkeys(("sched_minute", "carrier_late_rate_7d", "temp", "seats"), 1)
"""Numbers that every datatype holds …"""
BOOLEANS = ROW | dict.fromkeys(SMALL.keys() - TEXTS, True)
"""… but this one."""
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63), 2**64, 10**30, 0.0, -0.0, 1e-45, 3.5e38),
    *("", "UA", "x" * 300, "\u0000", "\ud7ff\ue000", "🛫", "NaN", "-1", "FP32", "BYTES", "BOOL"),
    *("FP16", "FP64", "INT8", "INT64", "UINT64", "sched_minute", "seats", "probability"),
    *([], {}, [[]], [1], [[1.0]], [None], {"a": 1}, [4097], [1, 1], [0]),
    *({"binary_data_size": 4}, {"binary_data": True}, {"binary_data_output": True}),
]
TOKENS = [
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"NaN", b"Infinity"),
    *(b"1e999", b"-", b"0", b"\x00", b"\xff\xfe", b"\xc0\x80", b"\\ud800", b'"\\u0000"', b"[" * 99),
    *(b'"inputs"', b'"records"', b'"datatype":"FP16"', b'"shape":[0]', b"\x00\x00\x00\x80"),
]
LENGTHS = [b"", b"0", b"1", b"-1", b"9" * 30, b"1e3", b"\xb2", b"4294967296", b" 7"]
GRPC = "gRPC"
CALLS = ["ModelInfer", "ModelReady", "ModelMetadata", "RepositoryIndex", "RepositoryModelLoad"]
PATHS = ["", "x", "%2e%2e", "..", "0", "7", "1" * 5000, "é", "\ud7ff", "a b", "versions", "?"]


class Input(NamedTuple):
    """One request."""

    method: str
    """Of HTTP; `gRPC` for a call …"""
    path: str
    """… of which this is the name."""
    headers: dict[bytes, bytes]
    body: bytes


@dataclass
class Report:
    """What became of the inputs."""

    codes: Counter[str] = field(default_factory=Counter)
    """`ok`, or the refusal's code."""
    calls: int = 0
    """Inputs that were calls of gRPC."""
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    grown: float = 0.0
    """Megabytes that memory grew after it was warm."""


def main(*arguments: str) -> None:
    """Fuzz; exits with 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz")
    parser.add_argument("--inputs", type=int, default=INPUTS)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    with tempfile.TemporaryDirectory() as folder:
        report = fuzz(Path(folder), options.inputs, start=options.start, seed=options.seed)
    print(f"{options.inputs:,} inputs of seed {options.seed} from {options.start:,}, ", end="")
    print(
        f"{options.inputs / report.seconds:,.0f} a second, memory {report.grown:+.1f} MB, ", end=""
    )
    print(f"{report.calls:,} of them gRPC")
    for code, times in report.codes.most_common():
        print(f"  {times:9,d}  {code}")
    for finding in report.findings:
        print(finding)
    if report.findings:
        sys.exit(1)


def fuzz(folder: Path, inputs: int, *, start: int = 0, seed: int = 1) -> Report:
    """Answer `inputs` mutated requests from number `start` on."""
    objects = MemoryObjects()
    online = MemoryOnline(
        MANIFEST.features.digest, datetime.now(UTC), {"plane": {("N1",): {"seats": 200}}}
    )
    app, served = make_app(
        write_bundle(folder / "bundle"),
        ServingSettings(log={"buffer_rows": 10_000_000, "flush_rows": 1000, "flush_seconds": 0.2}),
        reader=online,
        objects=objects,
        moment=datetime.now(UTC),
        version="7",
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        report = runner.run(_fuzz(app, served, objects, inputs, start, seed))
    _close(served, report)
    return report


async def _fuzz(
    app: App, served: Served, objects: MemoryObjects, inputs: int, start: int, seed: int
) -> Report:
    report = Report()
    began = perf_counter()
    warm = 0.0
    good = seeds()
    call = fuzz_grpc.Answer(app)
    for number in range(start, start + inputs):
        made = mutate(Random(seed * 2**40 + number), good)
        try:
            rpc = made.method == GRPC
            code = await (call(made.path, made.body) if rpc else answer(app, made))
            report.codes[code] += 1
            report.calls += rpc
        except Exception:  # noqa: BLE001 - whatever it is, it is a finding
            report.findings.append(f"input {number}: {made!r}\n{traceback.format_exc()}")
        if number % FORGET_EVERY == 0:
            objects.kept.clear()
            if not warm and number - start >= WARM_INPUTS:
                warm = await settled(served, objects)
    report.seconds = perf_counter() - began
    settled_now = await settled(served, objects)
    report.grown = settled_now - (warm or settled_now)
    if report.grown > GROWTH_MB:
        report.findings.append(f"memory grew by {report.grown:.1f} MB after it was warm")
    return report


async def settled(served: Served, objects: MemoryObjects) -> float:
    """Return the memory once the log has written, and nothing holds, what was answered."""
    while sum(served.predictions.counts()) < served.counters.rows:
        await asyncio.sleep(0.05)
    objects.kept.clear()
    # What the allocators keep for later is no leak, and differs by megabytes between two looks.
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    return resident()


def _close(served: Served, report: Report) -> None:
    if lost := served.predictions.close(60.0) + served.predictions.counts()[1]:
        report.findings.append(f"the prediction log lost {lost} rows")


async def answer(app: App, made: Input) -> str:
    """Return the code of a refusal or `ok`; raises what the server must not do."""
    response = await ask(app, made.method, made.path, made.body, made.headers)
    if response.status >= 400 and response.status != 503:
        return check_refusal(response)
    check_answer(response)
    return "ok"


def check_refusal(response: Response) -> str:
    """Refuse a refusal that is no 4xx of the table, or tells what it must not."""
    told = msgspec.json.decode(response.body)
    assert told.keys() == {"error", "code"}
    assert STATUS[told["code"]] == response.status < 500, f"{response.status} {told}"
    assert len(told["error"]) < 2000, told["error"]
    fuzz_grpc.check_words(told["error"])
    return str(told["code"])


def check_answer(response: Response) -> None:
    """Refuse an answer that cannot be read."""
    assert response.status in (200, 503)
    if response.kind.startswith(b"text"):
        return
    size = int(response.headers.get(LENGTH, len(response.body)))
    told = msgspec.json.decode(response.body[:size])
    assert "error" not in told, told
    if isinstance(told, dict) and "outputs" in told and "model_name" in told:
        (output,) = told["outputs"]
        size = output.get("parameters", {}).get("binary_data_size", 0) // 4
        assert output["shape"] == [len(output.get("data", [])) or size]


def seeds() -> list[Input]:
    """Return good requests; those that are asked most are there more often."""
    infer, predict = f"{MODEL}/infer", f"{MODEL}/versions/7/predict"
    json_ = [
        encoded({"inputs": tensors(FULL, 2), "id": "a"}),
        encoded({"inputs": tensors(KEYED, 1), "outputs": [{"name": "probability"}]}),
        encoded({"inputs": tensors(FULL | {"temp": None}, 3), "parameters": {"x": 1}}),
        encoded({"inputs": tensors(FULL, 2, nested=True)}),
    ]
    found = [Input("POST", infer, {}, body) for body in json_] * 2
    for row, rows in ((FULL, 2), (FULL, 1), (KEYED, 2)):
        head, tail = binary(tensors(row, rows))
        found += [Input("POST", infer, {LENGTH: b"%d" % len(head)}, head + tail)] * 2
    typed = [tensors(BOOLEANS if d == "BOOL" else SMALL, 2, d) for d in fuzz_grpc.NUMBERS]
    for made in typed:
        if made[0]["datatype"] != "FP16":  # which JSON cannot have
            found.append(Input("POST", infer, {}, encoded({"inputs": made})))
        head, tail = binary(made)
        found.append(Input("POST", infer, {LENGTH: b"%d" % len(head)}, head + tail))
    records = [{"records": [FULL, FULL]}, {"records": [KEYED], "id": "a"}]
    found += [Input("POST", predict, {}, encoded(body)) for body in records] * 2
    found += [Input("POST", "/predict", {}, encoded(records[0]))]
    for order in ("index", "models/flight-delay/load", "models/flight-delay/unload"):
        body = encoded({"ready": True, "parameters": {"version": "7"}})
        found.append(Input("POST", f"/v2/repository/{order}", {}, body))
    usual = [tensors(row, 2) for row in (FULL, KEYED)]
    calls = fuzz_grpc.bodies("flight-delay", [*usual * 4, *typed])
    found += [Input(GRPC, name, {}, body) for name, body in calls]
    gets = ("", "/versions/7", "/ready", "/versions/7/ready")
    found += [Input("GET", MODEL + path, {}, b"") for path in gets]
    return found


def tensors(
    row: dict[str, Any], rows: int, datatype: str = "FP32", *, nested: bool = False
) -> list[dict[str, Any]]:
    """Return a row as many times as tensors, its numbers of one datatype."""
    return [
        {
            "name": name,
            "shape": [rows, 1] if nested else [rows],
            "datatype": "BYTES" if name in TEXTS else datatype,
            "data": [[value]] * rows if nested else [value] * rows,
        }
        for name, value in row.items()
    ]


def binary(made: list[dict[str, Any]]) -> tuple[bytes, bytes]:
    """Return a binary request's JSON and what follows it."""
    parts = [fuzz_grpc.packed(tensor["datatype"], tensor["data"]) for tensor in made]
    inputs = [
        {key: value for key, value in tensor.items() if key != "data"}
        | {"parameters": {"binary_data_size": len(part)}}
        for tensor, part in zip(made, parts, strict=True)
    ]
    body = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    return encoded(body), b"".join(parts)


def encoded(document: Any) -> bytes:
    """Return JSON as most clients write it."""
    return json.dumps(document).encode()


def mutate(random: Random, good: list[Input]) -> Input:
    """Return a good request with one to four changes."""
    made = random.choice(good)
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 4))):
        made = random.choice(MUTATIONS)(random, made)
    return made


def change_document(random: Random, made: Input) -> Input:
    """Change a value, a name or an element somewhere in the JSON; keep a binary tail in place.

    Of a message of gRPC it changes a field.
    """
    if made.method == GRPC:
        try:
            return made._replace(
                body=fuzz_grpc.change_fields(random, made.path, made.body, _changed)
            )
        except ValueError:
            return change_bytes(random, made)
    size = made.headers.get(LENGTH, b"")
    cut = int(size) if size.isdigit() and len(size) < 9 else len(made.body)
    try:
        document = msgspec.json.decode(made.body[:cut])
    except (ValueError, RecursionError):
        return change_bytes(random, made)
    changed = msgspec.json.encode(_changed(random, document))
    headers = made.headers | ({LENGTH: b"%d" % len(changed)} if size else {})
    return made._replace(headers=headers, body=changed + made.body[cut:])


def _changed(random: Random, node: Any) -> Any:
    """Walk down a random path and change what is there."""
    if isinstance(node, dict) and node and random.random() < 0.85:
        key = random.choice(list(node))
        chance = random.random()
        if chance < 0.05:
            return {k: v for k, v in node.items() if k != key}
        if chance < 0.1:
            return node | {str(random.choice(VALUES)): node[key]}
        return node | {key: _changed(random, node[key])}
    if isinstance(node, list) and node and random.random() < 0.85:
        place = random.randrange(len(node))
        chance = random.random()
        if chance < 0.05:
            return node[:place] + node[place + 1 :]
        if chance < 0.1:
            return [*node, node[place]] * random.choice((1, 1, 2, 50))
        return [*node[:place], _changed(random, node[place]), *node[place + 1 :]]
    return random.choice(VALUES)


def change_bytes(random: Random, made: Input) -> Input:
    """Flip, drop, repeat or put in bytes anywhere."""
    body = made.body
    at = random.randrange(len(body) + 1)
    end = min(len(body), at + random.choice((1, 1, 4, 30, 1000)))
    part = random.choice(
        (
            b"",
            body[at:end] * 2,
            random.choice(TOKENS),
            random.randbytes(end - at),
            body[at:end][::-1],
        )
    )
    return made._replace(body=body[:at] + part + body[end:])


def cut_body(random: Random, made: Input) -> Input:
    """Leave out the end."""
    return made._replace(body=made.body[: random.randrange(len(made.body) + 1)])


def change_headers(random: Random, made: Input) -> Input:
    """Change where the JSON ends, or the trace context; a message has neither."""
    if made.method == GRPC:
        return change_bytes(random, made)
    if random.random() < 0.3:
        trace = random.choice((b"00-" + b"0" * 32, b"\xff" * 55, b"", random.randbytes(55)))
        return made._replace(headers=made.headers | {b"traceparent": trace})
    size = random.choice((*LENGTHS, b"%d" % random.randrange(len(made.body) + 2)))
    return made._replace(headers=made.headers | {LENGTH: size})


def change_path(random: Random, made: Input) -> Input:
    """Change a part of the path; of a call, send its message to another."""
    if made.method == GRPC:
        return made._replace(path=random.choice(CALLS))
    parts = made.path.split("/")
    place = random.randrange(1, len(parts))
    return made._replace(path="/".join([*parts[:place], random.choice(PATHS), *parts[place + 1 :]]))


MUTATIONS: list[Callable[[Random, Input], Input]] = [
    *[change_document] * 6,
    *[change_bytes] * 4,
    cut_body,
    change_headers,
    change_path,
]


def resident() -> float:
    """Return the memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
