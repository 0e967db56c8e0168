"""`tidemill serve` with a process per core: real workers that share a port, killed and drained."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
import yaml
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from tests.serving import FULL, Calls, Project, Server, body, make_project, wait_until

from tidemill.adapters.signing import Signer
from tidemill.server.keys import make_entry
from tidemill.testing.models import write_bundle

pytestmark = pytest.mark.slow

TWO = ("--set", "serving.workers=2")
INFER = "/v2/models/flight-delay/infer"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    made = make_project(tmp_path)
    yield made
    for process in made.processes:
        left = workers(process.pid)
        process.kill()
        wait_until(lambda left=left: not any(map(alive, left)))  # type: ignore[misc]
    made.close()


def workers(parent: int) -> list[int]:
    """The processes that a parent started."""
    try:
        found = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    except FileNotFoundError:
        return []
    return [int(pid) for pid in found.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def connections(pid: int) -> int:
    """How many clients are connected to a process; the kernel deals them out by chance."""
    return sum(
        found.status == psutil.CONN_ESTABLISHED
        for found in psutil.Process(pid).net_connections("tcp")
    )


def ask(server: Server, number: int, **headers: str) -> httpx.Response:
    """Ask over a connection of its own, which the kernel gives to any of the workers."""
    content = body(FULL) | {"id": str(number)}
    return httpx.post(server.url + INFER, json=content, headers=headers)


def requests(server: Server) -> int:
    return int(server.metric("tidemill_requests_total"))


def test_all_workers_answer_and_are_counted_and_logged_as_one(project: Project) -> None:
    server = project.serve(*TWO)
    pids = workers(server.process.pid)
    assert len(pids) == 2
    for number in range(16):
        assert ask(server, number).status_code == 200
        assert requests(server) == number + 1  # whichever worker is asked
    wait_until(lambda: server.metric("tidemill_log_rows_total") == 16)
    shown = server.get("/metrics").text
    assert shown.count("tidemill_start_time_seconds{") == 1
    assert 'tidemill_request_seconds_bucket{le="+Inf"' in shown
    assert server.get("/v2/models/flight-delay/ready").status_code == 200
    assert server.stop() == 0
    assert not any(map(alive, pids))
    assert sorted(map(int, project.log()["request_id"])) == list(range(16))
    files = (project.root / ".tidemill/objects/predictions").rglob("*.parquet")
    assert len({file.name.split("-")[1] for file in files}) == 2  # both wrote, nothing collided


def test_a_killed_worker_is_replaced_and_no_counter_goes_back(project: Project) -> None:
    server = project.serve(*TWO)
    load = Calls(server.url)
    load.start(6)
    wait_until(lambda: len(load.answered) > 100)
    victim = max(workers(server.process.pid), key=connections)
    seen = [requests(server)]
    held = connections(victim)
    os.kill(victim, signal.SIGKILL)
    while len(workers(server.process.pid)) < 2 or victim in workers(server.process.pid):
        assert server.get("/v2/health/ready").status_code == 200  # the other took its connections
        seen.append(requests(server))
    wait_until(lambda: "model loaded" in project.events[-1]["event"])
    seen += [requests(server) for _ in range(5)]
    assert seen == sorted(seen)
    (ended,) = [e for e in project.events if e["event"] == "a worker ended"]
    assert (ended["status"], ended["again_in_seconds"]) == (-signal.SIGKILL, 0.5)
    assert server.stop() == 0
    load.join()
    # Only who had a connection to the victim saw it die, and once; all others were answered.
    assert len(load.failures) <= held
    assert all("RemoteProtocolError" in f or "ReadError" in f for f in load.failures)
    assert set(project.log()["request_id"]) <= {
        *load.answered,
        *(f.split(":")[0] for f in load.failures),
    }


def test_rows_that_a_killed_worker_had_not_stored_are_counted_as_lost(project: Project) -> None:
    server = project.serve(*TWO, "--set", "serving.log.flush_seconds=600")
    for number in range(20):
        ask(server, number)
    held = server.metric("tidemill_log_held_rows")
    assert held == 20
    os.kill(workers(server.process.pid)[0], signal.SIGKILL)
    wait_until(lambda: server.metric("tidemill_log_held_rows") < 20)
    assert server.metric("tidemill_log_lost_total") + server.metric("tidemill_log_held_rows") == 20
    assert server.stop() == 0
    stored = len(project.log())
    assert stored < 20


def test_a_rate_and_a_quota_hold_for_all_workers_together(project: Project) -> None:
    rated, rate = make_entry("rated", permissions=["infer"], rate=0.001, burst=15)
    counted, quota = make_entry("counted", permissions=["infer"], quota=10)
    (project.root / "keys.yaml").write_text(yaml.safe_dump([rate, quota]))
    server = project.serve(*TWO, "--set", "serving.auth.key_file=keys.yaml")
    told = [ask(server, n, authorization=f"Bearer {rated}").status_code for n in range(40)]
    assert told == [200] * 15 + [429] * 25
    # A quota is exchanged once a second: after that every worker knows of the other's requests.
    told = [ask(server, n, authorization=f"Bearer {counted}").status_code for n in range(60)]
    assert 10 <= told.count(200) <= 20
    wait_until(lambda: ask(server, 0, authorization=f"Bearer {counted}").status_code == 429)


def test_a_drain_under_load_answers_and_logs_all_that_was_accepted(project: Project) -> None:
    server = project.serve(*TWO)
    load = Calls(server.url)
    load.start(8)
    wait_until(lambda: len(load.answered) > 300)
    assert server.stop() == 0
    load.join()
    assert load.failures == []
    assert sorted(project.log()["request_id"]) == sorted(load.answered)


def test_a_second_signal_ends_all_at_once(project: Project) -> None:
    server = project.serve(*TWO, "--set", "serving.notice_seconds=60")
    pids = workers(server.process.pid)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.get("/v2/health/ready").status_code == 503)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(10) == 128 + signal.SIGTERM
    wait_until(lambda: not any(map(alive, pids)))


def test_what_a_start_is_refused_for_is_told_once_and_ends_it(project: Project) -> None:
    write_bundle(project.bundle, bias=3.0)  # another model under the old signature
    code, said = project.refused(*TWO)
    assert code == 3
    assert said.count("'model.onnx' is not what was signed") == 1


def test_workers_end_with_their_parent(project: Project) -> None:
    server = project.serve(*TWO)
    pids = workers(server.process.pid)
    server.process.kill()
    wait_until(lambda: not any(map(alive, pids)))
    assert "the parent of the workers is gone" in project.stderr


def test_a_taken_port_is_refused_although_it_could_be_shared(project: Project) -> None:
    server = project.serve(*TWO)
    port = httpx.URL(server.url).port
    code, said = project.refused(*TWO, "--port", str(port))
    assert (code, "Address already in use" in said) == (1, True)


def test_grpc_is_answered_by_all_on_one_port(project: Project) -> None:
    process = project.start(*TWO, "--grpc-port", "0")
    assert process.stdout
    urls = [process.stdout.readline().strip() for _ in range(2)]
    address = urls[1].removeprefix("grpc://")
    for _ in range(12):
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            asked = health_pb2.HealthCheckRequest(service="flight-delay")
            answer = HealthStub(channel).Check(asked, wait_for_ready=True, timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert Server(process, urls[0]).stop() == 0


def test_orders_reach_every_worker_and_those_that_begin_later(project: Project) -> None:
    signer = Signer(*(project.root / ".tidemill/keys" / f"signing.{end}" for end in ("pem", "pub")))
    folder = project.root / "models"
    for version, bias in (("1", 0.0), ("2", 1.0)):
        signer.sign(write_bundle(folder / "late" / version, bias=bias))
    server = project.serve(*TWO, repository=folder)

    def versions() -> set[str]:
        answers = [
            httpx.post(f"{server.url}/v2/models/late/infer", json=body(FULL)) for _ in range(20)
        ]
        return {a.json().get("model_version", a.json().get("code")) for a in answers}

    def order(what: str, version: str) -> httpx.Response:
        url = f"{server.url}/v2/repository/models/late/{what}"
        return httpx.post(url, json={"parameters": {"version": version}})

    assert versions() == {"2"}
    assert order("unload", "2").status_code == 200
    assert versions() == {"1"}
    os.kill(workers(server.process.pid)[0], signal.SIGKILL)
    wait_until(lambda: project.stderr.count("model unloaded") >= 3)  # the new one was told
    assert versions() == {"1"}
    ready = f"{server.url}/v2/models/late/versions/2/ready"
    assert httpx.get(ready).status_code == 503
    assert order("load", "2").status_code == 200
    assert {httpx.get(ready).status_code for _ in range(10)} == {200}
    assert versions() == {"2"}
    shutil.rmtree(folder / "late" / "1")
    (folder / "late" / "3").mkdir()
    refused = order("load", "3")
    assert (refused.status_code, refused.json()["code"]) == (404, "unknown_version")
    index = httpx.post(f"{server.url}/v2/repository/index").json()
    assert [e["version"] for e in index if e["state"] == "READY"] == ["1", "2"]
    assert server.stop() == 0
