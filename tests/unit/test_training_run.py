"""Train → export → baselines → evaluate → gate → package, once, on real departures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pytest
import torch
import yaml
from tests import flights, training_child

from tidemill import server
from tidemill.bundle import (
    FeatureService,
    digest,
    read_golden,
    read_manifest,
    read_profile,
    write_manifest,
)
from tidemill.cli import main
from tidemill.domain.criteria import BASELINES, METRICS, PARITY_METRICS
from tidemill.errors import ConfigError, DataError, IntegrityError, Refused
from tidemill.settings.model import GateSettings
from tidemill.settings.monitoring import MonitoringSettings
from tidemill.steps import training_set
from tidemill.steps.baselines import fit_baselines
from tidemill.steps.evaluate import evaluate
from tidemill.steps.examples import examples, vocabularies
from tidemill.steps.fit import reproducible
from tidemill.steps.gate import gate, judge, read_evidence
from tidemill.steps.oof import out_of_fold
from tidemill.steps.package import package
from tidemill.steps.parity import check_parity
from tidemill.steps.record import read_record
from tidemill.steps.scoring import OnnxModel
from tidemill.steps.train import load_model
from tidemill.testing.tracking import MemoryTracker

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Four weeks without the rolling features make a weak model: these bounds are for it.
GATES = GateSettings(
    thresholds={"auc": ">= 0.57", "ece": "<= 0.12", "parity_max_abs": "<= 1e-5"},
    slice_min_rows=1000,
    slice_min_auc=0.45,
)
SERVICE = FeatureService("flights_v1", "flights", "sha256:" + "0" * 64, ())


class Run:
    """The folders of one run, and what its tracker heard."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows = folder / "set.parquet"
        self.tracker = MemoryTracker()

    def __getattr__(self, name: str) -> Path:
        return self.folder / name

    def evaluate(self, champion: Path | None, out: Path) -> dict[str, Any]:
        return evaluate(
            self.rows,
            self.trained,
            self.exported,
            self.baselines,
            out,
            slices=GATES.slices,
            champion=champion,
            tracker=self.tracker,
        )

    def package(self, gated: Path, out: Path, pii: Mapping[str, str] | None = None) -> None:
        package(
            self.rows,
            self.trained,
            self.exported,
            self.evaluated,
            gated,
            out,
            name="flight-delay",
            row_id="flight_id",
            features=SERVICE,
            lineage=training_child.LINEAGE | {"run_id": "r1"},
            monitoring=MonitoringSettings(warmup_days=2),
            pii=pii or {},
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tmp_path_factory.mktemp("run"))
    flights.training_set().write_parquet(run.rows)
    training_child.main(run.rows, run.folder)
    fit_baselines(training_child.read(run.rows), run.baselines, tracker=run.tracker)
    run.evaluate(None, run.evaluated)
    gate(run.evaluated, run.exported, run.gated, GATES, tracker=run.tracker)
    run.package(run.gated, run.bundle)
    return run


def child(run: Run, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.training_child", str(run.rows), str(out)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_killed_and_resumed_gives_the_bytes_of_an_undisturbed_run(run: Run, tmp_path: Path) -> None:
    """Two more processes: one is killed after its second epoch, the other finishes its work."""
    killed = child(run, tmp_path)
    assert killed.stdout is not None
    for line in killed.stdout:
        if "recorded epoch 2" in line:
            os.kill(killed.pid, signal.SIGKILL)
            break
    assert killed.wait() == -signal.SIGKILL
    killed.stdout.close()
    with pytest.raises(DataError, match="no finished training"):
        read_record(tmp_path / "trained")
    resumed = child(run, tmp_path)
    output, _ = resumed.communicate()
    assert resumed.returncode == 0, output
    assert "recorded epoch 1" not in output.splitlines()
    assert f"recorded epoch {training_child.EPOCHS}" in output.splitlines()
    for name in ("model.onnx", "parity.json"):
        assert (tmp_path / "exported" / name).read_bytes() == (run.exported / name).read_bytes()
    ours, theirs = (pl.read_parquet(f / "oof.parquet") for f in (run.trained, tmp_path / "trained"))
    assert ours.equals(theirs)
    assert not (tmp_path / "trained" / "checkpoint.pt").exists()


def test_the_model_beats_what_it_must(run: Run) -> None:
    figures = json.loads((run.evaluated / "evaluation.json").read_text())["models"]
    assert figures["model"]["logloss"] < figures["prior"]["logloss"] - 0.01
    assert figures["model"]["logloss"] < figures["logistic"]["logloss"]
    assert figures["boosting"]["auc"] > 0.55
    assert figures["prior"]["auc"] == pytest.approx(0.5)


def test_parity_was_measured_on_real_held_out_rows_and_edges(run: Run) -> None:
    parity = json.loads((run.exported / "parity.json").read_text())
    record = read_record(run.trained)
    assert parity["rows"] == record.rows["test"] > 5000
    assert parity["edges"] > 40
    assert parity["max_abs"] < 1e-5
    assert parity["flips"] == 0


def test_what_a_gate_may_name_is_what_is_computed(run: Run) -> None:
    evaluation = json.loads((run.evaluated / "evaluation.json").read_text())
    assert set(evaluation["models"]) == {"model", *BASELINES}
    assert set(evaluation["models"]["model"]) == set(METRICS)
    assert set(PARITY_METRICS) <= set(evaluation["parity"])


def test_parity_on_fewer_rows_than_asked_does_not_pass(run: Run, tmp_path: Path) -> None:
    model, record = load_model(run.trained)
    parity = check_parity(run.rows, run.exported / "model.onnx", model, record, 10**6)
    assert parity.rows == record.rows["test"] + record.rows["validation"]
    evaluation = run.evaluate(None, tmp_path) | {"parity": parity.metrics()}
    found = judge(evaluation, pl.read_parquet(tmp_path / "scores.parquet"), GATES)
    assert {v.gate for v in found if v.status != "pass"} == {"parity_rows"}


def test_parity_sees_a_graph_that_differs(run: Run, tmp_path: Path) -> None:
    graph = onnx.load(run.exported / "model.onnx")
    weight = max(graph.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = np.frombuffer(weight.raw_data, dtype=np.float32) * np.float32(1.01)
    weight.raw_data = values.tobytes()
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    model, record = load_model(run.trained)
    parity = check_parity(run.rows, tmp_path / "model.onnx", model, record, 1000)
    assert parity.max_abs > 1e-4


def test_the_graph_takes_raw_columns_and_tells_nothing_of_this_machine(run: Run) -> None:
    content = (run.exported / "model.onnx").read_bytes()
    for trace in (b".py", str(ROOT).encode(), b"stack_trace", b"site-packages"):
        assert trace not in content
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    inputs = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    assert inputs["dest"] == ("tensor(string)", ["N"])
    assert inputs["plane_year"] == ("tensor(float)", ["N"])
    assert [(o.name, o.type, o.shape) for o in session.get_outputs()] == [
        ("probability", "tensor(float)", ["N"])
    ]
    assert session.get_modelmeta().custom_metadata_map == training_child.LINEAGE


@pytest.mark.parametrize("size", [1, 2, 7, 8193])
def test_any_batch_size_gives_the_same_scores(run: Run, size: int) -> None:
    runtime = OnnxModel(run.exported / "model.onnx")
    rows = flights.training_set().tail(8193)
    whole = runtime.score(rows)
    np.testing.assert_allclose(runtime.score(rows.head(size)), whole[:size], atol=1e-6)


def test_missing_unknown_and_absurd_cells_give_probabilities(run: Run) -> None:
    runtime = OnnxModel(run.exported / "model.onnx")
    size = 6
    arrays = {
        c.name: np.array(["", "?", "UA", "JFK", "\N{SNOWMAN}", " "], dtype=object)
        if c.datatype == "BYTES"
        else np.array([np.nan, np.inf, -np.inf, 3e38, -1.0, 0.0], dtype=np.float32)
        for c in runtime.columns
    }
    scores = runtime.run(arrays)
    assert scores.shape == (size,)
    assert ((scores >= 0) & (scores <= 1)).all()


def test_out_of_fold_scores_cover_every_mature_day_and_are_honest(run: Run) -> None:
    oof = pl.read_parquet(run.trained / "oof.parquet")
    record = read_record(run.trained)
    assert oof.height == sum(record.rows.values())
    assert oof["event_timestamp"].is_sorted()
    assert oof["score"].is_between(0, 1).all()
    seen = record.split.train_rows(oof)
    own = OnnxModel(run.exported / "model.onnx").score(seen)
    label = seen["late"].to_numpy()
    held_out = -np.log(np.where(label, seen["score"].to_numpy(), 1 - seen["score"].to_numpy()))
    in_sample = -np.log(np.where(label, own, 1 - own))
    assert held_out.mean() > in_sample.mean()


def test_evidence_is_sealed(run: Run, tmp_path: Path) -> None:
    evidence = read_evidence(run.gated)
    assert evidence["passed"] is True
    assert evidence["override"] is None
    changed = json.loads((run.gated / "evidence.json").read_text())
    changed["verdicts"][0]["status"] = "fail"
    (tmp_path / "evidence.json").write_text(json.dumps(changed))
    with pytest.raises(IntegrityError, match="changed after it was sealed"):
        read_evidence(tmp_path)


def test_a_failed_gate_refuses_and_a_reason_lets_through(run: Run, tmp_path: Path) -> None:
    strict = GATES.model_copy(update={"thresholds": {"auc": ">= 0.99"}})
    tracker = MemoryTracker()
    with pytest.raises(Refused, match=r"threshold/auc: fail: auc is 0\.\d+, outside"):
        gate(run.evaluated, run.exported, tmp_path, strict, tracker=tracker)
    assert read_evidence(tmp_path)["passed"] is False
    assert tracker.tags["gate"] == "failed"
    with pytest.raises(Refused, match="did not pass its gates"):
        run.package(tmp_path, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    evidence = gate(
        run.evaluated, run.exported, tmp_path, strict, tracker=tracker, override="a rehearsal"
    )
    assert evidence["override"] == {"reason": "a rehearsal"}
    assert evidence["passed"] is False
    run.package(tmp_path, tmp_path / "bundle")
    assert (
        "Released against its gates: a rehearsal"
        in (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    )


def test_the_champion_is_scored_on_the_same_rows(run: Run, tmp_path: Path) -> None:
    evaluation = run.evaluate(run.bundle, tmp_path)
    assert evaluation["models"]["champion"] == evaluation["models"]["model"]
    assert evaluation["champion"]["digest"] == digest(run.bundle)
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    verdicts = {v.gate: v for v in judge(evaluation, scores, GATES)}
    assert verdicts["champion"].status == "pass"
    worse = scores.with_columns(model=pl.lit(0.5, pl.Float32))
    verdicts = {v.gate: v for v in judge(evaluation, worse, GATES)}
    assert verdicts["champion"].status == "fail"
    lost = {v.gate: v for v in judge(evaluation, scores.drop("champion"), GATES)}
    assert lost["champion"].status == "not_evaluable"
    unasked = evaluation | {"champion": {"unknown": "MLflow does not answer"}}
    verdicts = {v.gate: v for v in judge(unasked, scores.drop("champion"), GATES)}
    assert verdicts["champion"].status == "not_evaluable"
    assert verdicts["champion"].sentence == "MLflow does not answer"


def test_a_champion_that_reads_an_absent_column_is_named(run: Run, tmp_path: Path) -> None:
    frame = pl.read_parquet(run.rows).drop("temp")
    with pytest.raises(DataError, match="absent: temp"):
        OnnxModel(run.bundle / "model.onnx").score(frame)


def test_the_bundle_is_complete_and_agrees_with_its_graph(run: Run) -> None:
    assert {p.name for p in run.bundle.iterdir()} == {
        "model.onnx",
        "manifest.json",
        "evaluation.json",
        "evidence.json",
        "profile.json",
        "reference.parquet",
        "warmup.json",
        "golden.json",
        "MODEL_CARD.md",
    }
    manifest = read_manifest(run.bundle)
    runtime = OnnxModel(run.bundle / "model.onnx")
    assert [replace(c, origin="") for c in manifest.inputs] == list(runtime.columns)
    assert manifest.lineage["window_end"] == "2013-02-07T00:00:00+00:00"
    assert manifest.lineage["run_id"] == "r1"
    assert 0.1 < manifest.prior < 0.4
    card = (run.bundle / "MODEL_CARD.md").read_text()
    evaluation = json.loads((run.bundle / "evaluation.json").read_text())
    assert f"{evaluation['models']['model']['auc']:.4f}" in card


def test_private_columns_are_in_the_manifest_and_in_no_sample(run: Run, tmp_path: Path) -> None:
    tagged = {"origin": "hash", "dest": "mask", "distance": "drop", "name": "hash"}
    run.package(run.gated, tmp_path / "bundle", tagged)
    manifest = read_manifest(tmp_path / "bundle")
    assert manifest.pii == {k: v for k, v in tagged.items() if k != "name"}  # it is in no log
    assert json.loads((tmp_path / "bundle/manifest.json").read_text())["format"] == 2
    profile = read_profile(tmp_path / "bundle")
    expected = [c.name for c in manifest.inputs if c.name not in tagged]
    assert [feature.name for feature in profile.features] == expected
    assert not tagged.keys() & set(pl.read_parquet_schema(tmp_path / "bundle/reference.parquet"))
    requests = json.loads((tmp_path / "bundle/warmup.json").read_text())
    data = {tensor["name"]: tensor["data"] for tensor in requests[1]["inputs"]}
    assert {name: set(data[name]) for name in manifest.pii} == {n: {None} for n in manifest.pii}
    golden = read_golden(tmp_path / "bundle")
    assert golden
    data = {tensor["name"]: tensor["data"] for tensor in golden.request["inputs"]}
    assert {name: set(data[name]) for name in manifest.pii} == {n: {None} for n in manifest.pii}
    assert not [row for row in golden.rows if any(name in row for name in manifest.pii)]
    assert digest(run.bundle) != digest(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("tagged", "problem"), [({"flight_id": "hash"}, "row_id"), ({"distance": "hash"}, "number")]
)
def test_what_cannot_be_kept_private_is_not_packaged(
    run: Run, tmp_path: Path, tagged: dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        run.package(run.gated, tmp_path / "bundle", tagged)
    assert not (tmp_path / "bundle").exists()


def test_a_server_takes_the_requests_that_the_bundle_recorded(run: Run, tmp_path: Path) -> None:
    requests = json.loads((run.bundle / "warmup.json").read_text())
    assert [request["inputs"][0]["shape"] for request in requests] == [[1], [32]]
    served = tmp_path / "served"
    shutil.copytree(run.bundle, served)
    manifest = read_manifest(served)  # the service of this test has no views
    inputs = tuple(replace(column, origin="request") for column in manifest.inputs)
    write_manifest(served, replace(manifest, inputs=inputs))
    model = server.load_model(served, version="1", threads=1)
    server.warm_up(model, served)
    requests[1]["inputs"].pop()
    (served / "warmup.json").write_text(json.dumps(requests))
    with pytest.raises(IntegrityError, match="does not take"):
        server.warm_up(model, served)


def test_golden_rows_are_held_out_ones_as_the_model_scored_them(run: Run, tmp_path: Path) -> None:
    golden = read_golden(run.bundle)
    assert golden
    assert golden.tolerance == 1e-5, "the gate's"
    assert golden.rows.count("held out") == 32
    assert len(golden.rows) == len(golden.scores) <= 64
    assert {"nothing known", "carrier unknown", "distance missing"} <= set(golden.rows)
    data = {tensor["name"]: tensor["data"] for tensor in golden.request["inputs"]}
    asked = pl.DataFrame(data, schema_overrides={"carrier": pl.String})
    runtime = OnnxModel(run.bundle / "model.onnx")
    assert golden.scores == tuple(runtime.score(asked).tolist())
    record = read_record(run.trained)
    test = record.split.test_rows(pl.read_parquet(run.rows))
    places = zip(data["sched_minute"], data["carrier"], data["distance"], strict=True)
    known = set(test.select("sched_minute", "carrier", "distance").iter_rows())
    assert set(list(places)[:32]) <= known
    run.package(run.gated, tmp_path / "again")
    files = {path.name: path.read_bytes() for path in run.bundle.iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()}


def test_evidence_of_another_model_is_refused(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "exported"
    other.mkdir()
    (other / "model.onnx").write_bytes(b"another")
    gate(run.evaluated, other, tmp_path / "gated", GATES, tracker=MemoryTracker())
    with pytest.raises(IntegrityError, match=r"another model\.onnx"):
        run.package(tmp_path / "gated", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_shuffled_labels_do_not_pass_the_gates(run: Run, tmp_path: Path) -> None:
    """A model that learned nothing is stopped; only a stated reason gets it into a bundle."""
    project(tmp_path)
    tidemill = partial(command, tmp_path)
    assert tidemill("train", "--as-of", flights.AS_OF.isoformat()) == 0
    assert tidemill("export") == 0
    assert tidemill("evaluate", "--champion", str(run.bundle)) == 0
    assert tidemill("gate") == 3
    model = tmp_path / "data" / "model"
    verdicts = {v["gate"]: v["status"] for v in read_evidence(model / "gated")["verdicts"]}
    assert verdicts["threshold/auc"] == "fail"
    assert verdicts["champion"] == "pass", "nobody predicts shuffled labels: it cannot tell"
    assert tidemill("package") == 3
    assert tidemill("gate", "--force", "a rehearsal") == 0
    assert tidemill("package") == 0
    assert read_evidence(model / "bundle")["override"] == {"reason": "a rehearsal"}
    assert read_manifest(model / "bundle").features == SERVICE
    journal = [json.loads(line) for line in (model / "journal.jsonl").read_text().splitlines()]
    assert [e["step"] for e in journal if "train_loss" in e.get("metrics", {})] == [1, 2]
    assert journal[-1]["tags"]["gate"] == "overridden"


def project(folder: Path) -> None:
    """Make a project whose training set has shuffled labels."""
    training = flights.settings(epochs=2).model_dump(mode="json", exclude_none=True)
    settings = {
        "training": training,
        "export": {"parity_rows": 100},
        "gates": GATES.model_dump(mode="json"),
        "monitoring": {"warmup_days": 2},
    }
    (folder / "configs").mkdir()
    (folder / "configs" / "base.yaml").write_text(yaml.safe_dump(settings))
    shutil.copy(ROOT / "configs" / "contract.yaml", folder / "configs")
    (folder / "data").mkdir()
    frame = flights.training_set()
    shuffled = frame["late"].sample(fraction=1, shuffle=True, seed=5)
    frame.with_columns(late=shuffled).write_parquet(
        folder / "data" / "training_set.parquet",
        metadata={training_set.SERVICE: json.dumps(asdict(SERVICE))},
    )


def command(root: Path, *words: str) -> int:
    """Run `tidemill model …` in this process and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["model", *words, "--project", str(root), "--json"])
    return int(ended.value.code or 0)


def test_folds_that_are_fitted_side_by_side_give_the_same_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = flights.settings()
    rows = flights.training_set().head(3000)
    known = vocabularies(rows, settings.inputs, 1)
    train = examples(rows, settings.inputs, known, settings.label)
    fold = np.arange(len(train)) % settings.folds
    found = []
    for cores in (1, settings.folds):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        with reproducible(settings.model_copy(update={"threads": 1})):
            found.append(out_of_fold(train, fold, settings, known, epochs=2))
    assert torch.equal(*found)


def test_rows_of_one_week_are_too_few_to_learn_from() -> None:
    settings = flights.settings()
    rows = flights.training_set().head(300)
    known = vocabularies(rows, settings.inputs, 1)
    train = examples(rows, settings.inputs, known, settings.label)
    with pytest.raises(DataError, match="the 300 rows to train on are of less than two weeks"):
        out_of_fold(train, np.zeros(300, np.int64), settings, known, epochs=2)
