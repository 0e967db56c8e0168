"""`tidemill serve` as a process: real bundle, real signature, real online store, real signals."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import polars as pl
import pytest
from tests.serving import (
    AS_OF,
    FULL,
    KEYS,
    Calls,
    Project,
    body,
    fill,
    make_project,
    wait_until,
)

from tidemill.testing.models import MANIFEST, write_bundle

pytestmark = pytest.mark.slow

FORBIDDEN = {"torch", "mlflow", "feast", "kfp", "evidently", "pandas"}


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path)
    yield made
    made.close()


def test_it_answers_from_the_online_store_and_logs_what_it_answered(project: Project) -> None:
    server = project.serve()
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    full = server.infer(FULL, id="given").json()
    found = httpx.post(
        f"{server.url}/v2/models/flight-delay/versions/7/infer",
        json=body(KEYS, 2) | {"id": "looked-up"},
        headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"},
    ).json()
    unknown = server.infer(KEYS | {"tailnum": "N2"}, id="unknown").json()
    assert full["outputs"][0]["data"] * 2 == found["outputs"][0]["data"]
    assert found["parameters"] == {
        "revision": project.revision,
        "features_as_of": AS_OF.isoformat(),
    }
    assert unknown["parameters"]["defaulted"] == "seats=1"
    assert found["model_version"] == "7"
    assert server.stop() == 0
    log = project.log()
    assert log["request_id"].to_list() == ["given", "looked-up", "looked-up", "unknown"]
    answered = [x for a in (full, found, unknown) for x in a["outputs"][0]["data"]]
    assert log["score"].to_list() == answered
    assert log["seats"].to_list() == [200.0, 200.0, 200.0, 150.0]
    assert log["tailnum"].to_list() == [None, "N1", "N1", "N2"]
    assert log["defaulted"].to_list() == [[], [], [], ["seats"]]
    assert log["features_as_of"].to_list() == [None, AS_OF, AS_OF, AS_OF]
    assert log["trace_id"].to_list() == [None, trace, trace, None]
    assert log["at"].unique().to_list() == [datetime(2013, 4, 1, 12, tzinfo=UTC)]
    assert log["revision"].unique().to_list() == [project.revision]


def test_features_expire_and_the_store_may_vanish(project: Project) -> None:
    server = project.serve()
    (project.root / "clock.json").write_text(json.dumps({"now": "2013-04-03T12:00:00+00:00"}))
    assert server.infer(KEYS).json()["parameters"]["defaulted"] == "temp=1"  # its ttl is a day
    with closing(sqlite3.connect(project.root / ".tidemill/feast/online.db")) as connection:
        connection.execute("DROP TABLE flights_plane")
    broken = server.infer(KEYS)
    assert broken.status_code == 200
    assert broken.json()["parameters"]["defaulted"].count("=1") == 3
    assert server.metric("tidemill_defaults_total") == 4
    assert server.stop() == 0


def test_a_store_that_was_never_filled_does_not_keep_it_down(project: Project) -> None:
    (project.root / ".tidemill/feast/online.db").unlink()
    server = project.serve()
    assert server.infer(KEYS).json()["parameters"]["defaulted"].count("=1") == 3
    assert "cannot be verified yet" in project.stderr
    (project.root / ".tidemill/feast").rmdir()
    fill(project.root / ".tidemill/feast/online.db", MANIFEST.features.digest)
    assert "defaulted" not in server.infer(KEYS).json()["parameters"]


def test_a_tampered_bundle_is_refused(project: Project) -> None:
    write_bundle(project.bundle, bias=3.0)  # another model under the old signature
    code, said = project.refused()
    assert code == 3
    assert "'model.onnx' is not what was signed" in said
    server = project.serve("--no-verify")
    assert "VERIFICATION IS OFF" in project.stderr
    assert server.infer(FULL).status_code == 200


def test_an_unsigned_bundle_and_a_missing_key_are_refused(project: Project) -> None:
    (project.bundle / "model.sig").unlink()
    code, said = project.refused()
    assert (code, "is not signed" in said) == (3, True)
    project.public_key.unlink()
    code, said = project.refused()
    assert (code, "no public key" in said) == (1, True)


def test_another_feature_definition_is_refused(project: Project) -> None:
    features = replace(MANIFEST.features, digest="sha256:" + "6" * 64)
    write_bundle(project.bundle, manifest=replace(MANIFEST, features=features))
    code, said = project.refused("--no-verify")
    assert code == 1, "the store may still be filled: a rollout does not give up at once"
    assert "sha256:6666" in said
    assert "sha256:5555" in said


def test_a_taken_port_is_a_clear_error(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = project.refused("--port", str(port))
    assert code == 1
    assert f"127.0.0.1:{port}" in said
    assert "Address already in use" in said
    assert "Traceback" not in said


def test_the_process_loads_none_of_the_training_side(project: Project) -> None:
    server = project.serve(env={"PYTHONPROFILEIMPORTTIME": "1"})
    server.infer(FULL)
    server.infer(KEYS)
    server.infer({})
    wait_until(lambda: server.metric("tidemill_log_rows_total") == 2)
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    assert server.stop() == 0
    names = {
        line.rpartition("|")[2].strip()
        for line in project.stderr.splitlines()
        if line.startswith("import time:")
    }
    # An import that failed is listed too; one that worked brings its submodules.
    loaded = {name.partition(".")[0] for name in names if "." in name}
    assert {"onnxruntime", "httptools", "lz4", "msgspec", "sqlite3"} <= loaded
    assert not loaded & (FORBIDDEN | {"polars", "pyarrow", "dvc", "sqlalchemy", "sklearn", "onnx"})
    assert not re.search(r"/(torch|pandas|polars|sklearn)/", maps)


def test_a_drain_under_load_answers_and_logs_all_it_accepted(project: Project) -> None:
    server = project.serve()
    load = Calls(server.url)
    load.start(8)
    wait_until(lambda: len(load.answered) > 300)
    before = len(load.answered)
    assert server.stop() == 0
    load.join()
    assert load.failures == []
    assert len(load.answered) > before  # it went on answering while it drained
    assert sorted(project.log()["request_id"]) == sorted(load.answered)
    assert project.events[-1]["event"] == "stopped"


def test_it_says_not_ready_while_it_drains_and_a_second_signal_ends_it(project: Project) -> None:
    server = project.serve("--set", "serving.notice_seconds=60")
    with httpx.Client(base_url=server.url) as client:
        assert "connection" not in client.get("/v2/health/live").headers
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/v2/health/ready").status_code == 503)
        answer = client.post("/v2/models/flight-delay/infer", json=body(FULL))
    assert answer.status_code == 200
    assert answer.headers["connection"] == "close"
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 128 + signal.SIGTERM


def test_a_body_that_never_ends_does_not_hold_the_drain_up(project: Project) -> None:
    options = ("--set", "serving.drain_seconds=1", "--set", "serving.access_log.always_from=400")
    server = project.serve(*options)
    url = httpx.URL(server.url)
    with socket.create_connection((url.host, url.port or 0), timeout=20) as endless:
        endless.sendall(b"POST /v2/models/flight-delay/infer HTTP/1.1\r\nhost: a\r\n")
        endless.sendall(b"content-length: 100\r\n\r\nabc")
        assert server.infer(FULL).status_code == 200
        assert server.stop() == 0
    (cut,) = [e for e in project.events if e["event"] == "connections were cut at the end"]
    assert cut["connections"] == 1
    (line,) = [e for e in project.events if e["event"] == "request"]
    assert (line["status"], line["code"], line["bytes_in"]) == (499, "draining", 3)


def test_kill_9_loses_at_most_what_was_not_yet_flushed_and_the_next_counts_it(
    project: Project,
) -> None:
    often = ("--set", "serving.log.flush_rows=10", "--set", "serving.log.flush_seconds=600")
    server = project.serve(*often)
    for number in range(25):
        server.infer(FULL, id=str(number))
    wait_until(lambda: server.metric("tidemill_log_rows_total") >= 20)
    server.process.kill()
    server.process.wait()
    kept = project.log()["request_id"].to_list()
    assert kept == [str(number) for number in range(len(kept))]
    assert 20 <= len(kept) < 25
    for lost in (25 - len(kept), 0):  # once, by the first process that comes
        server = project.serve(*often)
        assert server.metric("tidemill_log_lost_unloaded_total") == lost
        assert server.stop() == 0


def test_what_kill_9_loses_under_load_is_counted_by_the_next_process(project: Project) -> None:
    """Each answered row is in the log or counted; what was under way may be counted, too."""
    flush, clients = 40, 4
    often = ("--set", f"serving.log.flush_rows={flush}", "--set", "serving.log.flush_seconds=600")
    server = project.serve(*often)
    load = Calls(server.url)
    load.start(clients)
    wait_until(lambda: server.metric("tidemill_log_rows_total") >= 2 * flush)
    server.process.kill()
    load.join()
    answered = set(load.answered)
    server = project.serve(*often)
    kept = project.log()["request_id"].to_list()
    lost = server.metric("tidemill_log_lost_unloaded_total")
    assert len(set(kept)) == len(kept)
    assert len(answered.difference(kept)) <= lost
    # Beyond what was answered: a row of each client, a file that was stored and not yet counted. It
    # has more than `flush` rows where the writer came late.
    files = (project.root / ".tidemill/objects/predictions").rglob("*.parquet")
    largest = max(len(pl.read_parquet(file)) for file in files)
    assert len(kept) + lost <= len(answered) + clients + largest
    assert server.stop() == 0


@pytest.mark.parametrize("room", [16, 2048], ids=["even for standard error", "for its files"])
def test_without_disk_space_answers_go_on_and_rows_are_counted(project: Project, room: int) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))  # as a full disk: write(2) fails

    server = project.serve(
        "--set",
        "serving.log.buffer_rows=50",
        "--set",
        "serving.drain_seconds=1",
        preexec_fn=limit,
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    )
    for number in range(8):
        assert server.infer(FULL, 10, id=str(number)).status_code == 200
    assert server.metric("tidemill_log_lost_total") == 30
    assert server.stop() == 0
    assert not list((project.root / ".tidemill/objects").rglob("*.parquet"))
    if room > 16:
        assert "rows of the prediction log were lost" in project.stderr
        assert project.events[-2]["rows"] == 50


def test_a_large_body_is_refused_with_a_reason_the_client_can_read(project: Project) -> None:
    server = project.serve("--set", "serving.max_body_bytes=100000")
    answer = server.infer(FULL, 20_000)
    assert answer.status_code == 413
    assert "100000 bytes" in answer.json()["error"]
