"""Publishing, fetching and tracking on a real MLflow server."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import httpx
import pytest
from tests import servers
from tests.bundles import DATA, make_bundle

from tidemill.adapters.mlflow.client import Client
from tidemill.adapters.mlflow.registry import MlflowRegistry
from tidemill.adapters.mlflow.server import server_spec
from tidemill.adapters.mlflow.tracker import MlflowTracker
from tidemill.adapters.signing import Signer
from tidemill.bundle import digest, verify
from tidemill.domain.ledger import broken, disagreements
from tidemill.errors import IntegrityError, NotFound, PermanentError, Unavailable
from tidemill.ports.processes import ProcessSpec
from tidemill.steps.promote import promote
from tidemill.steps.register import register
from tidemill.testing.clock import FixedClock
from tidemill.testing.ledger import MemoryLedger
from tidemill.wiring import Project

pytestmark = pytest.mark.slow


CLOCK = FixedClock(datetime(2013, 4, 1, tzinfo=UTC))


@pytest.fixture
def client(mlflow_uri: str) -> Client:
    return Client(mlflow_uri)


@pytest.fixture
def name() -> str:
    """Return a model name of this test alone: the server is shared."""
    return f"model-{uuid4().hex[:8]}"


@pytest.fixture
def registry(client: Client, name: str) -> MlflowRegistry:
    return MlflowRegistry(client, f"experiment-{name}")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path / "keys" / "k.pem", tmp_path / "keys" / "k.pub")


@pytest.fixture
def bundle(tmp_path: Path, name: str, signer: Signer) -> Path:
    folder = make_bundle(tmp_path / "bundle", name)
    signer.sign(folder)
    return folder


def test_a_bundle_comes_back_as_it_was_published(
    bundle: Path, name: str, registry: MlflowRegistry, client: Client, tmp_path: Path
) -> None:
    run = MlflowTracker.open(client, f"experiment-{name}", "run-1")
    version = registry.publish(bundle, {"data_version": DATA}, run.run_id)
    assert (str(version), version.digest, version.run_id) == (
        f"{name}/1",
        digest(bundle),
        run.run_id,
    )
    fetched = registry.fetch(version, tmp_path / "fetched")
    assert verify(fetched, tmp_path / "keys" / "k.pub") == digest(bundle)
    assert sorted(p.name for p in fetched.iterdir()) == sorted(p.name for p in bundle.iterdir())
    assert registry.fetch(version, fetched) == fetched
    (fetched / "model.onnx").write_bytes(b"other")
    with pytest.raises(IntegrityError, match="is not what was registered"):
        registry.fetch(version, fetched)


def test_a_bundle_is_registered_once_and_another_is_the_next_version(
    bundle: Path, name: str, registry: MlflowRegistry, signer: Signer, tmp_path: Path
) -> None:
    first = registry.publish(bundle, {}, "")
    assert registry.publish(bundle, {}, "") == registry.search(name)[-1] == first
    other = make_bundle(tmp_path / "other", name, scale=0.002)
    with pytest.raises(IntegrityError, match="is not signed"):
        registry.publish(other, {}, "")
    signer.sign(other)
    assert registry.publish(other, {}, "").version == "2"
    assert [v.version for v in registry.search(name)] == ["2", "1"]


def test_models_of_the_same_data_published_at_once_are_all_versions(
    mlflow_uri: str, name: str, signer: Signer, tmp_path: Path
) -> None:
    """MLflow looks for a dataset or an alias, then inserts it: the slower of two is refused."""
    writers, experiment = 8, f"experiment-{name}"
    start = Barrier(writers)

    def publish(number: int) -> str:
        client = Client(mlflow_uri)
        folder = make_bundle(tmp_path / f"bundle-{number}", name, scale=0.001 * (number + 1))
        signer.sign(folder)
        run = MlflowTracker.open(client, experiment, f"run-{number}")
        start.wait(30)
        registry = MlflowRegistry(client, experiment)
        version = registry.publish(folder, {}, run.run_id)
        start.wait(30)
        registry.set_alias(name, "challenger", version.version)
        inputs = client.get("runs/get", run_id=run.run_id)["run"]["inputs"]["dataset_inputs"]
        assert [one["dataset"]["digest"] for one in inputs] == [DATA]
        return version.version

    signer.sign(make_bundle(tmp_path / "first", name))  # makes the key
    with ThreadPoolExecutor(writers) as pool:
        versions = sorted(pool.map(publish, range(writers)))
    assert versions == [str(n + 1) for n in range(writers)]
    assert MlflowRegistry(Client(mlflow_uri), experiment).aliases(name)["challenger"] in versions


def test_references_are_resolved_and_wrong_ones_list_what_exists(
    bundle: Path, name: str, registry: MlflowRegistry
) -> None:
    version = registry.publish(bundle, {"data_version": DATA}, "")
    registry.set_alias(name, "champion", version.version)
    assert registry.aliases(name) == {"champion": "1"}
    for reference in (name, f"{name}/1", f"{name}@champion"):
        assert registry.resolve(reference).aliases == ("champion",)
        assert registry.resolve(reference).digest == version.digest
    assert name in {v.name for v in registry.search(tags={"data_version": DATA})}
    assert registry.search(name, {"data_version": "another"}) == []
    for reference, known in {
        f"{name}/2": f"{name}/1",
        f"{name}/first": f"{name}/1",
        f"{name}@champoin": f"{name}@champion",
        f"{name[:-1]}": name,
        f"{name[:-1]}@champion": name,
    }.items():
        with pytest.raises(NotFound) as caught:
            registry.resolve(reference)
        assert known in caught.value.hint, reference
    assert registry.aliases("nobody") == {}
    with pytest.raises(NotFound, match="quote"):
        registry.search("o'hare")


def test_bytes_that_were_changed_behind_a_registered_version_are_refused(
    bundle: Path, registry: MlflowRegistry, client: Client, tmp_path: Path
) -> None:
    """MLflow lets anybody replace the artifacts of a registered version."""
    version = registry.publish(bundle, {}, "")
    root = client.get("model-versions/get-download-uri", name=version.name, version="1")
    client.upload(root["artifact_uri"], "model.onnx", b"EVIL")
    with pytest.raises(IntegrityError, match="is not what was registered"):
        registry.fetch(version, tmp_path / "fetched")
    assert list(tmp_path.glob("*fetched*")) == []
    client.upload(root["artifact_uri"], "model.onnx", bundle / "model.onnx")
    client.upload(root["artifact_uri"], "extra.py", b"import os")
    with pytest.raises(IntegrityError, match="is not what was registered"):
        registry.fetch(version, tmp_path / "fetched")


PUBLISH = """
import os, signal, sys
from pathlib import Path
from tidemill.adapters.mlflow.client import Client
from tidemill.adapters.mlflow.registry import MlflowRegistry

uri, experiment, bundle, last = sys.argv[1:]
class Dying(Client):
    calls = 0
    def _send(self, method, path, **request):
        if path.endswith(last):
            Dying.calls += 1
            if Dying.calls > 1 or not path.endswith("model.onnx"):
                os.kill(os.getpid(), signal.SIGKILL)
        answer = super()._send(method, path, **request)
        if path.endswith(last):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
MlflowRegistry(Dying(uri), experiment).publish(Path(bundle), {"a": "b"}, "")
"""


@pytest.mark.parametrize(
    "last", ["logged-models", "model.onnx", "MLmodel", "registered-models/create"]
)
def test_kill_9_leaves_a_pending_model_and_never_half_a_version(
    last: str,
    bundle: Path,
    name: str,
    registry: MlflowRegistry,
    client: Client,
    mlflow_uri: str,
    tmp_path: Path,
) -> None:
    argv = [sys.executable, "-c", PUBLISH, mlflow_uri, f"experiment-{name}", str(bundle), last]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    assert registry.search(name) == []
    version = registry.publish(bundle, {}, "")
    assert version.version == "1"
    registry.fetch(version, tmp_path / "fetched")


def test_a_step_repeated_after_a_crash_finishes_what_was_begun(
    tmp_path: Path, name: str, registry: MlflowRegistry, signer: Signer
) -> None:
    ledger = MemoryLedger()
    folder = make_bundle(tmp_path / "bundle", name)

    def again() -> str:
        version = register(
            folder,
            signer=signer,
            registry=registry,
            aliases=registry,
            ledger=ledger,
            clock=CLOCK,
            run_id="",
            who="pipeline",
            why="gates passed",
            correlation="run-7",
        )
        return str(version)

    assert again() == f"{name}/1"
    kept = ledger.entries()
    assert [e.action for e in kept] == ["registered", "moving", "moved"]
    for length in (0, 1, 2, 3):
        ledger.kept[:] = kept[:length]
        assert again() == f"{name}/1"
        assert [e.action for e in ledger.entries()] == ["registered", "moving", "moved"]
        assert broken(ledger.entries()) == []
    assert registry.aliases(name) == {"challenger": "1"}
    tags = registry.resolve(name).tags
    assert tags["data_version"] == DATA
    assert tags["feature_digest"] == "sha256:" + "f" * 64
    assert tags["correlation"] == "run-7"
    assert len(tags["onnx"]) == len(tags["evidence"]) == len("sha256:") + 64


def test_an_incomplete_bundle_is_not_registered(
    tmp_path: Path, name: str, registry: MlflowRegistry, signer: Signer
) -> None:
    folder = make_bundle(tmp_path / "bundle", name)
    (folder / "evidence.json").unlink()
    with pytest.raises(IntegrityError, match=r"evidence\.json is missing"):
        register(
            folder,
            signer=signer,
            registry=registry,
            aliases=registry,
            ledger=MemoryLedger(),
            clock=CLOCK,
            run_id="",
            who="pipeline",
            why="gates passed",
        )
    assert registry.search(name) == []


def test_an_alias_moved_by_hand_in_mlflow_is_found(
    bundle: Path, name: str, registry: MlflowRegistry, client: Client
) -> None:
    ledger = MemoryLedger()
    version = registry.publish(bundle, {}, "")
    promote(
        version, "champion", aliases=registry, ledger=ledger, clock=CLOCK, who="r", why="passed"
    )

    def problems() -> list[str]:
        return disagreements(ledger.entries(), {}, {name: registry.aliases(name)})

    assert problems() == []
    client._send(
        "DELETE",
        "/api/2.0/mlflow/registered-models/alias",
        json={"name": name, "alias": "champion"},
    )
    assert problems() == [
        f"{name}@champion is not set, the ledger moved it to version 1 (entry 2): "
        "it was moved by hand"
    ]


def test_steps_of_one_run_write_to_one_record(client: Client, name: str) -> None:
    tracker = MlflowTracker.open(client, name, "run-1", {"git_commit": "c" * 40})
    tracker.log_params({f"p{n}": n for n in range(150)})
    for epoch in range(3):
        tracker.log_metrics({"loss": 1.0 / (epoch + 1)}, step=epoch)
    tracker.log_metrics({"nothing": float("nan"), "slice/carrier/UA/auc": 0.7})
    tracker.close("FAILED")
    again = MlflowTracker.open(client, name, "run-1", {"stage": "evaluate"})
    again.log_metrics({"auc": 0.71})
    again.close()
    assert MlflowTracker.open(client, name, "run-2").run_id != again.run_id == tracker.run_id
    run = client.get("runs/get", run_id=tracker.run_id)["run"]
    assert run["info"]["status"] == "FINISHED"
    assert len(run["data"]["params"]) == 150
    metrics = {m["key"]: float(m["value"]) for m in run["data"]["metrics"]}
    assert math.isnan(metrics.pop("nothing"))
    assert metrics == {"loss": 1 / 3, "auc": 0.71, "slice/carrier/UA/auc": 0.7}
    history = client.get("metrics/get-history", run_id=tracker.run_id, metric_key="loss")
    assert [(m["step"], m["value"]) for m in history["metrics"]] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    with pytest.raises(PermanentError, match="p0"):
        again.log_params({"p0": "changed"})


def test_mlflows_own_tools_load_a_published_model(
    bundle: Path, name: str, registry: MlflowRegistry, mlflow_uri: str
) -> None:
    """The SDK is the oracle: the model is one of MLflow's, not only ours."""
    registry.publish(bundle, {}, "")
    registry.set_alias(name, "champion", "1")
    code = (
        "import sys, mlflow, pandas as pd, numpy as np; mlflow.set_tracking_uri(sys.argv[1]);"
        "m = mlflow.pyfunc.load_model(f'models:/{sys.argv[2]}@champion');"
        "x = pd.DataFrame({'distance': np.array([0., 1000.], 'float32'), 'carrier': ['UA', 'DL']});"
        "print([round(float(v), 4) for v in m.predict(x)['probability']], m.metadata.signature)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, mlflow_uri, name],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[0.5, 0.7311]")
    assert "'distance': float (required), 'carrier': string (required)" in done.stdout


def test_a_client_loads_neither_mlflow_nor_feast_nor_torch(
    bundle: Path, name: str, mlflow_uri: str
) -> None:
    code = (
        "import sys; from pathlib import Path;"
        "from tidemill.adapters.mlflow.client import Client;"
        "from tidemill.adapters.mlflow.registry import MlflowRegistry;"
        "v = MlflowRegistry(Client(sys.argv[1]), 'default').publish(Path(sys.argv[2]), {}, '');"
        "print(v, sorted({'mlflow', 'feast', 'torch', 'pandas'} & set(sys.modules)))"
    )
    argv = [sys.executable, "-c", code, mlflow_uri, str(bundle)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{name}/1 []"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:9", "does not answer"),
        ("http://name.invalid:5000", "does not answer"),
    ],
)
def test_a_dead_server_is_unavailable_and_named(uri: str, message: str) -> None:
    with pytest.raises(Unavailable, match=message) as caught:
        Client(uri).experiment("any")
    assert uri in caught.value.message
    assert "tidemill up" in caught.value.hint


def test_a_server_that_is_started_meanwhile_is_waited_for(tmp_path: Path) -> None:
    port = servers.free_port()
    client = Client(f"http://127.0.0.1:{port}", connect_seconds=30.0)
    argv = [sys.executable, "-m", "http.server", str(port), "--directory", str(tmp_path)]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.experiment, "any")
        with pytest.raises(TimeoutError):
            asked.result(0.5)
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with pytest.raises(PermanentError, match="answered 404"):
                asked.result(30)
        finally:
            process.terminate()
            process.wait()


def test_something_else_on_the_port_is_said(tmp_path: Path) -> None:
    port = servers.free_port()
    argv = [sys.executable, "-m", "http.server", str(port), "--directory", str(tmp_path)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _until(lambda: httpx.get(f"http://127.0.0.1:{port}/").status_code == 200)
        with pytest.raises(PermanentError, match="answered 404"):
            Client(f"http://127.0.0.1:{port}").experiment("any")
    finally:
        process.terminate()
        process.wait()


def test_a_refused_host_header_is_explained(mlflow_uri: str) -> None:
    """MLflow answers 403 to host names that it does not know, while /health stays green."""
    client = Client(mlflow_uri)
    client._http.headers["Host"] = "mlflow.example:5000"
    with pytest.raises(PermanentError, match="answered 403") as caught:
        client.experiment("any")
    assert "allowed hosts" in caught.value.hint


@pytest.mark.postgres
def test_the_server_runs_on_postgresql_and_s3(
    postgres_url: str,
    s3_url: str,
    tmp_path: Path,
    name: str,
    bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import boto3

    boto3.client("s3", endpoint_url=s3_url).create_bucket(Bucket="mlflow")
    monkeypatch.setenv("MLFLOW_DATABASE_PASSWORD", "not asked for by a trusting server")
    with (
        servers.database(postgres_url) as database,
        servers.mlflow(
            tmp_path / "server",
            backend=database,
            password="env:MLFLOW_DATABASE_PASSWORD",
            artifacts="s3://mlflow/artifacts",
            env={"MLFLOW_S3_ENDPOINT_URL": s3_url},
        ) as uri,
    ):
        registry = MlflowRegistry(Client(uri), "default")
        version = registry.publish(bundle, {"data_version": DATA}, "")
        registry.set_alias(name, "champion", "1")
        assert registry.resolve(f"{name}@champion").tags["data_version"] == DATA
        assert [str(v) for v in registry.search(name, {"data_version": DATA})] == [f"{name}/1"]
        registry.fetch(version, tmp_path / "fetched")
        assert digest(tmp_path / "fetched") == digest(bundle)
        listed = boto3.client("s3", endpoint_url=s3_url).list_objects_v2(Bucket="mlflow")
        assert len(listed["Contents"]) == len(list(bundle.iterdir())) + 1


def test_the_local_server_is_declared_for_loopback_alone(tmp_path: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(Path(__file__).parents[2] / "configs", root / "configs")

    def spec(*assignments: str) -> ProcessSpec | None:
        project = Project.load(root, assignments=assignments)
        return server_spec(project.settings, project.paths)

    local = spec("registry.artifacts_endpoint_url=http://127.0.0.1:9000")
    assert local is not None
    assert local.ready_url == "http://127.0.0.1:5500/health"
    assert local.argv[3:5] == (
        f"sqlite:///{root}/.tidemill/mlflow/mlflow.db",
        f"{root}/.tidemill/mlflow/artifacts",
    )
    assert local.env == {"MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9000"}
    assert spec("registry.uri=https://mlflow.example.com") is None


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(100):
        try:
            if condition():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.05)
    raise AssertionError("it never came true")
