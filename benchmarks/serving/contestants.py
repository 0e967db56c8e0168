"""Who takes part, and how each was configured: one process, one thread, logging off.

A foreign server lives in `contestants/NAME`: its application and `requirements.txt`. All of them
get uvloop and httptools, also those that do not ask for them, and answer the same path. MLServer's
worker processes do not start with a uvloop newer than 0.21.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from shutil import copytree

from benchmarks.serving import mlp, ours
from benchmarks.serving.encoding import BINARY, JSON, Encoding
from benchmarks.serving.environment import make_environment
from benchmarks.serving.mlp import Layout
from benchmarks.serving.process import Launch
from benchmarks.serving.rpc import GRPC

__all__ = ["BARE", "CONTESTANTS", "FULL", "LEAN", "MLSERVER", "Contestant", "Entry"]

FOLDER = Path(__file__).with_name("contestants")
FULL, BARE, MLSERVER, LEAN = "tidemill", "bare uvicorn", "MLServer", "MLServer, lean"
"""Whose figures the targets compare."""


@dataclass(frozen=True)
class Entry:
    """A contestant that is ready to start."""

    launch: Launch
    layout: Layout = field(default_factory=lambda: mlp.WIDE)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request."""


@dataclass(frozen=True)
class Contestant:
    """A server that takes part."""

    name: str
    configured: str
    """What the table says of its configuration."""
    prepare: Callable[[Path], Entry]
    """Makes it ready in an empty folder; raises Unavailable when it does not install."""
    encodings: tuple[Encoding, ...] = (JSON,)
    quick: bool = False
    """Takes part in the short run too."""


def _guarded(folder: Path) -> Entry:
    launch = ours.launch(folder, ours.GUARDS)
    return Entry(launch, ours.LAYOUT, ours.write_key(launch.cwd))


def _guarded_grpc(folder: Path) -> Entry:
    entry = _guarded(folder)
    command = (*entry.launch.command, "--grpc-port", "{grpc}")
    return replace(entry, launch=replace(entry.launch, command=command))


def _unguarded(folder: Path) -> Entry:
    return Entry(ours.launch(folder, ours.NO_GUARDS), ours.LAYOUT)


def _foreign(
    name: str, *command: str, ready: str = "/v2/models/mlp/ready", **env: str
) -> Callable[[Path], Entry]:
    """Return how to prepare the server in `contestants/NAME`, started by a program of its own."""

    def prepare(folder: Path) -> Entry:
        programs = make_environment(FOLDER / name / "requirements.txt")
        home = copytree(FOLDER / name, folder / name)  # some write beside their application
        given = {
            "MODEL": str(mlp.write(folder / "model.onnx", mlp.WIDE)),
            "PYTHONPATH": f"{FOLDER / 'shared'}:{home}",
            "OMP_NUM_THREADS": "1",
            "HOME": str(folder),
        }
        launch = (str(programs / command[0]), *command[1:])
        return Entry(Launch(launch, home, given | env, ready))

    return prepare


def _mlserver(**env: str) -> Callable[[Path], Entry]:
    ports = {"MLSERVER_HTTP_PORT": "{http}", "MLSERVER_GRPC_PORT": "{grpc}"}
    return _foreign("mlserver", "mlserver", "start", ".", **ports, **env)


def _kserve(*options: str) -> Callable[[Path], Entry]:
    return _foreign(
        *("kserve", "python", "app.py", "--http_port", "{http}", "--workers", "1"),
        *("--enable_latency_logging", "false", "--log_config_file", "logging.yaml"),
        *("--event-loop", "uvloop", *options),
    )


CONTESTANTS = (
    Contestant(
        BARE,
        "raw ASGI, httptools, uvloop, msgspec; no checks, no log, no metrics",
        _foreign(
            *("bare-uvicorn", "uvicorn", "app:app", "--port", "{http}", "--loop", "uvloop"),
            *("--http", "httptools", "--ws", "none", "--lifespan", "off"),
            *("--no-access-log", "--log-level", "warning", "--no-server-header"),
        ),
        quick=True,
    ),
    Contestant(
        FULL,
        "every guard: signature verified, 100 API keys, one with a rate, limits, every row in the "
        "prediction log, metrics",
        _guarded,
        (JSON, BINARY),
        quick=True,
    ),
    Contestant(
        "tidemill, gRPC on",
        "every guard, and the gRPC endpoint beside HTTP",
        _guarded_grpc,
        (JSON, GRPC),
    ),
    Contestant(
        "tidemill, guards off",
        "no keys, no signature, no prediction log; validation, limits and metrics stay",
        _unguarded,
        (JSON, BINARY),
    ),
    Contestant(
        "bare granian",
        "RSGI, uvloop, msgspec, 1 worker, 1 runtime thread; no checks, no log, no metrics",
        _foreign(
            *("bare-granian", "granian", "app:app", "--interface", "rsgi", "--port", "{http}"),
            *("--loop", "uvloop", "--http", "1", "--no-ws", "--log-level", "warning"),
        ),
    ),
    Contestant(
        "FastAPI",
        "pydantic models in and out, async endpoint, uvicorn with httptools and uvloop, no access "
        "log",
        _foreign(
            *("fastapi", "uvicorn", "app:app", "--port", "{http}", "--loop", "uvloop"),
            *("--http", "httptools", "--no-access-log", "--log-level", "warning"),
        ),
    ),
    Contestant(
        MLSERVER,
        "custom runtime, its defaults but debug off: 1 inference worker, metrics and gzip on; no "
        "binary tensors over HTTP",
        _mlserver(),
        (JSON, GRPC),
        quick=True,
    ),
    Contestant(
        LEAN,
        "the same with parallel_workers 0 (no hop to a worker), metrics and gzip off",
        _mlserver(
            MLSERVER_PARALLEL_WORKERS="0",
            MLSERVER_METRICS_ENDPOINT="",
            MLSERVER_GZIP_ENABLED="false",
        ),
        (JSON, GRPC),
    ),
    Contestant(
        "KServe",
        "custom Model, 1 worker, gRPC, access and latency logs off",
        _kserve("--enable_grpc", "false"),
        (JSON, BINARY),
    ),
    Contestant(
        "KServe, gRPC on",
        "the same with its gRPC server beside HTTP",
        _kserve("--enable_grpc", "true", "--grpc_port", "{grpc}"),
        (JSON, GRPC),
    ),
    Contestant(
        "BentoML",
        "async API with pydantic models, 1 worker, metrics, access log and tracking off",
        _foreign(
            *("bentoml", "bentoml", "serve", "--quiet", "app:Mlp", "--port", "{http}"),
            *("--host", "127.0.0.1"),
            ready="/readyz",
            BENTOML_DO_NOT_TRACK="True",
        ),
    ),
)
"""In the order of a round; the next round goes backwards."""
