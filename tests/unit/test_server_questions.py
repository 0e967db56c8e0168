"""Whom judge and controller ask for counters, and with which key: as the settings say."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tidemill.controller.listening import Answer, HttpServer
from tidemill.domain.rollout.model import Now, State, Workload
from tidemill.wiring import Project

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 1, tzinfo=UTC)
KEYED = "serving.auth.controller_key=env:CONTROLLER_KEY"


class Asked:
    """A server, or a Prometheus: who asked it for what? It answers that it is not ready."""

    def __init__(self) -> None:
        self.questions: set[tuple[str, str]] = set()
        """Path and Authorization."""
        self.server = HttpServer(("127.0.0.1", 0), self._respond, "asked")
        self.address = f"127.0.0.1:{self.server.port}"

    def _respond(self, _method: str, target: str, authorization: str, _body: bytes) -> Answer:
        self.questions.add((target.partition("?")[0], authorization))
        return Answer(503, b"not ready")


@pytest.fixture
def asked() -> Iterator[Asked]:
    asked = Asked()
    with asked.server:
        yield asked


@contextmanager
def project(folder: Path, *assignments: str) -> Iterator[Project]:
    root = folder / "project"
    (root / "configs").mkdir(parents=True)
    shutil.copy(ROOT / "configs/base.yaml", root / "configs")
    made = Project.load(root, assignments=assignments)
    yield made
    made.store.dispose()


def judge(made: Project, server: Asked) -> None:
    """Ask the judge about two arms, both of them the server, under another name each."""
    arms = {"stable": server.address, "canary": f"localhost:{server.server.port}"}
    asked = {"attempt": "a", "weight": 50, "gate": "errors", **arms}
    with made.rollout_judge(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.port}/v1/judge"
        answer = httpx.post(url, json=asked, trust_env=False, timeout=30)
    assert answer.status_code in (200, 503), answer.text


def look(made: Project, server: Asked) -> None:
    """Look as the controller does at a rollout whose one server this is."""
    evidence = made._evidence(made.settings.rollout.prometheus_url)
    found = evidence.read({"v1": Workload(1, 1, server.address)}, State(), Now(NOW, NOW))
    assert found.problem


@pytest.mark.parametrize("assignments", [(), (KEYED,)], ids=["no key", "the controller's key"])
def test_the_judge_sends_no_key_to_whom_its_callers_name(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch, assignments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CONTROLLER_KEY", "tm_secret")
    with project(tmp_path, *assignments) as made:
        judge(made, asked)
    assert asked.questions == {("/metrics", "")}


@pytest.mark.parametrize(
    ("assignments", "sent"),
    [((), ""), ((KEYED,), "Bearer tm_secret")],
    ids=["no key", "the controller's key"],
)
def test_the_controller_sends_its_key_to_the_servers_that_it_runs(
    tmp_path: Path, asked: Asked, monkeypatch: Any, assignments: tuple[str, ...], sent: str
) -> None:
    monkeypatch.setenv("CONTROLLER_KEY", "tm_secret")
    with project(tmp_path, *assignments) as made:
        look(made, asked)
    assert asked.questions == {("/metrics", sent)}


@pytest.mark.parametrize("ask", [judge, look])
def test_prometheus_is_asked_in_the_servers_place_and_gets_no_key(
    tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    monkeypatch.setenv("CONTROLLER_KEY", "tm_secret")
    prometheus = Asked()
    url = f"rollout.prometheus_url='http://{prometheus.address}'"
    with prometheus.server, project(tmp_path, KEYED, url) as made:
        ask(made, asked)
    assert asked.questions == set()
    assert prometheus.questions == {("/api/v1/query", "")}
