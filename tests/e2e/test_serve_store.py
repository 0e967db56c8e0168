"""A real server and an online store that is slow, hangs, is cut off or holds something else."""

from __future__ import annotations

import json
import socket
import sqlite3
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import mmh3
import pytest
import redis as client
from tests.serving import AS_OF, FULL, KEYS, Project, Server, body, make_project, wait_until

from tidemill.adapters.feast_wire import entity_key
from tidemill.adapters.online_redis import RedisOnlineStore
from tidemill.adapters.online_store import Filled
from tidemill.testing.models import MANIFEST

pytestmark = pytest.mark.slow


class Proxy:
    """A way to a server that can be slow, silent or cut."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        """Seconds that each piece of an answer is held back."""
        self.cut = False
        """Close every connection that is used or made."""
        self._behind = port
        self._ended = threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                asked, _ = self._listening.accept()
                behind = socket.create_connection(("127.0.0.1", self._behind))
                self._open += [asked, behind]
                for pair in ((asked, behind, False), (behind, asked, True)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, back: bool) -> None:
        with suppress(OSError):
            while (piece := source.recv(65536)) and not self.cut:
                if back:
                    self._ended.wait(self.delay)
                target.sendall(piece)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def double(value: float) -> bytes:
    return b"\x29" + struct.pack("<d", value)


def fill_redis(port: int) -> client.Redis:
    """Write what `tests.serving.fill` writes, as Feast lays it out in Redis."""
    store = client.Redis(port=port)
    seconds, stamp = int(AS_OF.timestamp()), b"\x08"
    while seconds > 0x7F:
        stamp, seconds = stamp + bytes([seconds & 0x7F | 0x80]), seconds >> 7
    stamp += bytes([seconds])
    values: dict[str, tuple[dict[str, str], str, bytes]] = {
        "carrier_delay": ({"carrier": "UA"}, "carrier_late_rate_7d", double(0.5)),
        "origin_weather": ({"origin": "JFK"}, "temp", double(40.0)),
        "plane": ({"tailnum": "N1"}, "seats", b"\x20\xc8\x01"),
    }
    for view, (keys, feature, value) in values.items():
        name: Any = entity_key(keys) + b"flights"
        field = mmh3.hash(f"{view}:{feature}", signed=False).to_bytes(4, "little")
        store.hset(name, mapping={f"_ts:{view}".encode(): stamp, field: value})  # type: ignore[dict-item]
    filled = Filled(AS_OF, {MANIFEST.features.name: MANIFEST.features.digest})
    RedisOnlineStore("flights", store).advance(filled)
    return store


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path)
    yield made
    made.close()


@pytest.fixture
def proxy(redis_port: int) -> Iterator[Proxy]:
    store = fill_redis(redis_port)
    made = Proxy(redis_port)
    yield made
    made.close()
    store.flushall()
    store.close()


def serve(project: Project, proxy: Proxy, *options: str) -> Server:
    online = json.dumps({"type": "redis", "port": proxy.port})
    local = project.root / "configs/local.yaml"
    local.write_text(local.read_text() + f"features: {{online: {online}}}\n")
    return project.serve(*options)


def defaulted(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    marks = answer.json()["parameters"].get("defaulted", "")
    return [mark.partition("=")[0] for mark in marks.split(",") if mark]


EVERY = ["carrier_late_rate_7d", "temp", "seats"]


def test_a_store_that_becomes_slow_costs_features_and_no_request(
    project: Project, proxy: Proxy
) -> None:
    server = serve(project, proxy, "--set", "serving.lookup_pause_seconds=0.1")
    full = server.infer(FULL).json()["outputs"][0]["data"]
    wait_until(lambda: not defaulted(server.infer(KEYS)))
    assert server.infer(KEYS).json()["outputs"][0]["data"] == full
    proxy.delay = 5.0  # a hundred times the deadline
    for number in range(12):
        assert defaulted(server.infer(KEYS, id=str(number))) == EVERY
    assert server.metric("tidemill_store_open") == 1
    assert "lookups fail, features fall back to defaults" in project.stderr
    # Whoever gives its features does not wait for the store at all.
    assert server.infer(FULL).json()["outputs"][0]["data"] == full
    proxy.delay = 0.0
    wait_until(lambda: not defaulted(server.infer(KEYS)))
    assert server.metric("tidemill_store_open") == 0
    assert server.metric("tidemill_requests_total") == server.metric("tidemill_rows_total")
    assert server.stop() == 0
    log = project.log()
    marked = log.filter(log["request_id"].is_in([str(n) for n in range(12)]))
    assert [row.to_list() for row in marked["defaulted"]] == [EVERY] * 12


def test_a_store_that_is_cut_off_in_the_middle_is_asked_again_when_it_is_back(
    project: Project, proxy: Proxy
) -> None:
    server = serve(project, proxy, "--set", "serving.lookup_pause_seconds=0.1")
    wait_until(lambda: not defaulted(server.infer(KEYS)))
    proxy.cut = True
    wait_until(lambda: defaulted(server.infer(KEYS)) == EVERY)
    for _ in range(6):
        assert defaulted(server.infer(KEYS)) == EVERY
    proxy.cut = False
    wait_until(lambda: not defaulted(server.infer(KEYS)))
    assert server.metric("tidemill_requests_total") == server.metric("tidemill_rows_total")
    assert server.stop() == 0


def test_redis_with_something_else_under_its_keys_gives_defaults(
    project: Project, proxy: Proxy, redis_port: int
) -> None:
    server = serve(project, proxy, "--set", "serving.lookup_pause_seconds=0.05")
    wait_until(lambda: not defaulted(server.infer(KEYS)))
    name: Any = entity_key({"origin": "JFK"}) + b"flights"
    field = mmh3.hash("origin_weather:temp", signed=False).to_bytes(4, "little")
    with closing(client.Redis(port=redis_port)) as store:
        for broken in (b"\x12\x04warm", b"\xff\xff\xff", b"", double(float("inf"))):
            store.hset(name, field, broken)  # type: ignore[arg-type]
            assert "temp" in defaulted(server.infer(KEYS))
        store.delete(name)
        store.set(name, "a text, no hash")
        assert "temp" in defaulted(server.infer(KEYS))
        store.delete(name)
        fill_redis(redis_port).close()
    wait_until(lambda: not defaulted(server.infer(KEYS)))
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("value", "a text, no bytes"),
        ("value", 7),
        ("value", b"\x12\x04warm"),
        ("value", b"\xff\xff"),
        ("value", None),
        ("event_ts", "yesterday"),
        ("event_ts", b"\x00"),
        ("event_ts", None),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_sqlite_columns_of_other_types_give_defaults(
    sqlite_server: tuple[Project, Server], column: str, value: object
) -> None:
    project, server = sqlite_server
    path = project.root / ".tidemill/feast/online.db"
    with closing(sqlite3.connect(path)) as store:
        wait_until(lambda: not defaulted(server.infer(KEYS)))
        before = store.execute("SELECT * FROM flights_origin_weather").fetchall()
        store.execute(f"UPDATE flights_origin_weather SET {column} = ?", (value,))
        store.commit()
        assert "temp" in defaulted(server.infer(KEYS))
        store.execute("DELETE FROM flights_origin_weather")
        store.executemany("INSERT INTO flights_origin_weather VALUES (?,?,?,?,?,?,?)", before)
        store.commit()
    wait_until(lambda: not defaulted(server.infer(KEYS)))
    assert server.process.poll() is None


@pytest.fixture(scope="module")
def sqlite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Server]]:
    made = make_project(tmp_path_factory.mktemp("sqlite"))
    yield made, made.serve("--set", "serving.lookup_pause_seconds=0.05")
    made.close()


def test_a_request_is_refused_when_its_time_is_over(project: Project, proxy: Proxy) -> None:
    patient = ("--set", "serving.lookup_deadline_ms=3000")
    server = serve(project, proxy, *patient, "--set", "serving.limits.request_seconds=0.3")
    wait_until(lambda: server.infer(KEYS).status_code == 200)
    proxy.delay = 60.0
    late = server.infer(KEYS)
    assert (late.status_code, late.json()["code"]) == (504, "deadline_exceeded")
    assert server.infer(FULL).status_code == 200
    assert server.metric("tidemill_requests_in_flight") == 0
    assert server.stop() == 0  # once the read has ended, too


def test_answers_under_load_go_on_while_the_store_hangs(project: Project, proxy: Proxy) -> None:
    server = serve(project, proxy)
    wait_until(lambda: not defaulted(server.infer(KEYS)))
    proxy.delay = 60.0
    content = json.dumps(body(KEYS)).encode()
    found: list[int] = []

    def ask() -> None:
        with httpx.Client() as asking:
            for _ in range(25):
                url = f"{server.url}/v2/models/flight-delay/infer"
                found.append(asking.post(url, content=content).status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [200] * 200
    assert server.stop() == 0
