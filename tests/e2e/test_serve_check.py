"""`tidemill serve --check`: it says of every part what a start would say, and starts nothing."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.certificates import Authority
from tests.issuers import Issuer
from tests.servers import free_port
from tests.serving import TIDEMILL, Project, make_project

from tidemill.adapters.signing import Signer
from tidemill.bundle import write_manifest
from tidemill.server.keys import make_entry
from tidemill.testing.models import MANIFEST, write_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path)
    yield made
    made.close()


def check(project: Project, *options: str, **values: Any) -> tuple[int, dict[str, dict[str, str]]]:
    """Return the exit code and the checks by name."""
    done = run(project, "--json", *options, **values)
    body = json.loads(done.stdout)
    assert body["ready"] == (done.returncode == 0)
    return done.returncode, {c["name"]: c for c in body["checks"]}


def run(project: Project, *options: str, **values: Any) -> subprocess.CompletedProcess[str]:
    command = [str(TIDEMILL), "--project", str(project.root), "serve", "--check", "--port", "0"]
    one = [] if "--repository" in options else ["--bundle", str(project.bundle)]
    command += [*one, *options]
    for name, value in values.items():
        command += ["--set", f"serving.{name.replace('__', '.')}={value}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_deployment_that_is_in_order(project: Project, tmp_path: Path) -> None:
    cert, key, _ = Authority(tmp_path, "authority").issue("server")
    (project.root / "jwks.json").write_bytes(Issuer().jwks)
    entries = [make_entry("shop", permissions=["infer"], quota=5)[1]]
    (project.root / "keys.yaml").write_text(yaml.safe_dump(entries))
    values = {"auth__jwt__jwks": "jwks.json", "auth__jwt__audience": "models"}
    values |= {"auth__key_file": "keys.yaml", "tls__cert": cert, "tls__key": key}
    code, checks = check(project, "--host", "0.0.0.0", **values)
    assert code == 0
    assert {name: c["state"] for name, c in checks.items()} == {
        "address": "ok",
        "port": "ok",
        "bundle": "ok",
        "features": "ok",
        "prediction log": "ok",
        "API keys": "ok",
        "tokens": "ok",
        "certificate": "warn",  # the test's certificates live for a day
    }
    assert "API keys or tokens" in checks["address"]["found"]
    assert project.revision in checks["bundle"]["found"]
    assert checks["certificate"]["next"] == "renew it"
    assert project.serve().stop() == 0  # what was checked starts: nothing is left behind


def test_every_fault_is_named_with_what_to_do(project: Project, tmp_path: Path) -> None:
    """All at once: no fault hides another, but for what depends on the bundle."""
    expired = Authority(tmp_path, "authority").issue("server", days=-0.01)
    (project.bundle / "model.onnx").write_bytes(b"something else")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, checks = check(
            project,
            "--port",
            str(port),
            auth__key_file="absent.yaml",
            auth__jwt__jwks=f"https://127.0.0.1:{free_port()}/jwks",
            auth__jwt__audience="models",
            tls__cert=expired[0],
            tls__key=expired[1],
        )
    assert code == 1
    states = {name: c["state"] for name, c in checks.items()}
    assert states.pop("address") == "ok"
    assert states.pop("features") == states.pop("prediction log") == "skipped"
    assert set(states.values()) == {"fail"}
    for name, words in {
        "port": f"{port}: Address already in use",
        "bundle": "'model.onnx' is not what was signed",
        "API keys": "absent.yaml cannot be read",
        "tokens": "did not answer",
        "certificate": "expired at",
    }.items():
        assert words in checks[name]["found"], name
    for name in ("port", "bundle", "API keys", "certificate"):
        assert checks[name]["next"], name


def test_faults_behind_a_bundle_that_is_in_order(project: Project, tmp_path: Path) -> None:
    features = replace(MANIFEST.features, digest="sha256:" + "6" * 64)
    project.bundle = write_bundle(tmp_path / "other")
    write_manifest(project.bundle, replace(MANIFEST, features=features, pii={"carrier": "hash"}))
    keys = project.root / ".tidemill/keys"
    Signer(keys / "signing.pem", keys / "signing.pub").sign(project.bundle)
    code, checks = check(project, "--host", "0.0.0.0")
    assert code == 1
    assert checks["address"]["state"] == "fail"
    assert checks["bundle"]["state"] == "ok"
    assert checks["features"]["state"] == "fail"
    assert "6666" in checks["features"]["found"]
    assert "serving.log.hash_key" in checks["prediction log"]["found"]
    (project.root / ".tidemill/feast/online.db").unlink()
    (project.root / ".tidemill/objects").write_text("a file where the folder should be")
    write_manifest(project.bundle, MANIFEST)
    code, checks = check(project, "--no-verify")
    assert code == 1
    assert [checks[name]["state"] for name in ("bundle", "features")] == ["warn", "warn"]
    assert checks["prediction log"]["state"] == "fail"


def test_every_version_of_a_repository_is_looked_at(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for version in ("1", "2"):
        shutil.copytree(project.bundle, folder / "late" / version)
    (folder / "late/2/model.onnx").write_bytes(b"something else")
    code, checks = check(project, "--repository", str(folder))
    assert code == 1
    states = {name: c["state"] for name, c in checks.items() if "late/" in name}
    assert states == {
        "bundle late/1": "ok",
        "features late/1": "ok",
        "prediction log late/1": "ok",
        "bundle late/2": "fail",
        "features late/2": "skipped",
        "prediction log late/2": "skipped",
    }
    assert checks["bundle late/1"]["found"].startswith("late ")
    shutil.rmtree(folder / "late/2")
    assert check(project, "--repository", str(folder))[0] == 0
    shutil.rmtree(folder / "late/1")
    code, checks = check(project, "--repository", str(folder))
    assert code == 1
    assert checks["repository"]["state"] == "fail"
    assert "registry fetch" in checks["repository"]["next"]


def test_the_port_for_grpc_is_looked_at_where_one_is_set(project: Project) -> None:
    _, checks = check(project, "--grpc-port", "0")
    assert (checks["gRPC port"]["state"], checks["gRPC port"]["found"]) == ("ok", "any, free")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, checks = check(project, grpc_port=port)
    assert code == 1
    assert "Address already in use" in checks["gRPC port"]["found"]
    assert "--grpc-port" in checks["gRPC port"]["next"]
    both = str(free_port())
    code, checks = check(project, "--port", both, "--grpc-port", both)
    assert (code, checks["port"]["state"]) == (1, "ok")
    assert f"{both} is the port for HTTP" in checks["gRPC port"]["found"]


def test_the_port_for_shadows_is_looked_at_where_one_is_set(project: Project) -> None:
    _, checks = check(project, "--shadow-port", "0")
    assert (checks["shadow port"]["state"], checks["shadow port"]["found"]) == ("ok", "any, free")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, checks = check(project, "--shadow-port", str(taken.getsockname()[1]))
    assert code == 1
    assert "--shadow-port" in checks["shadow port"]["next"]
    both = str(free_port())
    code, checks = check(project, "--port", both, "--shadow-port", both)
    assert (code, checks["port"]["state"]) == (1, "ok")
    assert f"{both} is the port for clients" in checks["shadow port"]["found"]


def test_grpcs_library_is_asked_for_with_its_port_alone(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = "raise ModuleNotFoundError('No module named grpc')"
    (tmp_path / "without").mkdir()
    (tmp_path / "without/grpc.py").write_text(absent)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "without"))
    assert check(project)[0] == 0
    code, checks = check(project, "--grpc-port", "0")
    assert code == 1
    assert "No module named grpc" in checks["gRPC port"]["found"]
    assert checks["gRPC port"]["next"] == "pip install 'tidemill[serve]'"


def test_people_get_a_table(project: Project) -> None:
    done = run(project)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 9
    assert lines[0].split() == ["check", "state", "found", "do", "next"]
