"""A canary is asked before it gets a client's request."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest
from tests.unit.rollout_world import START, TOTAL, World, plan, revision

from tidemill.adapters.rehearsal import Rehearsal
from tidemill.domain.rollout.model import Attempt, State, Workload

INPUTS = {
    "distance": ("FP32", "request", False),
    "carrier": ("BYTES", "request", False),
    "temp": ("FP32", "feature", True),
    "carrier_key": ("BYTES", "key", True),
}
ATTEMPT = Attempt(1, revision("v2"), plan(), 1, START)
STATE = State(phase="preparing", stable=revision("v1"), attempt=ATTEMPT)
WORKLOADS = {"v1": Workload(1, 1, "stable"), "v2": Workload(1, 1, "canary")}


class Servers:
    """Two model servers as the protocol sees them."""

    def __init__(self) -> None:
        self.inputs = {"stable": dict(INPUTS), "canary": dict(INPUTS)}
        self.outputs = {"stable": "probability", "canary": "probability"}
        self.status, self.version, self.score = 200, "2", 0.3
        self.digest, self.answered = "sha256:v2", "FP32"
        self.shape = [1]
        self.fallback = ""
        self.rows: list[dict[str, object]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        if not request.url.path.endswith("/infer"):
            tensors = [
                {
                    "name": name,
                    "datatype": datatype.partition("[")[0],
                    "shape": [-1, 3] if datatype.endswith("[3]") else [-1],
                    "parameters": {"origin": origin, "optional": optional},
                }
                for name, (datatype, origin, optional) in self.inputs[host].items()
            ]
            outputs = [{"name": self.outputs[host], "datatype": "FP32", "shape": [-1]}]
            body = {"inputs": tensors, "outputs": outputs, "parameters": {"digest": self.digest}}
            return httpx.Response(200, json=body)
        assert host == "canary", "stable is not asked to score"
        self.rows.append(json.loads(request.content))
        scores = {"data": [self.score], "datatype": self.answered, "shape": self.shape}
        outputs = [{"name": "probability", **scores}]
        marks = {"fallback": self.fallback} if self.fallback else {}
        body = {"model_version": self.version, "parameters": marks, "outputs": outputs}
        return httpx.Response(self.status, json=body)


@pytest.fixture
def servers() -> Servers:
    return Servers()


@pytest.fixture
def rehearsal(servers) -> Rehearsal:
    return Rehearsal(httpx.Client(transport=httpx.MockTransport(servers)))


def test_a_good_canary_is_asked_once_per_attempt(servers, rehearsal):
    assert rehearsal.verdict(STATE, WORKLOADS) == ""
    assert rehearsal.verdict(STATE, WORKLOADS) == ""
    (row,) = servers.rows
    assert {t["name"]: t["data"] for t in row["inputs"]} == {
        "distance": [0.0],
        "carrier": [""],
        "temp": [0.0],
    }
    again = replace(STATE, attempt=replace(ATTEMPT, holds=1))
    rehearsal.verdict(again, WORKLOADS)
    assert len(servers.rows) == 2, "its server was lost and is another one"


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"status": 500}, "with 500"),
        ({"version": "7"}, "version 7, not 2"),
        ({"score": 1.5}, "1.5, not in"),
        ({"fallback": "prior"}, "failed on an empty row, prior answered"),
        ({"digest": "sha256:v7"}, "serves the bundle sha256:v7, not sha256:v2"),
        ({"answered": "FP64"}, r"answers one row with ['probability FP64[]']"),
        ({"shape": [1, 2]}, r"of shape [1, 2], its metadata say ['probability FP32[]']"),
        ({"shape": [3]}, "of shape [3]"),
    ],
)
def test_a_wrong_answer_is_named(servers, rehearsal, fault, says):
    vars(servers).update(fault)
    assert says in rehearsal.verdict(STATE, WORKLOADS)


def test_a_vector_is_asked_in_its_width_and_must_keep_it(servers, rehearsal):
    for inputs in servers.inputs.values():
        inputs["place"] = ("FP32[3]", "request", False)
    assert rehearsal.verdict(STATE, WORKLOADS) == ""
    (place,) = [t for t in servers.rows[0]["inputs"] if t["name"] == "place"]
    assert (place["shape"], place["data"]) == ([1, 3], [0.0] * 3)
    servers.inputs["stable"]["place"] = ("FP32", "request", False)
    other = replace(STATE, attempt=replace(ATTEMPT, number=2))
    assert "takes the input 'place' (FP32)" in rehearsal.verdict(other, WORKLOADS)


def test_what_clients_send_must_be_taken_by_both(servers, rehearsal):
    servers.inputs["canary"]["distance"] = ("BYTES", "request", False)
    assert "'distance' (FP32)" in rehearsal.verdict(STATE, WORKLOADS)
    servers.inputs["canary"] = INPUTS | {"seats": ("FP32", "request", False)}
    assert "needs the input 'seats'" in rehearsal.verdict(STATE, WORKLOADS)
    servers.inputs["canary"] = {k: v for k, v in INPUTS.items() if k != "temp"}
    assert rehearsal.verdict(STATE, WORKLOADS) == "", "features are the servers' own affair"
    servers.outputs["canary"] = "score"
    other = replace(STATE, attempt=replace(ATTEMPT, number=2))
    assert "the outputs are" in rehearsal.verdict(other, WORKLOADS)


def test_what_cannot_be_asked_is_not_known(servers, rehearsal):
    assert rehearsal.verdict(replace(STATE, phase="progressing"), WORKLOADS) is None
    starting = WORKLOADS | {"v2": Workload(0, 1, "canary")}
    assert rehearsal.verdict(STATE, starting) is None
    servers.status = 503
    assert rehearsal.verdict(STATE, WORKLOADS) is None
    assert rehearsal.verdict(STATE, {"v2": WORKLOADS["v2"]}) is None


@pytest.mark.parametrize("found", ["its score is 2", None])
def test_a_canary_that_fails_its_rehearsal_never_gets_traffic(found):
    world = World()
    world.deploy()
    world.traffic.rehearsal = found
    world.want("v2")
    for _ in range(70):
        world.run(1)
        assert world.weight("v1") == TOTAL
    ending = world.state.history[0]
    assert ending.outcome == "rolled_back"
    assert (found or "did not answer a request of our own before the deadline") in ending.reason


def test_a_canary_whose_server_refuses_to_start_is_given_up_at_once():
    world = World()
    world.deploy()
    world.servers.refused["v2"] = "ended with exit code 3: golden row 7"
    world.want("v2")
    world.run(2)
    (ending,) = world.state.history
    assert ending.reason == (
        "the canary's server refuses to start: ended with exit code 3: golden row 7"
    )
    assert world.weight("v1") == TOTAL


def test_a_canary_that_refuses_to_start_again_loses_its_traffic_for_good():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.servers.refused["v2"] = "ended with exit code 3: 'model.onnx' is not what was signed"
    world.run(3)
    assert [d.action for d in world.store.log][-3:] == ["hold", "rollback", "complete"]
