"""gRPC of a real `tidemill serve`: unmodified clients, keys, TLS, limits, deadlines, the drain."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import yaml
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tests.certificates import Authority
from tests.collector import collector
from tests.grpc_calls import request
from tests.load import Load
from tests.serving import FULL, KEYS, Project, Server, body, make_project, wait_until
from tests.tensors import as_raw
from tests.tritons import ROWS, columns
from tritonclient.utils import InferenceServerException

from tidemill.server.keys import make_entry

pytestmark = pytest.mark.slow

MODEL = "flight-delay"
SERVICE = "inference.GRPCInferenceService"
Status = grpc.StatusCode


@dataclass
class Both:
    """A server that is asked over HTTP and gRPC."""

    http: Server
    url: str

    @property
    def target(self) -> str:
        return self.url.partition("://")[2]


def serve(project: Project, *options: str, scheme: str = "http", **more: Any) -> Both:
    process = project.start("--grpc-port", "0", *options, **more)
    assert process.stdout
    url = process.stdout.readline().strip()
    assert url.startswith(f"{scheme}://"), project.stderr
    said = process.stdout.readline().strip()
    assert said.startswith("grpc"), project.stderr
    return Both(Server(process, url), said)


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    made = make_project(tmp_path_factory.mktemp("grpc"))
    yield serve(made, "--set", "serving.max_body_bytes=100000")
    made.close()


@pytest.fixture
def client(shared: Both) -> Iterator[Any]:
    with triton.InferenceServerClient(shared.target) as made:
        yield made


@pytest.fixture
def channel(shared: Both) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(shared.target) as made:
        yield made


def message(rows: int = 1, **more: Any) -> bytes:
    """A raw ModelInfer of full rows."""
    inputs = [as_raw(x) for x in body(FULL, rows)["inputs"]]
    return request(inputs, **more).SerializeToString()


def call(channel: grpc.Channel, name: str = "ModelInfer") -> Any:
    return channel.unary_unary(f"/{SERVICE}/{name}")


def test_tritons_client_finds_server_and_model(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL, "7")
    assert "model_repository" in client.get_server_metadata().extensions
    told = client.get_model_metadata(MODEL, as_json=True)
    assert told["outputs"] == [{"name": "probability", "datatype": "FP32", "shape": ["-1"]}]
    (entry,) = client.get_model_repository_index().models
    assert (entry.name, entry.version, entry.state) == (MODEL, "7", "READY")


@pytest.mark.parametrize("row", [FULL, KEYS], ids=["full", "looked up"])
def test_tritons_client_gets_the_scores_of_rest(
    shared: Both, client: Any, row: dict[str, Any]
) -> None:
    wanted = np.float32(shared.http.infer(row, ROWS).json()["outputs"][0]["data"])
    outputs = [triton.InferRequestedOutput("probability")]
    for more in ({}, {"outputs": outputs, "request_id": "mine", "model_version": "7"}):
        answer = client.infer(MODEL, columns(triton, row), **more)
        np.testing.assert_array_equal(answer.as_numpy("probability"), wanted)
    assert answer.get_response().id == "mine"
    waiting: list[Any] = []
    done = threading.Event()

    def finished(result: Any, error: Any) -> None:
        waiting.append(error or result.as_numpy("probability"))
        done.set()

    client.async_infer(MODEL, columns(triton, row), finished)
    assert done.wait(30)
    np.testing.assert_array_equal(waiting[0], wanted)


@pytest.mark.parametrize("number", [np.float64, np.int16, np.uint64, np.float16])
def test_tritons_client_sends_other_types(client: Any, number: type) -> None:
    row = FULL | {"carrier_late_rate_7d": 1.0}
    wanted = client.infer(MODEL, columns(triton, row)).as_numpy("probability")
    found = client.infer(MODEL, columns(triton, row, number=number)).as_numpy("probability")
    np.testing.assert_array_equal(found, wanted)


def test_refusals_reach_tritons_client(client: Any) -> None:
    cases = {
        "unknown_model: there is no model 'x'": ("NOT_FOUND", "x", columns(triton, FULL)),
        "wrong_shape": (
            "INVALID_ARGUMENT",
            MODEL,
            columns(triton, FULL, 2)[:3] + columns(triton, FULL)[3:],
        ),
        "beyond the range of FP32": (
            "INVALID_ARGUMENT",
            MODEL,
            columns(triton, FULL | {"temp": 1e300}, number=np.float64),
        ),
    }
    for words, (status, name, inputs) in cases.items():
        with pytest.raises(InferenceServerException, match=words) as refused:
            client.infer(name, inputs)
        assert refused.value.status() == f"StatusCode.{status}"
    outputs = [triton.InferRequestedOutput("probability", class_count=2)]
    with pytest.raises(InferenceServerException, match="classification is not supported"):
        client.infer(MODEL, columns(triton, FULL), outputs=outputs)
    with pytest.raises(InferenceServerException, match="has no repository"):
        client.load_model(MODEL)
    with pytest.raises(InferenceServerException) as missing:
        client.get_inference_statistics(MODEL)
    assert missing.value.status() == "StatusCode.UNIMPLEMENTED"


def test_streaming_is_not_implemented(channel: grpc.Channel) -> None:
    answers = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(iter([message()]))
    with pytest.raises(grpc.RpcError) as refused:
        list(answers)
    assert refused.value.code() is Status.UNIMPLEMENTED


def test_a_call_without_a_message_and_one_with_two_are_answered(channel: grpc.Channel) -> None:
    sends = channel.stream_unary(f"/{SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as refused:
        sends(iter([]))
    assert refused.value.code() is Status.INVALID_ARGUMENT
    assert sends(iter([message(), message()]))


def test_messages_metadata_and_compression_have_limits(channel: grpc.Channel) -> None:
    infer = call(channel)
    cases: list[tuple[bytes, dict[str, Any], grpc.StatusCode]] = [
        (message(3000), {}, Status.RESOURCE_EXHAUSTED),
        (message(), {"metadata": (("x", "y" * 40_000),)}, Status.RESOURCE_EXHAUSTED),
        (message(), {"compression": grpc.Compression.Gzip}, Status.UNIMPLEMENTED),
    ]
    for sent, more, status in cases:
        with pytest.raises(grpc.RpcError) as refused:
            infer(sent, **more)
        assert refused.value.code() is status
        assert infer(message())


def test_health_answers_for_server_service_and_model(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE, MODEL):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="other"))
    assert refused.value.code() is Status.NOT_FOUND


def test_a_client_needs_no_more_than_reflection_tells(shared: Both, channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    method = DescriptorPool(database).FindServiceByName(SERVICE).methods_by_name["ModelInfer"]
    asked = GetMessageClass(method.input_type)(model_name=MODEL)
    for name, value in FULL.items():
        kind, field = ("BYTES", "bytes_contents") if isinstance(value, str) else ("FP32", "")
        tensor = asked.inputs.add(name=name, datatype=kind, shape=[1])
        content = value.encode() if isinstance(value, str) else value
        getattr(tensor.contents, field or "fp32_contents").append(content)
    answer = GetMessageClass(method.output_type).FromString(
        call(channel)(asked.SerializeToString())
    )
    wanted = shared.http.infer(FULL).json()["outputs"][0]["data"]
    assert list(answer.outputs[0].contents.fp32_contents) == wanted


def test_models_are_loaded_and_unloaded(project: Project) -> None:
    for version in ("1", "2"):
        shutil.copytree(project.bundle, project.root / "models" / MODEL / version)
    server = serve(project, repository=project.root / "models")
    with triton.InferenceServerClient(server.target) as client:
        states = lambda: {  # noqa: E731
            m.version: m.state for m in client.get_model_repository_index().models
        }
        assert states() == {"1": "READY", "2": "READY"}
        assert client.infer(MODEL, columns(triton, FULL)).get_response().model_version == "2"
        client.unload_model(MODEL)
        assert set(states().values()) == {"UNAVAILABLE"}
        assert not client.is_model_ready(MODEL)
        with pytest.raises(InferenceServerException, match="not_loaded") as refused:
            client.infer(MODEL, columns(triton, FULL))
        assert refused.value.status() == "StatusCode.UNAVAILABLE"
        client.load_model(MODEL)
        assert states() == {"1": "UNAVAILABLE", "2": "READY"}
        assert client.infer(MODEL, columns(triton, FULL)).get_response().model_version == "2"
        with pytest.raises(InferenceServerException, match="unknown_model"):
            client.load_model("other")


def test_keys_and_traces_come_in_metadata(project: Project) -> None:
    token, entry = make_entry("shop", permissions=["infer"])
    admin, other = make_entry("operator", permissions=["admin"])
    (project.root / "keys.yaml").write_text(yaml.safe_dump([entry, other]))
    server = serve(project, "--set", "serving.auth.key_file=keys.yaml")
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {
        "authorization": f"Bearer {token}",
        "traceparent": f"00-{trace}-00f067aa0ba902b7-01",
    }
    with triton.InferenceServerClient(server.target) as client:
        assert client.is_server_ready()
        with pytest.raises(InferenceServerException, match="missing_key") as refused:
            client.infer(MODEL, columns(triton, FULL))
        assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
        answer = client.infer(MODEL, columns(triton, FULL), request_id="kept", headers=headers)
        assert answer.as_numpy("probability").shape == (ROWS,)
        with pytest.raises(InferenceServerException, match="forbidden"):
            client.get_model_repository_index(headers=headers)
        admitted = {"authorization": f"Bearer {admin}"}
        assert client.get_model_repository_index(headers=admitted).models
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as raw:
        call(channel)(message())
    assert dict(raw.value.trailing_metadata())["error-code"] == "missing_key"
    assert server.http.stop() == 0
    rows = project.log().filter(request_id="kept")
    assert rows["trace_id"].to_list() == [trace] * ROWS


def test_a_trace_leads_to_the_collector_and_back_to_the_caller(project: Project) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    context = (("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),)
    with collector() as received:
        server = serve(project, "--set", f"serving.traces.endpoint={received.url}")
        with grpc.insecure_channel(server.target) as channel:
            _, scored = call(channel).with_call(message(), metadata=context)
            with pytest.raises(grpc.RpcError) as refused:
                call(channel)(message(model_name="other"), metadata=context)
        assert server.http.stop() == 0
    told = [dict(c.trailing_metadata())["traceparent"] for c in (scored, refused.value)]
    spans = [span.id for span in received.spans if span.name == "infer"]
    assert told == [f"00-{trace}-{span}-01" for span in spans]
    assert dict(refused.value.trailing_metadata())["error-code"] == "unknown_model"


def test_a_call_that_stalls_and_a_deadline_that_passes_free_their_place(project: Project) -> None:
    server = serve(
        project,
        "--set",
        "serving.limits.body_seconds=0.3",
        "--set",
        "serving.limits.max_in_flight=1",
    )
    with grpc.insecure_channel(server.target) as channel:
        stalled = threading.Event()

        def silent() -> Iterator[bytes]:
            stalled.wait(60)
            yield from ()

        with pytest.raises(grpc.RpcError) as late:
            channel.stream_unary(f"/{SERVICE}/ModelInfer")(silent())
        assert late.value.code() is Status.DEADLINE_EXCEEDED
        assert late.value.details().startswith("request_timeout")
        stalled.set()
        server.http.process.send_signal(signal.SIGSTOP)
        with pytest.raises(grpc.RpcError) as passed:
            call(channel)(message(), timeout=0.2)
        assert passed.value.code() is Status.DEADLINE_EXCEEDED
        server.http.process.send_signal(signal.SIGCONT)
        assert call(channel)(message())
    assert server.http.stop() == 0


def test_no_more_connections_are_held_than_may_be(project: Project) -> None:
    """HTTP's are counted apart."""
    server = serve(project, "--set", "serving.limits.max_connections=2")
    host, _, port = server.target.rpartition(":")

    def connect() -> socket.socket:
        return socket.create_connection((host, int(port)), timeout=20)

    def greeted(client: socket.socket) -> bool:
        """Whether the server sent its settings, as it does first; otherwise it has closed."""
        try:
            return client.recv(1) != b""
        except ConnectionResetError:
            return False

    with connect() as silent, grpc.insecure_channel(server.target) as channel:
        assert greeted(silent)
        assert call(channel)(message())
        for _ in range(3):
            with connect() as beyond:
                assert not greeted(beyond)
        assert call(channel)(message())
        assert server.http.infer(FULL).status_code == 200

    def again() -> bool:
        with connect() as one:
            return greeted(one)

    wait_until(again)
    assert server.http.stop() == 0


def test_tls_takes_a_new_certificate_without_a_restart(project: Project, tmp_path: Path) -> None:
    authority, other = Authority(tmp_path, "authority"), Authority(tmp_path, "other")
    cert, key, _ = authority.issue("server")
    tls = ["--set", f"serving.tls.cert={cert}", "--set", f"serving.tls.key={key}"]
    server = serve(project, *tls, scheme="https")
    assert server.url.startswith("grpcs://")

    def trusts(issuer: Authority) -> bool:
        return _answered(server, issuer)

    assert trusts(authority)
    assert not trusts(other)
    with _secure(server.target, authority) as before:
        assert call(before)(message())
        other.issue("server")
        wait_until(lambda: trusts(other))
        assert call(before)(message())  # its connection outlives the old certificate
    key.write_text("no key")
    wait_until(lambda: "the former one stays" in project.stderr)
    assert trusts(other)
    assert server.http.stop() == 0


def test_mtls_lets_in_who_has_a_certificate(project: Project, tmp_path: Path) -> None:
    authority, stranger = Authority(tmp_path, "authority"), Authority(tmp_path, "stranger")
    cert, key, _ = authority.issue("server")
    files = {"cert": cert, "key": key, "client_ca": authority.path}
    tls = [x for k, v in files.items() for x in ("--set", f"serving.tls.{k}={v}")]
    server = serve(project, *tls, scheme="https")
    for issuer, admitted in ((authority, True), (stranger, False), (None, False)):
        own = issuer.issue("client")[:2] if issuer else None
        with _secure(server.target, authority, own) as channel:
            if admitted:
                assert call(channel)(message(), timeout=30)
                continue
            with pytest.raises(grpc.RpcError) as refused:
                call(channel)(message(), timeout=5)
            assert refused.value.code() is Status.UNAVAILABLE
    assert server.http.stop() == 0


def test_mtls_takes_a_new_client_ca_without_a_restart(project: Project, tmp_path: Path) -> None:
    authority, old, new = (Authority(tmp_path, name) for name in ("authority", "old", "new"))
    cert, key, _ = authority.issue("server")
    ca = tmp_path / "client_ca.pem"
    ca.write_bytes(old.path.read_bytes())
    files = {"cert": cert, "key": key, "client_ca": ca}
    tls = [x for k, v in files.items() for x in ("--set", f"serving.tls.{k}={v}")]
    server = serve(project, *tls, scheme="https")
    own = {issuer: issuer.issue(f"client {n}")[:2] for n, issuer in enumerate((old, new))}

    def admits(issuer: Authority) -> bool:
        return _answered(server, authority, own[issuer])

    assert admits(old)
    assert not admits(new)
    with _secure(server.target, authority, own[old]) as before:
        assert call(before)(message())
        ca.write_bytes(new.path.read_bytes())
        wait_until(lambda: admits(new))
        assert not admits(old)
        assert call(before)(message())  # its connection outlives the old CA
    assert server.http.stop() == 0


class Calls(Load):
    """Clients that call until the server takes no more."""

    def _client(self, number: int) -> None:
        alone = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.target, alone) as channel:
            infer = call(channel)
            for turn in range(1_000_000):
                name = f"{number}-{turn}"
                try:
                    infer(message(id=name), timeout=30)
                except grpc.RpcError as error:
                    if error.code() is not Status.UNAVAILABLE:  # it was not accepted
                        self.failures.append(f"{name}: {error!r}")
                    return
                self.answered.append(name)


def test_a_drain_under_load_answers_and_logs_all_it_accepted(project: Project) -> None:
    server = serve(project, "--set", "serving.drain_seconds=60")
    load = Calls(server.target)
    load.start(6)
    seen: list[int] = []
    with grpc.insecure_channel(server.target) as channel:
        asked = health_pb2.HealthCheckRequest(service=SERVICE)
        watching = health_pb2_grpc.HealthStub(channel).Watch(asked)
        watch = threading.Thread(target=lambda: seen.extend(x.status for x in watching))
        watch.start()
        wait_until(lambda: len(load.answered) > 300 and bool(seen))
        before = len(load.answered)
        assert server.http.stop() == 0  # the watch does not hold the drain to its limit
        watch.join(60)
    load.join()
    assert load.failures == []
    assert seen == [1, 2]  # SERVING, then NOT_SERVING
    assert len(load.answered) > before  # it went on answering while it drained
    assert sorted(project.log()["request_id"]) == sorted(load.answered)
    assert project.events[-1]["event"] == "stopped"


def test_a_taken_port_is_a_clear_error(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = project.refused("--grpc-port", str(port))
    assert code == 1
    assert f"127.0.0.1:{port} for gRPC" in said
    assert "Traceback" not in said


def test_the_library_is_loaded_with_the_endpoint_alone(project: Project) -> None:
    on = ("--set", "serving.grpc_port=0")
    off = (*on, "--set", "serving.grpc_port=null")  # as the rollout's controller starts servers
    for options, wanted in (((), False), (on, True), (off, False)):
        server = project.serve(*options)
        maps = Path(f"/proc/{server.process.pid}/maps").read_text()
        assert ("cygrpc" in maps) == wanted
        assert not any(f"/{name}/" in maps for name in ("torch", "pandas", "sklearn"))
        assert server.stop() == 0


@contextmanager
def _secure(
    target: str, authority: Authority, own: tuple[Path, Path] | None = None
) -> Iterator[grpc.Channel]:
    cert, key = (path.read_bytes() for path in own) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.path.read_bytes(), key, cert)
    alone = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(target, credentials, alone) as channel:
        yield channel


def _answered(server: Both, authority: Authority, own: tuple[Path, Path] | None = None) -> bool:
    """Say whether a new connection gets an answer."""
    with _secure(server.target, authority, own) as channel:
        try:
            return bool(call(channel)(message(), timeout=5))
        except grpc.RpcError:
            return False
