"""Clients of the Open Inference Protocol that others wrote, unmodified: its own, and KServe's."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.serving.contestants import FOLDER
from benchmarks.serving.environment import make_environment
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.errors import BadRequestError
from open_inference.openapi.types import InferenceRequest
from tests.refusal import refuse
from tests.serving import FULL, KEYS, Project, body, make_project

from tidemill.errors import Unavailable

pytestmark = pytest.mark.slow

MODEL = "flight-delay"
SCRIPT = Path(__file__).parents[1] / "kserve_client.py"


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Addresses of a server for HTTP and gRPC."""
    project: Project = make_project(tmp_path_factory.mktemp("clients"))
    process = project.start("--grpc-port", "0")
    assert process.stdout
    yield process.stdout.readline().strip(), process.stdout.readline().strip()
    project.close()


@pytest.fixture(scope="module")
def client(urls: tuple[str, str]) -> Iterator[OpenInferenceClient]:
    with httpx.Client() as connection:
        yield OpenInferenceClient(base_url=urls[0], httpx_client=connection)


def request(row: dict[str, Any], **more: Any) -> InferenceRequest:
    return InferenceRequest.parse_obj(body(row, 3) | more)


def test_the_protocols_own_client_finds_server_and_model(client: OpenInferenceClient) -> None:
    client.check_server_liveness()
    client.check_server_readiness()
    client.check_model_readiness(MODEL)
    client.check_model_version_readiness(MODEL, "7")
    assert client.read_server_metadata().name == "tidemill"
    model = client.read_model_version_metadata(MODEL, "7")
    assert [tensor.name for tensor in model.outputs] == ["probability"]


def test_the_protocols_own_client_gets_scores_and_refusals(client: OpenInferenceClient) -> None:
    answer = client.model_infer(MODEL, request=request(FULL, id="mine"))
    looked_up = client.model_version_infer(MODEL, "7", request=request(KEYS))
    assert (answer.id, answer.model_version) == ("mine", "7")
    assert len(answer.outputs[0].data.__root__) == 3
    assert answer.outputs[0].data == looked_up.outputs[0].data
    with pytest.raises(BadRequestError, match="nonsense"):
        client.model_infer(MODEL, request=request(FULL | {"nonsense": 1.0}))
    with pytest.raises(ApiError, match="unknown_model"):
        client.model_infer("nosuch", request=request(FULL))


def test_kserves_clients_get_the_same_over_rest_and_grpc(
    urls: tuple[str, str], client: OpenInferenceClient
) -> None:
    """In an environment of its own: it wants an older psutil, tabulate and FastAPI than ours."""
    try:
        programs = make_environment(FOLDER / "kserve" / "requirements.txt")
    except Unavailable as reason:
        refuse("NO TESTS OF KSERVE'S CLIENTS", f"they do not install: {reason}")
    wanted = client.model_infer(MODEL, request=request(FULL)).outputs[0].data.__root__
    address = urls[1].removeprefix("grpc://")
    done = subprocess.run(
        [str(programs / "python"), str(SCRIPT), urls[0], address, MODEL, json.dumps(FULL)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert all(
        found.pop(f"{way} {state}") for way in ("REST", "gRPC") for state in ("live", "ready")
    )
    assert "nonsense" in found.pop("refused")
    assert found.keys() == {
        f"{way} {form}" for way in ("REST", "gRPC") for form in ("plain", "binary")
    }
    for way, told in found.items():
        assert told["id"] == "mine", way
        assert told["scores"] == pytest.approx(wanted, abs=1e-6), way
