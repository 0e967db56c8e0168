"""What the server answers: scores, refusals with a reason, features looked up, never a 5xx."""

import asyncio
import json
import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.bundle import InputColumn, Manifest, write_manifest
from tidemill.domain.scores import BOUNDS
from tidemill.errors import IntegrityError, Unavailable
from tidemill.server import App, PredictionLog, build, load_model
from tidemill.settings.serving import ServingSettings
from tidemill.testing.models import MANIFEST, MEANS, SLOPES, VALUES, write_bundle
from tidemill.testing.objects import MemoryObjects
from tidemill.testing.online import MemoryOnline

INFER = "/v2/models/flight-delay/infer"
NOW = datetime(2013, 4, 1, 12, tzinfo=UTC)
AS_OF = datetime(2013, 4, 1, 9, tzinfo=UTC)
TYPES = {"carrier": "BYTES", "origin": "BYTES", "tailnum": "BYTES", "flight_id": "BYTES"}
ROW = {"sched_minute": 600.0, "carrier": "UA", "origin": "JFK"}
FEATURES = {"carrier_late_rate_7d": 0.5, "temp": 40.0, "seats": 200.0}
FULL = ROW | FEATURES


class Noon:
    def now(self) -> datetime:
        return NOW


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def scores(self) -> list[float]:
        (output,) = self.body["outputs"]
        assert output["name"] == "probability"
        assert output["datatype"] == "FP32"
        assert output["shape"] == [len(output["data"])]
        return output["data"]


@dataclass
class Served:
    """The application with everything around it, in this process."""

    app: App
    log: PredictionLog
    online: MemoryOnline
    objects: MemoryObjects

    def ask(self, path: str, content: bytes = b"", method: str = "POST", **headers: str) -> Answer:
        return asyncio.run(self._ask(path, content, method, headers))

    async def _ask(self, path: str, content: bytes, method: str, headers: dict[str, str]) -> Answer:
        sent: list[dict[str, Any]] = []
        chunks = [content[:7], content[7:]]  # bodies arrive in pieces

        async def receive() -> dict[str, Any]:
            body = chunks.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(chunks)}

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
        scope = {"type": "http", "path": path, "method": method, "headers": raw}
        await self.app(scope, receive, send)
        start, body = sent
        assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
        return Answer(start["status"], dict(start["headers"]), body["body"])

    def infer(self, row: dict[str, Any], rows: int = 1, **more: Any) -> Answer:
        return self.ask(INFER, json.dumps(request(row, rows) | more).encode())

    def metric(self, name: str, **labels: str) -> float:
        text = self.ask("/metrics", method="GET").content.decode()
        wanted = [f'{k}="{v}"' for k, v in labels.items()]
        (line,) = [
            x
            for x in text.splitlines()
            if x.startswith(f"{name}{{") and all(w in x for w in wanted)
        ]
        return float(line.rpartition(" ")[2])


def request(row: dict[str, Any], rows: int = 1) -> dict[str, Any]:
    return {
        "inputs": [
            {
                "name": name,
                "shape": [rows],
                "datatype": TYPES.get(name, "FP32"),
                "data": value if isinstance(value, list) else [value] * rows,
            }
            for name, value in row.items()
        ]
    }


def expected(row: dict[str, Any], bias: float = -1.0) -> float:
    """The model of `tidemill.testing.models` by hand."""
    filled = {k: MEANS[k] if row.get(k) is None else row[k] for k in MEANS}
    logit = bias + sum((filled[k] - MEANS[k]) * SLOPES[k] for k in MEANS)
    for name, known in VALUES.items():
        logit += 0.1 * (known.index(row[name]) + 1) if row[name] in known else 0
    return 1 / (1 + math.exp(-logit))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "b")


def start(bundle: Path, **options: Any) -> Served:
    online = MemoryOnline(
        MANIFEST.features.digest,
        AS_OF,
        {
            "carrier_delay": {("UA",): {"carrier_late_rate_7d": 0.5}},
            "origin_weather": {("JFK",): {"temp": 40.0}},
            "plane": {("N1",): {"seats": 200}},
        },
    )
    objects = MemoryObjects()
    model = load_model(bundle, version="7", threads=1)
    app, log = build(
        model, ServingSettings(**options), reader=online, objects=objects, clock=Noon()
    )
    app.ready = True
    return Served(app, log, online, objects)


@pytest.fixture
def served(bundle: Path) -> Served:
    return start(bundle)


def test_an_answer_carries_score_version_and_revision(served: Served) -> None:
    answer = served.infer(FULL, id="a-1")
    assert answer.status == 200
    assert answer.scores == pytest.approx([expected(FULL)], abs=1e-6)
    body = answer.body
    assert (body["model_name"], body["model_version"], body["id"]) == ("flight-delay", "7", "a-1")
    metadata = served.ask("/v2/models/flight-delay", method="GET").body
    assert body["parameters"] == {"revision": metadata["parameters"]["revision"]}
    assert metadata["parameters"]["digest"].startswith(
        "sha256:" + metadata["parameters"]["revision"]
    )


def test_ids_are_made_and_unique_where_none_is_given(served: Served) -> None:
    first, second = served.infer(FULL).body["id"], served.infer(FULL).body["id"]
    assert first != second


def test_the_version_path_answers_the_same(served: Served) -> None:
    content = json.dumps(request(FULL)).encode()
    by_version = served.ask("/v2/models/flight-delay/versions/7/infer", content)
    assert by_version.scores == served.ask(INFER, content).scores


def test_rows_stay_in_order(served: Served) -> None:
    row = FULL | {"sched_minute": [300.0, 600.0, 900.0], "carrier": ["UA", "??", None]}
    wanted = [
        expected(FULL | {"sched_minute": m, "carrier": c})
        for m, c in [(300, "UA"), (600, "??"), (900, "")]
    ]
    assert served.infer(row, 3).scores == pytest.approx(wanted, abs=1e-6)


def test_null_is_a_missing_number_that_the_graph_imputes(served: Served) -> None:
    answer = served.infer(FULL | {"temp": None})
    assert answer.scores == pytest.approx([expected(FULL | {"temp": None})], abs=1e-6)
    assert "defaulted" not in answer.body["parameters"]


def test_shape_n_by_1_may_be_flat_or_nested(served: Served) -> None:
    body = request(FULL, 2)
    for tensor in body["inputs"]:
        tensor["shape"] = [2, 1]
    flat = served.ask(INFER, json.dumps(body).encode())
    for tensor in body["inputs"]:
        tensor["data"] = [[value] for value in tensor["data"]]
    nested = served.ask(INFER, json.dumps(body).encode())
    assert flat.scores == nested.scores == pytest.approx([expected(FULL)] * 2, abs=1e-6)


def test_missing_features_are_looked_up(served: Served) -> None:
    answer = served.infer(ROW | {"tailnum": "N1"})
    assert answer.scores == pytest.approx([expected(FULL)], abs=1e-6)
    assert answer.body["parameters"]["features_as_of"] == AS_OF.isoformat()
    assert "defaulted" not in answer.body["parameters"]
    assert served.metric("tidemill_defaults_total", view="plane") == 0


def test_given_features_win_over_the_store(served: Served) -> None:
    row = ROW | {"tailnum": "N1", "temp": 90.0}
    assert served.infer(row).scores == pytest.approx([expected(FULL | {"temp": 90.0})], abs=1e-6)


def test_unknown_and_null_keys_fall_back_marked_and_counted(served: Served) -> None:
    answer = served.infer(ROW | {"tailnum": ["N1", "N2", None, "N1"]}, 4)
    known, unknown = expected(FULL), expected(FULL | {"seats": 150.0})
    assert answer.scores == pytest.approx([known, unknown, unknown, known], abs=1e-6)
    assert answer.body["parameters"]["defaulted"] == "seats=0.5"
    assert served.metric("tidemill_defaults_total", view="plane") == 2
    assert served.metric("tidemill_defaults_total", view="carrier_delay") == 0


BROKEN = {
    "down": Unavailable("the store does not answer"),
    "a bug of the reader": ZeroDivisionError(),
}


@pytest.mark.parametrize("failure", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_store_costs_defaults_and_no_answer(served: Served, failure: Exception) -> None:
    served.online.failure = failure
    answer = served.infer(ROW | {"tailnum": "N1"})
    nothing = {"carrier_late_rate_7d": None, "temp": None, "seats": 150.0}
    assert answer.status == 200
    assert answer.scores == pytest.approx([expected(ROW | nothing)], abs=1e-6)
    assert answer.body["parameters"]["defaulted"] == "carrier_late_rate_7d=1,temp=1,seats=1"
    assert "features_as_of" not in answer.body["parameters"]
    served.online.failure = None
    assert served.infer(ROW | {"tailnum": "N1"}).scores == pytest.approx([expected(FULL)], abs=1e-6)
    assert served.metric("tidemill_requests_total", outcome="error") == 0


def test_values_of_a_wrong_type_fall_back(served: Served) -> None:
    served.online.values["plane"][("N1",)]["seats"] = "two hundred"
    served.online.values["origin_weather"][("JFK",)]["temp"] = 1e300
    answer = served.infer(ROW | {"tailnum": "N1"})
    assert answer.body["parameters"]["defaulted"] == "temp=1,seats=1"


def test_another_definition_in_the_store_is_not_used(served: Served) -> None:
    before = served.infer(ROW | {"tailnum": "N1"})
    served.online.digest = "sha256:" + "6" * 64  # somebody materialised a changed service
    served.online.as_of = NOW
    after = served.infer(ROW | {"tailnum": "N1"})
    assert "defaulted" not in before.body["parameters"]
    assert after.body["parameters"]["defaulted"].count("=1") == 3


def test_a_late_store_falls_back_within_the_deadline(bundle: Path) -> None:
    served = start(bundle, lookup_deadline_ms=5)

    class Slow(MemoryOnline):
        def read(self, *_: Any) -> Any:
            import time

            time.sleep(0.3)

    served.app._inference._lookup._reader = Slow(MANIFEST.features.digest)
    answer = served.infer(ROW | {"tailnum": "N1"})
    assert answer.status == 200
    assert answer.body["parameters"]["defaulted"].count("=1") == 3


def bad(**changes: Any) -> dict[str, Any]:
    """A good request with its first input (sched_minute) changed."""
    body = request(FULL, 2)
    body["inputs"][0] |= changes
    return body


def without(name: str) -> dict[str, Any]:
    return request({k: v for k, v in FULL.items() if k != name}, 2)


REFUSED: dict[str, tuple[Any, str, list[str]]] = {
    "unknown input": (bad(name="sched_minut"), "unknown_input", ["sched_minut", "'sched_minute'"]),
    "missing input": (without("carrier"), "missing_input", ["'carrier'"]),
    "missing key": (without("seats"), "missing_input", ["'seats'", "'tailnum'", "'plane'"]),
    "duplicate": (
        {"inputs": [*request(FULL)["inputs"], request(FULL)["inputs"][0]]},
        "duplicate_input",
        ["'sched_minute'", "twice"],
    ),
    "datatype": (
        bad(datatype="BYTES", data=["a", "b"]),
        "wrong_datatype",
        ["'sched_minute'", "BYTES", "expected FP32"],
    ),
    "unknown datatype": (bad(datatype="FP64"), "invalid_request", ["FP64", "BYTES, FP32, INT64"]),
    "rank": (bad(shape=[2, 1, 1]), "wrong_shape", ["[2, 1, 1]", "[N, 1]"]),
    "width": (bad(shape=[2, 2], data=[1, 2, 3, 4]), "wrong_shape", ["[2, 2]", "[N, 1]"]),
    "length": (bad(data=[1.0]), "wrong_length", ["1 values", "[2]"]),
    "rows differ": (
        {"inputs": [*request(FULL, 2)["inputs"][:5], request({"seats": 1.0}, 3)["inputs"][0]]},
        "wrong_shape",
        ["'seats'", "[3]", "N = 2"],
    ),
    "no rows": (request({k: [] for k in FULL}, 0), "wrong_row_count", ["0 rows"]),
    "too many rows": (request(FULL, 5000), "wrong_row_count", ["5000 rows", "4096"]),
    "string among numbers": (
        bad(data=[1.0, "x"]),
        "invalid_request",
        ["'sched_minute'", "got `str`", "data[1]"],
    ),
    "bool among numbers": (bad(data=[True, 1]), "invalid_request", ["got `bool`"]),
    "nested": (bad(data=[[1.0], [2.0]]), "wrong_shape", ["nested"]),
    "half nested": (bad(shape=[2, 1], data=[[1.0], 2.0]), "wrong_shape", ["nested"]),
    "beyond fp32": (bad(data=[1.0, 1e39]), "invalid_request", ["data[1]", "3.4"]),
    "beyond fp64": (b'{"inputs": [{"name": "a", "shape": [1e999]}]}', "invalid_request", []),
    "negative shape": (bad(shape=[-1]), "invalid_request", ["shape"]),
    "NaN literal": (b'{"inputs": [NaN]}', "malformed_json", ["null"]),
    "no JSON": (b"\x00\x01", "malformed_json", []),
    "empty": (b"", "malformed_json", []),
    "no object": (b"[]", "invalid_request", ["`object`"]),
    "not UTF-8": (b'{"id": "\xff\xfe"}', "malformed_json", []),
    "surrogate": (b'{"id": "\\ud800"}', "malformed_json", []),
    "too deep": (b'{"parameters": {"a": ' + b"[" * 100_000, "malformed_json", ["nested"]),
    "no inputs": ({"inputs": []}, "missing_input", ["'carrier'", "'origin'", "'sched_minute'"]),
    "unknown key": (request(FULL) | {"input": []}, "invalid_request", ["`input`"]),
    "unknown output": (
        request(FULL) | {"outputs": [{"name": "label"}]},
        "unknown_output",
        ["'label'", "'probability'"],
    ),
    "binary output": (
        request(FULL) | {"parameters": {"binary_data_output": True}},
        "unsupported",
        ["binary"],
    ),
    "binary input": (
        {"inputs": [{"name": "temp", "shape": [1], "datatype": "FP32", "parameters": {}}]},
        "invalid_request",
        ["'temp'", "binary"],
    ),
    "long id": (request(FULL) | {"id": "x" * 300}, "invalid_request", ["256"]),
}


@pytest.mark.parametrize(("body", "code", "says"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_requests_are_refused_with_a_reason(
    served: Served, body: Any, code: str, says: list[str]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = served.ask(INFER, content)
    assert (answer.status, answer.body["code"]) == (400, code)
    for words in says:
        assert words in answer.body["error"]
    assert served.metric("tidemill_requests_total", outcome="rejected") == 1


def test_null_is_refused_where_the_policy_says_so(bundle: Path) -> None:
    strict = start(bundle, nan_policy="reject")
    for name in ("temp", "carrier"):
        answer = strict.infer(FULL | {name: None})
        assert answer.body["code"] == "missing_value"
        assert f"'{name}'" in answer.body["error"]
    assert strict.infer(ROW | {"tailnum": None}).status == 200  # a key may be unknown


def test_a_large_body_is_refused(bundle: Path) -> None:
    small = start(bundle, max_body_bytes=1024)
    answer = small.infer(FULL, 100)
    assert (answer.status, answer.body["code"]) == (413, "body_too_large")
    assert "1024 bytes" in answer.body["error"]
    assert answer.headers[b"connection"] == b"close"


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "says"),
    [
        ("POST", "/v2/models/churn/infer", 404, "unknown_model", "'flight-delay'"),
        ("GET", "/v2/models/flight-delay/versions/8", 404, "unknown_version", "'7'"),
        ("GET", "/v2/models/flight-delay/versions", 404, "not_found", "nothing at"),
        ("GET", "/", 404, "not_found", "nothing at"),
        ("GET", INFER, 405, "method_not_allowed", "POST"),
        ("POST", "/v2/health/ready", 405, "method_not_allowed", "GET"),
    ],
)
def test_wrong_paths_and_methods_say_what_is_there(
    served: Served, method: str, path: str, status: int, code: str, says: str
) -> None:
    answer = served.ask(path, method=method)
    assert (answer.status, answer.body["code"]) == (status, code)
    assert says in answer.body["error"]


def test_extensions_that_are_not_spoken_are_refused(served: Served) -> None:
    content = json.dumps(request(FULL)).encode()
    binary = served.ask(INFER, content, inference_header_content_length="10")
    assert (binary.status, binary.body["code"]) == (400, "unsupported")
    packed = served.ask(INFER, content, content_encoding="gzip")
    assert (packed.status, packed.body["code"]) == (415, "unsupported_encoding")


def test_metadata_tells_what_a_request_needs(served: Served) -> None:
    body = served.ask("/v2/models/flight-delay/versions/7", method="GET").body
    optional = {t["name"]: t["parameters"]["optional"] for t in body["inputs"]}
    assert {name for name, may in optional.items() if not may} == set(ROW)
    assert optional["flight_id"]
    assert optional["tailnum"]
    assert body["versions"] == ["7"]
    assert served.ask("/v2", method="GET").body["name"] == "tidemill"


def test_draining_is_not_ready_and_closes_connections(served: Served) -> None:
    assert served.ask("/v2/health/ready", method="GET").status == 200
    served.app.draining = True
    assert served.ask("/v2/health/ready", method="GET").body == {"ready": False}
    ready = served.ask("/v2/models/flight-delay/versions/7/ready", method="GET")
    assert (ready.status, ready.body) == (503, {"name": "flight-delay", "ready": False})
    assert served.ask("/v2/health/live", method="GET").status == 200
    answer = served.infer(FULL)
    assert answer.status == 200
    assert answer.headers[b"connection"] == b"close"


def test_metrics_carry_the_contract(served: Served) -> None:
    served.infer(FULL, 3)
    served.ask(INFER, b"{}")
    labels = {"model": "flight-delay", "version": "7"}
    assert served.metric("tidemill_requests_total", outcome="ok", **labels) == 1
    assert served.metric("tidemill_requests_total", outcome="rejected", **labels) == 1
    assert served.metric("tidemill_rows_total", **labels) == 3
    assert served.metric("tidemill_request_seconds_count", **labels) == 2
    assert served.metric("tidemill_request_seconds_bucket", le="0.25", **labels) <= 2
    for name in ("slow", "invalid", "log_rows", "log_lost"):
        assert served.metric(f"tidemill_{name}_total", **labels) >= 0
    assert served.metric("tidemill_start_time_seconds", **labels) > 1.7e9


def test_a_slow_request_is_counted_beside_its_bucket(bundle: Path) -> None:
    served = start(bundle, slow_ms=0.001)
    served.infer(FULL)
    assert served.metric("tidemill_slow_total") == 1
    assert served.metric("tidemill_request_seconds_bucket", le="1e-06") == 0


def test_a_score_that_is_no_probability_is_counted(tmp_path: Path) -> None:
    served = start(write_bundle(tmp_path / "b", bias=math.nan))
    answer = served.infer(FULL)
    assert answer.status == 200
    assert answer.scores == [None]
    assert served.metric("tidemill_invalid_total") == 1
    assert served.metric("tidemill_score_count") == 0


def test_a_request_is_counted_once_under_its_mean_score(served: Served) -> None:
    scores = [served.infer(FULL, 3).scores, served.infer(FULL).scores]
    means = [sum(one) / len(one) for one in scores]
    assert served.metric("tidemill_score_count") == 2
    assert served.metric("tidemill_score_sum") == pytest.approx(sum(means))
    bound = min(bound for bound in BOUNDS if bound >= max(means))
    assert served.metric("tidemill_score_bucket", le=str(bound)) == 2


def test_a_failing_model_is_a_500_without_its_reason(served: Served) -> None:
    class Broken:
        def run(self, *_: Any) -> Any:
            raise RuntimeError("/secret/path")

    object.__setattr__(served.app._inference.model, "session", Broken())
    answer = served.infer(FULL)
    assert (answer.status, answer.body["code"]) == (500, "internal")
    assert "secret" not in answer.content.decode()
    assert served.metric("tidemill_requests_total", outcome="error") == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
names = st.sampled_from([*FULL, "tailnum", "flight_id", "other"])
shapes = st.lists(st.integers(-1, 4), max_size=3) | st.just([2])
elements = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
tensors = st.fixed_dictionaries(
    {
        "name": names,
        "shape": shapes,
        "datatype": st.sampled_from(["FP32", "BYTES", "INT64", "FP64", "BOOL"]),
        "data": st.lists(elements | st.lists(elements, max_size=2), max_size=4),
    }
)
documents = (
    json_values
    | st.builds(lambda inputs: {"inputs": inputs}, st.lists(tensors | json_values, max_size=9))
    | st.builds(
        lambda name, key, value: {
            "inputs": [
                t | {key: value} if t["name"] == name else t for t in request(FULL, 2)["inputs"]
            ]
        },
        names,
        st.sampled_from(["name", "shape", "datatype", "data", "parameters"]),
        json_values | shapes | st.lists(elements, min_size=2, max_size=2),
    )
)


@pytest.fixture(scope="module")
def shared(bundle: Path) -> Served:
    """One server for all examples."""
    return start(bundle)


@settings(max_examples=400, deadline=None)
@given(body=documents.map(lambda d: json.dumps(d).encode()) | st.binary(max_size=64))
def test_no_body_at_all_gives_a_5xx(shared: Served, body: bytes) -> None:
    answer = shared.ask(INFER, body)
    if answer.status == 200:
        assert answer.scores
    else:
        assert answer.status == 400
        assert set(answer.body) == {"error", "code"}
        assert "Traceback" not in answer.body["error"]


LIES = {
    "an input is not in the graph": (
        replace(MANIFEST, inputs=(*MANIFEST.inputs, InputColumn("dest", "BYTES", "request"))),
        "'dest' is tensor(string) / None",
    ),
    "an input of the graph is not named": (
        replace(MANIFEST, inputs=MANIFEST.inputs[:-1]),
        "'seats' is None / tensor(float)",
    ),
    "a datatype": (
        replace(MANIFEST, inputs=(InputColumn("sched_minute", "INT64", "request"),)),
        "'sched_minute' is INT64 / tensor(float)",
    ),
    "the output": (replace(MANIFEST, output="score"), "no 'score'"),
    "a feature without a view": (
        replace(MANIFEST, features=replace(MANIFEST.features, views=MANIFEST.features.views[:2])),
        "no view of the feature service holds the inputs ['seats']",
    ),
}


@pytest.mark.parametrize(("manifest", "says"), LIES.values(), ids=LIES.keys())
def test_a_manifest_that_lies_is_refused(tmp_path: Path, manifest: Manifest, says: str) -> None:
    write_manifest(write_bundle(tmp_path / "b"), manifest)
    with pytest.raises(IntegrityError, match=re.escape(says)):
        load_model(tmp_path / "b", version="1", threads=1)


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    (bundle / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(IntegrityError, match="cannot be loaded"):
        load_model(bundle, version="1", threads=1)


@pytest.mark.parametrize("datatype", ["FP32", "BYTES"])
def test_a_model_may_have_inputs_of_one_type_alone(tmp_path: Path, datatype: str) -> None:
    inputs = tuple(replace(c, origin="request") for c in MANIFEST.inputs if c.datatype == datatype)
    served = start(write_bundle(tmp_path / "b", manifest=replace(MANIFEST, inputs=inputs)))
    served.log.start()
    answer = served.infer({c.name: FULL[c.name] for c in inputs}, 2)
    assert len(answer.scores) == 2
    assert served.log.close(10) == 0
    assert served.log.counts() == (2, 0)


def test_the_docs_list_every_error_code() -> None:
    root = Path(__file__).parents[2]
    source = "".join(p.read_text() for p in (root / "src/tidemill/server").glob("*.py"))
    raised = set(re.findall(r"Rejected\(\s*\"(\w+)\"", source))
    table = (root / "docs/serving.md").read_text().partition("| status | codes |")[2]
    listed = set(re.findall(r"`(\w+)`", table.partition("\n\n")[0]))
    assert raised == listed
