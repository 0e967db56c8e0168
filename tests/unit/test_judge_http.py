"""The judge over HTTP: as Argo Rollouts and Flagger ask it, and as nobody should."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import yaml
from tests.unit.rollout_world import plan

from tidemill.adapters.store.attempts import StoredAttempts
from tidemill.adapters.store.engine import open_store
from tidemill.controller.judge import Judge
from tidemill.controller.judge_routes import Routes
from tidemill.controller.listening import HttpServer
from tidemill.errors import NotFound, Refused, Unavailable
from tidemill.server import Authentication, Keyring
from tidemill.server.keys import make_entry
from tidemill.testing.judge import PlayedServers
from tidemill.wiring.judge import door

STABLE, CANARY = "ml/churn-primary", "ml/churn-canary"
ASKED = {"attempt": "a", "stable": STABLE, "canary": CANARY, "weight": 50, "gate": "errors"}
HOOK = {
    "name": "churn",
    "namespace": "ml",
    "phase": "Progressing",
    "checksum": "a",
    "metadata": {"gate": "errors"},
}


class Bench:
    """A judge that listens, the servers that it judges, a clock, a weight that Flagger gives."""

    def __init__(self, engine, door: Callable[[str], None]) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.servers = PlayedServers()
        self.servers.start(STABLE)
        self.servers.start(CANARY)
        self.weight: float | Exception = 50
        self.problem = ""
        judge = Judge(StoredAttempts(engine), self.servers, self.servers, plan(), lambda: self.now)
        routes = Routes(judge, self._weigh, door, lambda: self.problem)
        self.server = HttpServer(("127.0.0.1", 0), routes.respond, "judge")
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.server.port}", trust_env=False)

    def _weigh(self, namespace: str, name: str) -> float:
        assert (namespace, name) == ("ml", "churn")
        if isinstance(self.weight, Exception):
            raise self.weight
        return self.weight

    def ask(self, *, count: tuple[int, int] = (0, 0)) -> httpx.Response:
        """Count errors of 1000 requests an arm, wait, ask as Argo does."""
        for arm, errors in zip((STABLE, CANARY), count, strict=True):
            self.servers.serve(arm, 1000 if any(count) else 0, errors)
        self.now += timedelta(seconds=2)
        return self.http.post("/v1/judge", json=ASKED)

    def hook(self, kind: str) -> tuple[int, str]:
        """Ask as Flagger does, about the attempt of its own name."""
        self.now += timedelta(seconds=2)
        answer = self.http.post(f"/v1/flagger/{kind}", json=HOOK)
        return answer.status_code, answer.text


@pytest.fixture
def bench(tmp_path, request) -> Iterator[Bench]:
    engine = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    authentication = None
    if getattr(request, "param", None):
        (tmp_path / "keys.yaml").write_text(yaml.safe_dump([request.param]))
        keys = Keyring(tmp_path / "keys.yaml", tmp_path / "quota.db")
        authentication = Authentication(keys)
    bench = Bench(engine, door(authentication))
    with bench.server, bench.http:
        yield bench
    engine.dispose()


def test_argos_conditions_can_be_written_on_the_answer(bench):
    assert bench.ask().json()["verdict"] == "undecided"
    bench.ask()
    assert bench.ask(count=(50, 50)).json()["verdict"] in ("undecided", "pass")
    answer = bench.ask(count=(50, 300))
    assert (answer.status_code, answer.json()["verdict"]) == (200, "harm")
    assert answer.headers["content-type"] == "application/json"
    asked = bench.http.get("/v1/judge", params={k: str(v) for k, v in ASKED.items()})
    assert asked.json() == answer.json(), "a metric without a method is a GET"


def test_what_is_missing_is_an_answer_and_no_error(bench):
    bench.servers.silent = {CANARY}
    answer = bench.ask()
    assert (answer.status_code, answer.json()["verdict"]) == (200, "missing")


@pytest.mark.parametrize(
    ("counts", "statuses"),
    [
        ((0, 0), (409, 409, 200, 409)),
        ((50, 50), (200, 200, 200, 409)),
        ((20, 300), (409, 409, 409, 200)),
    ],
    ids=["undecided", "pass", "harm"],
)
def test_each_webhook_of_flagger_hears_its_own_yes(bench, counts, statuses):
    bench.hook("rollout")
    bench.hook("rollout")
    for arm, errors in zip((STABLE, CANARY), counts, strict=True):
        bench.servers.serve(arm, 2000 if any(counts) else 0, 2 * errors)
    types = ("confirm-traffic-increase", "confirm-promotion", "rollout", "rollback")
    answered = [bench.hook(kind) for kind in types]
    assert tuple(status for status, _ in answered) == statuses
    assert all(": " in said for _, said in answered), "Flagger's events show the reason"


def test_the_first_increase_needs_no_evidence_and_a_promotion_does(bench):
    bench.weight = 0
    assert bench.hook("confirm-traffic-increase")[0] == 200
    assert bench.hook("confirm-promotion")[0] == 409
    bench.servers.silent = {CANARY}
    assert bench.hook("confirm-traffic-increase")[0] == 409, "it may be away"


@pytest.mark.parametrize(
    "error", [NotFound("no canary"), Unavailable("no API"), Refused("may not")]
)
def test_a_weight_that_nobody_knows_is_missing_evidence(bench, error):
    bench.weight = error
    assert bench.hook("rollout") == (200, f"missing: {error.message}")
    assert bench.hook("confirm-traffic-increase")[0] == 409
    assert bench.hook("rollback")[0] == 409


def test_an_attempt_is_shown_and_forgotten_by_its_name(bench):
    bench.hook("rollout")
    shown = bench.http.get("/v1/attempts/ml/churn/a")
    assert shown.json()["attempt"] == "ml/churn/a"
    assert bench.http.delete("/v1/attempts/ml%2Fchurn%2Fa").status_code == 204
    gone = bench.http.get("/v1/attempts/ml/churn/a")
    assert (gone.status_code, gone.json()["next"]) == (404, "POST /v1/judge")


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "why"),
    [
        ("POST", "/v1/judge", b"{", 400, "no JSON"),
        ("POST", "/v1/judge", b"[]", 400, "expected an object"),
        ("POST", "/v1/judge", b"{}", 400, "attempt: Field required"),
        ("GET", "/v1/judge", b"", 400, "stable: Field required"),
        ("POST", "/v1/flagger/rollout", b"{}", 400, "lacks name, namespace, checksum"),
        ("POST", "/v1/flagger/maybe", b"{}", 404, "there is no POST"),
        ("PUT", "/v1/judge", b"{}", 404, "there is no PUT"),
        ("GET", "/", b"", 404, "there is no GET"),
    ],
)
def test_a_refusal_says_what_and_what_next(bench, method, path, content, status, why):
    answer = bench.http.request(method, path, content=content)
    assert (answer.status_code, why in answer.text) == (status, True), answer.text
    assert answer.json()["next"]


def test_a_fault_of_ours_is_told_without_its_insides(bench, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(bench.servers, "read", fail)
    bench.ask()
    answer = bench.ask()
    assert answer.status_code == 500
    assert "secret" not in answer.text


def test_probes_and_metrics(bench):
    bench.ask()
    assert bench.http.get("/healthz").text == "ok"
    assert bench.http.get("/readyz").status_code == 200
    bench.problem = "the store is away"
    ready = bench.http.get("/readyz")
    assert (ready.status_code, ready.text) == (503, "the store is away")
    metrics = bench.http.get("/metrics").text
    assert 'tidemill_judge_answers_total{verdict="undecided"} 1.0' in metrics
    assert "tidemill_judge_look_seconds_count 1.0" in metrics


TOKEN, ENTRY = make_entry("argo", permissions=["infer", "admin"])
OTHER, _ = make_entry("thief", permissions=["infer"])


def basic(token: str) -> str:
    return "Basic " + base64.b64encode(f"flagger:{token}".encode()).decode()


@pytest.mark.parametrize("bench", [ENTRY], indirect=True, ids=["keys"])
@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (basic(TOKEN), 200),
        ("", 401),
        (f"Bearer {OTHER}", 401),
        (basic(OTHER), 401),
        ("Basic ???", 401),
        ("Digest x", 401),
    ],
    ids=["bearer", "basic", "none", "bearer of another", "basic of another", "no base64", "digest"],
)
def test_who_has_no_key_hears_nothing(bench, header, status):
    headers = {"authorization": header} if header else {}
    answer = bench.http.post("/v1/judge", json=ASKED, headers=headers)
    assert answer.status_code == status
    assert bench.http.get("/healthz").status_code == 200
    if status == 401:
        assert "Bearer" in answer.headers["www-authenticate"]
        assert bench.http.delete("/v1/attempts/a", headers=headers).status_code == 401
