"""The benchmark of inference servers: same rows, right answers, honest verdicts."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import psutil
import pytest
from benchmarks.serving import mlp
from benchmarks.serving.contestants import BARE, FULL, MLSERVER, Entry
from benchmarks.serving.encoding import BINARY, JSON
from benchmarks.serving.load import Load, Request
from benchmarks.serving.process import Launch, Server, run
from benchmarks.serving.report import render
from benchmarks.serving.rounds import SIZES, Result, check

from tidemill.errors import Unavailable

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("layout", [mlp.WIDE, mlp.SPLIT], ids=["wide", "split"])
def test_both_layouts_carry_the_same_rows_and_score_the_same(
    layout: mlp.Layout, tmp_path: Path
) -> None:
    rows = mlp.make_rows(3)
    text, packed = JSON.pack(layout, rows, {}), BINARY.pack(layout, rows, {})
    sent = json.loads(text.body)["inputs"]
    parts = [np.float32(tensor["data"]).reshape(3, -1) for tensor in sent]
    size = int(packed.headers["Inference-Header-Content-Length"])
    tail = np.frombuffer(packed.body[size:], "<f4").reshape(-1, 3, len(rows.T) // len(layout))

    assert np.array_equal(np.hstack(parts), rows)
    assert np.array_equal(np.hstack(list(tail)), rows)
    assert [tensor["name"] for tensor in sent] == list(layout)
    session = ort.InferenceSession(mlp.write(tmp_path / "model.onnx", layout))
    feed = {t["name"]: np.float32(t["data"]).reshape(t["shape"]) for t in sent}
    (scores,) = session.run([mlp.OUTPUT], feed)
    assert scores.shape == (3,)
    assert np.allclose(scores, mlp.expect(rows), atol=1e-6)


@pytest.mark.parametrize("answer", [[0.5], [0.1, 0.2]], ids=["value", "shape"])
def test_a_server_that_answers_other_numbers_is_not_measured(
    answer: list[float], tmp_path: Path
) -> None:
    def ask(server: Server, request: Request) -> mlp.Rows:
        return np.float32(answer)

    entry = Entry(Launch(("true",), tmp_path))
    server = Server(psutil.Process(), "", "", 0.0, 0.0)
    with pytest.raises(Unavailable, match=r"JSON, 1 rows: it answered .*, expected"):
        check(replace(JSON, ask=ask), entry, server, 1)


def test_a_server_is_watched_while_it_runs_and_gone_after(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "http.server", "{http}", "--bind", "127.0.0.1")
    launch = Launch(command, tmp_path, {"ANY": "{grpc}"}, ready="/")
    (core, *_) = psutil.Process().cpu_affinity()

    with run(launch, core, tmp_path / "output") as server:
        process = server.process
        assert process.cpu_affinity() == [core]
        assert process.environ()["ANY"] == server.grpc.partition(":")[2]
        assert server.cpu_seconds >= server.start_cpu > 0
        assert server.rss_mb > 1
    assert not process.is_running()


def test_a_server_that_ends_says_why(tmp_path: Path) -> None:
    launch = Launch((sys.executable, "-c", "raise SystemExit('no model')"), tmp_path)
    (core, *_) = psutil.Process().cpu_affinity()

    with (
        pytest.raises(Unavailable, match="it ended with 1; the last it said: no model"),
        run(launch, core, tmp_path / "output"),
    ):
        pass


def result(rate: float, tail: float = 2.0) -> Result:
    """Return what two rounds of a server at `rate` requests/s on half a core give."""
    load = Load(int(rate), 1.0, 1.0, tail, 0.5)
    loads = {(e.name, rows): [load, load] for e in (JSON, BINARY) for rows in SIZES}
    same = [100.0, 100.0]
    return Result(loads, [load, load], [1.0, 1.0], [1.0, 1.0], same, same)


def test_a_target_is_met_or_missed_by_the_figures() -> None:
    report = render({BARE: result(10_000), FULL: result(9_000, tail=6.0), MLSERVER: result(900)})

    for line in (
        "met     1 row JSON >= 10x MLServer: 10.00x; per CPU second 10.00x",
        "met     1 row JSON >= 0.85x bare uvicorn: 0.90x; per CPU second 0.90x",
        "MISSED  32 rows binary >= 3x JSON: 1.00x",
        "MISSED  p99 at most 5 times p50 at half load: 6",
        "met     at most 120 MB resident when ready: 100",
        "not measured  1 row JSON >= 10x MLServer, lean: MLServer, lean took no part",
    ):
        assert line in report


def test_who_took_no_part_is_named_with_the_reason() -> None:
    report = render({BARE: result(10_000), MLSERVER: Result(missing="no wheel for this Python")})

    assert f"{MLSERVER} took no part: no wheel for this Python" in report
    assert f"not measured  at most 1.5 s of CPU to start: {FULL} took no part" in report


def test_options_belong_to_one_benchmark() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "gates", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "the benchmark gates has no options" in done.stderr
