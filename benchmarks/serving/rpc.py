"""gRPC: the same rows as raw tensors in `inference.GRPCInferenceService/ModelInfer`, by h2load.

h2load speaks HTTP/2 and knows nothing of gRPC: a call that is refused is a 200 to it, with the
reason in the trailer. So a drive counts only if every answer carried as many bytes as a good one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.serving.encoding import Encoding
from benchmarks.serving.load import CONNECTIONS, Load, Request
from benchmarks.serving.mlp import NAME, Layout, Rows, split
from benchmarks.serving.process import Server
from tidemill.errors import Unavailable
from tidemill.server.rpc.schema import SERVICE, message

__all__ = ["GRPC"]

PATH = f"/{SERVICE}/ModelInfer"
ID = "0" * 36
"""As long as those that servers make themselves: all answers then have the same size."""
FRAME = 5
"""Bytes before each message of gRPC: not compressed, and its length."""
DONE = re.compile(
    r"finished in [\d.]+\w+, .*?requests: (?P<total>\d+) total, .*?"
    r"(?P<done>\d+) done, (?P<good>\d+) succeeded, .*?"
    r"\((?P<data>\d+)\) data",
    re.S,
)


def _as_message(layout: Layout, rows: Rows, headers: Mapping[str, str]) -> Request:
    request = message("ModelInferRequest")(model_name=NAME, id=ID)
    for name, part in split(layout, rows):
        shape = part.shape if part.shape[1] > 1 else part.shape[:1]
        request.inputs.add(name=name, datatype="FP32", shape=shape)
        request.raw_input_contents.append(part.astype("<f4").tobytes())
    return Request(PATH, request.SerializeToString(), headers)


def _scores(server: Server, request: Request) -> Rows:
    answer = message("ModelInferResponse").FromString(_call(server, request))
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], "<f4")
    return np.asarray(answer.outputs[0].contents.fp32_contents, np.float32)


def _call(server: Server, request: Request) -> bytes:
    metadata = tuple((name.lower(), value) for name, value in request.headers.items())
    with grpc.insecure_channel(server.grpc) as channel:
        infer: Any = channel.unary_unary(request.path)
        try:
            answer: bytes = infer(request.body, metadata=metadata, timeout=30, wait_for_ready=True)
        except grpc.RpcError as error:
            raise Unavailable(f"gRPC was refused: {error.details()}") from error
    return answer


def _drive(
    server: Server, request: Request, *, core: int, seconds: int, pause_ms: float = 0.0
) -> Load:
    """Drive with h2load (a `Drive`), a call at a time on each connection and without pauses."""
    if pause_ms:
        raise ValueError("h2load does not pause")
    if shutil.which("h2load") is None:
        raise Unavailable("h2load is not on the PATH: apt-get install nghttp2-client")
    least = FRAME + len(_call(server, request))
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder) / "body", Path(folder) / "log"
        body.write_bytes(b"\0" + len(request.body).to_bytes(4, "big") + request.body)
        command = ["taskset", "--cpu-list", str(core), "h2load", "--threads", "1"]
        command += ["--clients", str(CONNECTIONS), "--max-concurrent-streams", "1"]
        command += ["--duration", str(seconds), "--data", str(body), "--log-file", str(log)]
        sent = {"content-type": "application/grpc", "te": "trailers", **request.headers}
        for name, value in sent.items():
            command += ["--header", f"{name.lower()}: {value}"]
        before = server.cpu_seconds
        done = subprocess.run(
            [*command, f"http://{server.grpc}{request.path}"],
            capture_output=True,
            text=True,
            check=False,
        )
        spent = server.cpu_seconds - before
        found = DONE.search(done.stdout)
        if done.returncode or found is None or not int(found["done"]):
            raise Unavailable(f"h2load failed: {(done.stderr or done.stdout).strip()[-300:]}")
        times = np.loadtxt(log, usecols=(1, 2), ndmin=2)
    count = int(found["done"])
    if int(found["good"]) < count or int(found["data"]) < count * least:
        raise Unavailable(f"of {count} calls some were refused: {found[0][-200:]}")
    p50, p99 = np.percentile(times[times[:, 0] == 200, 1], (50, 99)) / 1000
    return Load(count, float(seconds), float(p50), float(p99), spent)


GRPC = Encoding("gRPC", _as_message, _scores, _drive)
