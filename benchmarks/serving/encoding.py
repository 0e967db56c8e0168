"""How rows travel: V2 JSON, and V2 with the binary tensor data extension, both over HTTP.

An encoding also says how it is asked and driven: gRPC is one more, with its own `ask` and `drive`
(`rpc`), named in `encodings` of the contestants that speak it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from benchmarks.serving.load import Drive, Request, wrk
from benchmarks.serving.mlp import NAME, Layout, Rows, split
from benchmarks.serving.process import Server

__all__ = ["BINARY", "JSON", "Encoding"]

PATH = f"/v2/models/{NAME}/infer"
SIZE = "Inference-Header-Content-Length"


@dataclass(frozen=True)
class Encoding:
    """One way to send rows and to read scores."""

    name: str
    pack: Callable[[Layout, Rows, Mapping[str, str]], Request]
    """Makes a request of a layout, rows and headers that the contestant wants besides."""
    ask: Callable[[Server, Request], Rows]
    """Sends one request; returns its scores. Raises httpx.HTTPError when it is refused."""
    drive: Drive = wrk


def _as_json(layout: Layout, rows: Rows, headers: Mapping[str, str]) -> Request:
    inputs = [
        _header(name, part) | {"data": [float(str(x)) for x in part.ravel()]}
        for name, part in split(layout, rows)
    ]
    return Request(
        PATH,
        json.dumps({"inputs": inputs}, separators=(",", ":")).encode(),
        {**headers, "Content-Type": "application/json"},
    )


def _as_binary(layout: Layout, rows: Rows, headers: Mapping[str, str]) -> Request:
    parts = split(layout, rows)
    inputs = [
        _header(name, part) | {"parameters": {"binary_data_size": part.nbytes}}
        for name, part in parts
    ]
    document = {"inputs": inputs, "parameters": {"binary_data_output": True}}
    head = json.dumps(document, separators=(",", ":")).encode()
    return Request(
        PATH,
        head + b"".join(part.tobytes() for _, part in parts),
        {**headers, "Content-Type": "application/octet-stream", SIZE: str(len(head))},
    )


def _header(name: str, part: Rows) -> dict[str, Any]:
    shape = part.shape if part.shape[1] > 1 else part.shape[:1]
    return {"name": name, "shape": shape, "datatype": "FP32"}


def _scores_of_json(server: Server, request: Request) -> Rows:
    return np.float32(_post(server, request).json()["outputs"][0]["data"]).ravel()


def _scores_of_binary(server: Server, request: Request) -> Rows:
    answer = _post(server, request)
    return np.frombuffer(answer.content[int(answer.headers[SIZE]) :], "<f4")


def _post(server: Server, request: Request) -> httpx.Response:
    answer = httpx.post(server.http + request.path, content=request.body, headers=request.headers)
    return answer.raise_for_status()


JSON = Encoding("JSON", _as_json, _scores_of_json)
BINARY = Encoding("binary", _as_binary, _scores_of_binary)
