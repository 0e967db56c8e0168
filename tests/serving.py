"""A project on disk with a real server process: bundle signed, online store filled, no mocks."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import httpx
import polars as pl
from tests.load import Load

from tidemill.adapters.feast_wire import entity_key
from tidemill.adapters.online_sqlite import SqliteOnlineStore
from tidemill.adapters.online_store import Filled
from tidemill.adapters.signing import Signer
from tidemill.bundle import revision, verify
from tidemill.testing.models import MANIFEST, write_bundle

ROOT = Path(__file__).parents[1]
TIDEMILL = Path(sys.executable).with_name("tidemill")
AS_OF = datetime(2013, 4, 1, 9, tzinfo=UTC)
FULL = {
    "flight_id": "f1",
    "sched_minute": 600.0,
    "carrier": "UA",
    "origin": "JFK",
    "carrier_late_rate_7d": 0.5,
    "temp": 40.0,
    "seats": 200.0,
}
KEYS = {k: FULL[k] for k in ("flight_id", "sched_minute", "carrier", "origin")} | {"tailnum": "N1"}


@dataclass
class Project:
    """A project on disk with a signed bundle and a filled online store."""

    root: Path
    bundle: Path
    public_key: Path
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def revision(self) -> str:
        return revision(verify(self.bundle, self.public_key))

    def start(
        self, *options: str, repository: Path | None = None, **more: Any
    ) -> subprocess.Popen[str]:
        """Start a server of the bundle, or of a repository, on a free port."""
        environment = {
            **os.environ,
            "TIDEMILL_CLOCK": str(self.root / "clock.json"),
            "OMP_NUM_THREADS": "1",
            **more.pop("env", {}),
        }
        command = [str(TIDEMILL), "--project", str(self.root), "serve"]
        one = ["--bundle", str(self.bundle), "--version", "7"]
        command += ["--repository", str(repository)] if repository else one
        command += ["--port", "0", *options]
        with (self.root / "stderr").open("w") as stderr:
            process = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
                **more,
            )
        self.processes.append(process)
        return process

    def serve(self, *options: str, **more: Any) -> Server:
        """Start a server and wait until it is ready."""
        process = self.start(*options, **more)
        assert process.stdout
        url = process.stdout.readline().strip()
        assert url.startswith("http://"), self.stderr
        server = Server(process, url)
        wait_until(lambda: server.get("/v2/health/ready").status_code == 200)
        return server

    def refused(self, *options: str) -> tuple[int, str]:
        """Start a server that must not come up; return its exit code and what it said."""
        return self.start(*options).wait(60), self.stderr

    @property
    def stderr(self) -> str:
        return (self.root / "stderr").read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]

    def log(self) -> pl.DataFrame:
        """The prediction log, every file of which must be whole."""
        files = sorted(
            (self.root / ".tidemill/objects/predictions/flight-delay").rglob("*.parquet")
        )
        return pl.concat([pl.read_parquet(file) for file in files])

    def close(self) -> None:
        """Leave no process behind."""
        for process in self.processes:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path)

    def infer(self, row: dict[str, Any], rows: int = 1, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/v2/models/flight-delay/infer", json=body(row, rows) | more)

    def metric(self, name: str) -> float:
        found = re.findall(rf"^{name}\{{.*?\}} (.*)$", self.get("/metrics").text, re.M)
        return sum(map(float, found))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


def body(row: dict[str, Any], rows: int = 1) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": name,
                "shape": [rows],
                "datatype": "BYTES" if isinstance(value, str) else "FP32",
                "data": [value] * rows,
            }
            for name, value in row.items()
        ]
    }


class Calls(Load):
    """Clients with keep-alive connections that ask until the server accepts no more."""

    def _client(self, number: int) -> None:
        with httpx.Client() as client:
            for turn in range(1_000_000):
                name = f"{number}-{turn}"
                try:
                    content = body(FULL if turn % 2 else KEYS) | {"id": name}
                    answer = client.post(
                        f"{self.target}/v2/models/flight-delay/infer", json=content
                    )
                except httpx.ConnectError:  # not accepted: nothing was lost
                    return
                except httpx.HTTPError as error:
                    self.failures.append(f"{name}: {error!r}")
                    return
                if answer.status_code != 200 or answer.json()["id"] != name:
                    self.failures.append(f"{name}: {answer.status_code}")
                self.answered.append(name)


def wait_until(condition: Callable[[], bool]) -> None:
    end = monotonic() + 60
    while not condition():
        assert monotonic() < end
        sleep(0.02)


def fill(path: Path, digest: str) -> None:
    """Write the online store as Feast lays it out (docs of `adapters.feast_wire`)."""
    double = lambda value: b"\x29" + struct.pack("<d", value)  # noqa: E731
    rows = {
        "carrier_delay": ({"carrier": "UA"}, "carrier_late_rate_7d", double(0.5)),
        "origin_weather": ({"origin": "JFK"}, "temp", double(40.0)),
        "plane": ({"tailnum": "N1"}, "seats", b"\x20\xc8\x01"),
    }
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as connection, connection:
        for view, (keys, feature, value) in rows.items():
            connection.execute(
                f'CREATE TABLE "flights_{view}" (entity_key BLOB, feature_name TEXT, value BLOB, '
                "value_text TEXT, vector_value BLOB, event_ts INTEGER, created_ts INTEGER, "
                "PRIMARY KEY (entity_key, feature_name))"
            )
            connection.execute(
                f'INSERT INTO "flights_{view}" VALUES (?, ?, ?, NULL, NULL, ?, NULL)',
                (entity_key(keys), feature, value, int(AS_OF.timestamp())),
            )
    SqliteOnlineStore("flights", path).advance(Filled(AS_OF, {MANIFEST.features.name: digest}))


def make_project(folder: Path) -> Project:
    """Write a project with the reference settings and the small model of `tidemill.testing`."""
    root = folder / "project"
    (root / "configs").mkdir(parents=True)
    (root / "configs/base.yaml").write_text((ROOT / "configs/base.yaml").read_text())
    (root / "configs/local.yaml").write_text(
        "serving: {notice_seconds: 0.3, log: {flush_seconds: 0.2}}\n"
    )
    (root / "clock.json").write_text(json.dumps({"now": "2013-04-01T12:00:00+00:00"}))
    keys = root / ".tidemill/keys"
    bundle = write_bundle(folder / "bundle")
    Signer(keys / "signing.pem", keys / "signing.pub").sign(bundle)
    fill(root / ".tidemill/feast/online.db", MANIFEST.features.digest)
    return Project(root, bundle, keys / "signing.pub")
