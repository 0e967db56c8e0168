"""NVIDIA's `tritonclient` against a server process, JSON and binary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tests.serving import FULL, KEYS, Project, Server, make_project
from tests.tritons import ROWS, columns
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.slow

MODEL = "flight-delay"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    made = make_project(tmp_path_factory.mktemp("triton"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(project: Project) -> Server:
    return project.serve()


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as made:
        yield made


def test_it_finds_server_and_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL, "7")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata(MODEL)["outputs"][0]["name"] == "probability"


@pytest.mark.parametrize("row", [FULL, KEYS], ids=["full", "looked up"])
def test_json_and_binary_get_the_same_scores(client: Any, row: dict[str, Any]) -> None:
    scores = []
    for sent in (True, False):
        for received in (True, False):
            output = triton.InferRequestedOutput("probability", binary_data=received)
            answer = client.infer(
                MODEL, columns(triton, row, binary_data=sent), outputs=[output], request_id="mine"
            )
            head = answer.get_response()
            assert (head["id"], head["model_version"]) == ("mine", "7")
            assert ("data" in head["outputs"][0]) == (not received)
            scores.append(answer.as_numpy("probability"))
    assert all(x.dtype == np.float32 and x.shape == (ROWS,) for x in scores)
    assert all(np.array_equal(x, scores[0]) for x in scores)
    assert 0 < scores[0][0] < 1


def test_mixed_inputs_and_no_outputs_named(client: Any) -> None:
    half = dict(list(FULL.items())[:3])
    rest = {k: v for k, v in FULL.items() if k not in half}
    inputs = columns(triton, half, binary_data=True) + columns(triton, rest, binary_data=False)
    answer = client.infer(MODEL, inputs)
    whole = client.infer(MODEL, columns(triton, FULL, binary_data=False))
    assert np.array_equal(answer.as_numpy("probability"), whole.as_numpy("probability"))


@pytest.mark.parametrize("number", [np.float64, np.int16, np.uint64, np.float16])
def test_numbers_of_other_types(client: Any, number: type) -> None:
    row = FULL | {"carrier_late_rate_7d": 1.0}
    wanted = client.infer(MODEL, columns(triton, row, binary_data=True)).as_numpy("probability")
    found = client.infer(MODEL, columns(triton, row, binary_data=True, number=number)).as_numpy(
        "probability"
    )
    assert np.array_equal(found, wanted)


def test_a_refusal_reaches_the_caller(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="beyond the range of FP32") as refused:
        client.infer(
            MODEL, columns(triton, FULL | {"temp": 1e300}, binary_data=True, number=np.float64)
        )
    assert refused.value.status() == "400"


def test_the_log_holds_binary_requests(project: Project, client: Any) -> None:
    client.infer(MODEL, columns(triton, KEYS, binary_data=True), request_id="kept")
    (server,) = project.processes
    server.terminate()
    assert server.wait(30) == 0
    rows = project.log().filter(request_id="kept")
    assert rows["seats"].to_list() == [200.0] * ROWS
    assert rows["tailnum"].to_list() == ["N1"] * ROWS
