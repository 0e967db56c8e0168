"""The OpenAPI document is true: schemathesis holds a real server against it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.serving import Project, Server, make_project

from tidemill.server.keys import make_entry

CONFIG = Path(__file__).with_name("schemathesis.toml")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = make_project(tmp_path_factory.mktemp("openapi"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def key(project: Project) -> str:
    token, entry = make_entry("tester", permissions=["infer", "admin"])
    (project.root / "keys.yaml").write_text(yaml.safe_dump([entry]))
    return f"Bearer {token}"


@pytest.fixture(scope="module")
def server(project: Project, key: str) -> Server:
    assert key
    return project.serve("--set", "serving.auth.key_file=keys.yaml")


@pytest.fixture(scope="module")
def described(server: Server, key: str) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/openapi.json", headers={"authorization": key})
    return answer.raise_for_status().json()  # type: ignore[no-any-return]


def schemathesis(
    server: Server, key: str, folder: Path, described: dict[str, Any], *options: str
) -> subprocess.CompletedProcess[str]:
    """Hold a server against a document."""
    (folder / "openapi.json").write_text(json.dumps(described))
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "--config-file", CONFIG, "run", folder / "openapi.json"]
    command += ["--url", server.url, "--header", f"Authorization: {key}", *options]
    command += ["--seed", "1", "--no-color", "--generation-database", "none"]
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, cwd=folder, timeout=300
    )


def test_schemathesis_finds_nothing(
    server: Server, key: str, tmp_path: Path, described: dict[str, Any]
) -> None:
    phases = ("--phases", "examples,coverage,fuzzing", "--max-examples", "8")
    done = schemathesis(server, key, tmp_path, described, "--checks", "all", *phases)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    operations = sum(len(methods) for methods in described["paths"].values())
    assert re.search(rf"Tested: {operations}\b", done.stdout), done.stdout
    (generated,) = re.findall(r"(\d+) generated", done.stdout)
    assert int(generated) > 1000
    assert server.process.poll() is None


def test_a_false_document_is_found(
    server: Server, key: str, tmp_path: Path, described: dict[str, Any]
) -> None:
    """The control: the document says of one answer what the server does not send."""
    false = json.loads(json.dumps(described))
    false["components"]["schemas"]["Live"]["properties"]["live"] = {"type": "string"}
    only = ("--include-path", "/v2/health/live", "--phases", "coverage", "--checks", "all")
    done = schemathesis(server, key, tmp_path, false, *only)
    assert done.returncode == 1, done.stdout
    assert "Response violates schema" in done.stdout
