"""The judge: what it answers, what it remembers, whom it refuses; the store is a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine
from tests.unit.rollout_world import plan

from tidemill.adapters.store.attempts import StoredAttempts
from tidemill.adapters.store.engine import open_store
from tidemill.controller.answers import as_document
from tidemill.controller.judge import Judge
from tidemill.controller.questions import Asked, read_body, read_flagger
from tidemill.domain.evidence import LEVELS, Segment, assess
from tidemill.errors import Conflict, NotFound, Unavailable, UsageError
from tidemill.testing.judge import PlayedServers

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
STABLE, CANARY = "ml/churn-stable", "ml/churn-canary"
ASKED = {"attempt": "ml/churn/7f9c", "stable": STABLE, "canary": CANARY, "weight": "50"}


class Court:
    """A judge over two arms, on a clock that stands still until it is moved."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.now = engine, START
        self.servers = PlayedServers()
        self.servers.start(STABLE)
        self.servers.start(CANARY)
        self.random = np.random.default_rng(7)
        self.restart()

    def restart(self) -> None:
        self.judge = Judge(
            StoredAttempts(self.engine), self.servers, self.servers, plan(), lambda: self.now
        )

    def ask(self, **fields: Any) -> dict[str, Any]:
        """Ask two seconds later; the answer as a caller reads it."""
        self.now += timedelta(seconds=2)
        return self.same(**fields)

    def same(self, **fields: Any) -> dict[str, Any]:
        question = {"gate": "errors", **ASKED, **fields}
        answer = as_document(self.judge.answer(read_body(json.dumps(question).encode())))
        return json.loads(json.dumps(answer, allow_nan=False))  # as it travels

    def begin(self, **fields: Any) -> None:
        """Ask until the weight has settled and there is a baseline."""
        self.ask(**fields)
        assert self.ask(**fields)["verdict"] == "undecided"

    def traffic(self, requests: int, stable: float, canary: float, share: float = 0.5) -> None:
        """Split requests at random; the floats are error rates."""
        there = int(self.random.binomial(requests, share))
        for arm, count, rate in ((STABLE, requests - there, stable), (CANARY, there, canary)):
            self.servers.serve(arm, count, int(self.random.binomial(count, rate)))

    def until(self, stable: float, canary: float, looks: int = 60) -> dict[str, Any]:
        """Look until there is a verdict."""
        for _ in range(looks):
            self.traffic(200, stable, canary)
            answer = self.ask()
            if answer["verdict"] != "undecided":
                return answer
        return answer


@pytest.fixture
def engine(tmp_path, request) -> Iterator[Engine]:
    """A store of its own in SQLite; in PostgreSQL the session's, where a test names that."""
    postgres = getattr(request, "param", "") == "postgres"
    url = f"sqlite:///{tmp_path / 'store.db'}"
    engine = open_store(request.getfixturevalue("postgres_url") if postgres else url)
    yield engine
    engine.dispose()


both_stores = pytest.mark.parametrize(
    "engine",
    ["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.slow])],
    indirect=True,
)


@pytest.fixture
def court(engine) -> Court:
    return Court(engine)


# verdicts -----------------------------------------------------------------------------------------


def test_a_canary_like_stable_passes_and_says_by_what(court):
    court.begin()
    answer = court.until(0.05, 0.05)
    assert answer["verdict"] == "pass"
    errors = answer["metrics"]["errors"]
    assert errors["log_e"]["pass"] >= errors["decides_at"]["pass"] == pytest.approx(np.log(20))
    assert errors["ratio"]["to"] < 2
    assert errors["expected"] is None, "nothing more is needed"


def test_a_worse_canary_is_harm_for_good(court):
    court.begin()
    answer = court.until(0.02, 0.15)
    assert answer["verdict"] == "harm"
    assert "errors" in answer["reason"]
    for _ in range(30):
        court.traffic(1000, 0.05, 0.0)
    assert court.ask()["verdict"] == "harm", "a test that has rejected has rejected"
    assert court.ask(weight=20)["verdict"] == "harm"


def test_the_numbers_are_those_of_the_rollouts_own_decision(court):
    court.begin()
    court.servers.serve(STABLE, 700, 21)
    court.servers.serve(CANARY, 680, 34)
    answer = court.ask()
    (metric, *_) = plan().metrics
    whole = Segment(0, 1, 5000, (700, 680), (700, 680), ((LEVELS, 21, 34),))
    direct = assess(metric, (whole,), plan().tolerance, 1)
    errors = answer["metrics"]["errors"]
    assert errors["log_e"]["harm"] == pytest.approx(direct.log_e_harm)
    assert errors["log_e"]["pass"] == pytest.approx(direct.log_e_pass)
    assert (errors["bad"], answer["requests"]) == (
        {"stable": 21, "canary": 34},
        {"stable": 700, "canary": 680},
    )


def test_what_is_expected_shrinks_as_evidence_comes(court):
    court.begin()
    left = []
    for _ in range(4):
        court.servers.serve(STABLE, 500, 5)
        court.servers.serve(CANARY, 500, 5)
        expected = court.ask()["metrics"]["errors"]["expected"]
        if expected is None:
            break
        left.append(expected)
    assert len(left) >= 2
    assert [e["bad_events"] for e in left] == sorted((e["bad_events"] for e in left), reverse=True)
    first = left[0]
    assert first["requests"] == pytest.approx(first["bad_events"] * 1000 / 10)
    assert first["seconds"] > 0


def test_enough_requests_may_be_all_that_is_asked_for(court):
    asked = {"gate": "", "min_events": "300"}
    court.ask(**asked)
    court.ask(**asked)
    court.traffic(299, 0, 0)
    answer = court.ask(**asked)
    assert (answer["verdict"], answer["reason"]) == ("undecided", "299 of 300 requests")
    court.traffic(1, 0, 0)
    assert court.ask(**asked)["verdict"] == "pass"


def test_a_weight_without_an_other_arm_compares_nothing(court):
    for weight in (0, 100):
        answer = court.ask(weight=weight, gate="", min_events=1)
        assert answer["verdict"] == "undecided"
        assert f"nothing to compare at a weight of {weight} %" in answer["reason"]


def test_another_weight_settles_before_its_evidence_counts(court):
    court.begin()
    court.traffic(600, 0.05, 0.05)
    court.ask()
    court.traffic(600, 0.5, 0.5)  # under which weight? nobody knows
    after = court.ask(weight=20)
    assert after["requests"] == {"stable": 0, "canary": 0}
    court.ask(weight=20)
    court.servers.serve(STABLE, 80)
    court.servers.serve(CANARY, 20)
    answer = court.ask(weight=20)
    assert answer["requests"] == {"stable": 80, "canary": 20}
    assert sum(answer["metrics"]["errors"]["requests"].values()) == 700, "and the first 600"


def test_a_split_that_contradicts_the_weight_is_no_evidence(court):
    court.begin()
    court.traffic(4000, 0.05, 0.05, share=0.2)
    answer = court.ask()
    assert answer["verdict"] == "missing"
    assert "contradicts the weight" in answer["reason"]


# memory -------------------------------------------------------------------------------------------


def test_asking_again_counts_nothing_twice_and_a_restart_changes_nothing(court):
    court.begin()
    court.traffic(900, 0.05, 0.06)
    first = court.ask()
    assert [court.same() for _ in range(3)] == [first] * 3
    court.restart()
    assert court.same() == first
    assert court.ask()["metrics"]["errors"]["bad"] == first["metrics"]["errors"]["bad"]
    recalled = as_document(court.judge.recall(ASKED["attempt"]))
    assert recalled["metrics"].keys() == first["metrics"].keys()


@both_stores
def test_many_at_once_count_everything_once(court):
    """Judges side by side on one store, while the servers count on."""
    court.begin()

    def ask(index: int) -> None:
        court.servers.serve(STABLE if index % 2 else CANARY, 10, index % 3 == 0)
        moment = START + timedelta(seconds=10 + index)
        judge = Judge(
            StoredAttempts(court.engine), court.servers, court.servers, plan(), lambda: moment
        )
        judge.answer(Asked.model_validate({**ASKED, "gate": "errors"}))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(48)))
    court.now = START + timedelta(minutes=5)
    answer = court.ask()
    counted = {arm: court.servers.pods[arm]["a"] for arm in (STABLE, CANARY)}
    errors = answer["metrics"]["errors"]
    assert errors["requests"] == {
        "stable": counted[STABLE].requests,
        "canary": counted[CANARY].requests,
    }
    assert errors["bad"]["canary"] == counted[CANARY].events["error"]


def test_a_judge_that_dies_before_it_wrote_has_counted_nothing(court, monkeypatch):
    court.begin()
    court.traffic(500, 0.05, 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(StoredAttempts, "commit", _die)
        with pytest.raises(KeyboardInterrupt):
            court.ask()
    court.restart()
    assert sum(court.ask()["requests"].values()) == 500


def _die(*_: object) -> None:
    raise KeyboardInterrupt


def test_attempts_do_not_know_each_other(court):
    court.begin()
    court.until(0.02, 0.2)
    assert court.ask(attempt="ml/churn/other")["verdict"] == "undecided"


def test_a_forgotten_attempt_begins_anew(court):
    court.begin()
    assert court.until(0.02, 0.2)["verdict"] == "harm"
    court.judge.forget(ASKED["attempt"])
    with pytest.raises(NotFound):
        court.judge.recall(ASKED["attempt"])
    assert court.ask()["verdict"] == "undecided"


def test_what_nobody_asks_about_for_months_goes(court, engine):
    court.ask(attempt="old")
    court.now += timedelta(days=89)
    court.ask(attempt="newer")
    assert StoredAttempts(engine).state("old")
    court.now += timedelta(days=2)
    court.ask(attempt="newest")
    assert StoredAttempts(engine).state("old") is None
    assert StoredAttempts(engine).state("newer")


def test_the_plan_is_that_of_the_beginning(court):
    court.begin()
    court.judge = Judge(
        StoredAttempts(court.engine),
        *(court.servers, court.servers),
        plan(tolerance=plan().tolerance.__class__(0.4, 0.0001, 5, 0.8)),
        lambda: court.now,
    )
    court.traffic(900, 0.05, 0.05)
    assert court.ask()["metrics"]["errors"]["decides_at"]["pass"] == pytest.approx(np.log(20))


@both_stores
def test_the_store_takes_one_of_two_writers(court, engine):
    court.ask()
    attempts = StoredAttempts(engine)
    state, version = attempts.state(ASKED["attempt"]) or pytest.fail("not there")
    attempts.commit(ASKED["attempt"], state, version, START)
    with pytest.raises(Conflict):
        attempts.commit(ASKED["attempt"], state, version, START)
    with pytest.raises(Conflict):
        attempts.commit(ASKED["attempt"], state, 0, START)


# missing evidence ---------------------------------------------------------------------------------


def test_what_cannot_be_read_is_neither_health_nor_harm(court):
    court.begin()
    court.traffic(2000, 0.05, 0.05)
    court.servers.silent = {CANARY}
    answer = court.ask()
    assert (answer["verdict"], answer["requests"]["canary"]) == ("missing", 0)
    assert f"{CANARY} does not answer" in answer["reason"]
    court.servers.silent = set()
    assert sum(court.ask()["requests"].values()) == 2000, "counters only grow: nothing is lost"


def test_servers_that_are_not_there_begin_no_attempt(court):
    court.servers.pods[CANARY] = {}
    answer = court.ask()
    assert (answer["verdict"], answer["reason"]) == (
        "missing",
        f"the Service {CANARY} has no ready endpoint",
    )
    with pytest.raises(NotFound):
        court.judge.recall(ASKED["attempt"])


def test_servers_of_both_arms_begin_no_attempt(court):
    answer = court.ask(canary=STABLE)
    assert answer["verdict"] == "missing"
    assert "of both arms" in answer["reason"]


def test_other_servers_behind_an_arm_are_no_evidence(court):
    court.begin()
    court.servers.names[CANARY] = "ffffffffff"
    court.traffic(900, 0.0, 0.5)
    answer = court.ask()
    assert answer["verdict"] == "missing"
    assert "ffffffffff" in answer["reason"]


def test_a_server_that_began_anew_is_a_gap_and_blocks_a_pass(court):
    court.begin()
    court.traffic(400, 0.05, 0.05)
    court.ask()
    court.servers.start(CANARY, started=(court.now - timedelta(seconds=1)).timestamp())
    answer = court.ask()
    assert answer["verdict"] == "missing"
    assert "began anew" in answer["reason"]
    court.traffic(4000, 0.05, 0.05)
    assert "of evidence lost" in court.ask()["reason"]


def test_a_pod_more_counts_from_its_start(court):
    court.begin()
    court.traffic(300, 0.05, 0.05)
    before = court.ask()["requests"]["canary"]
    court.servers.start(CANARY, "b", started=(court.now + timedelta(seconds=1)).timestamp())
    court.servers.serve(CANARY, 40, server="b")
    assert court.ask()["requests"]["canary"] == before + 40


# questions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"attempt": ""}, "attempt"),
        ({"weight": 101}, "weight"),
        ({"weight": "a lot"}, "weight"),
        ({"weight": None}, "weight"),
        ({"stable": "churn"}, "stable"),
        ({"stable": "file:///etc/passwd"}, "stable"),
        ({"canary": "http://10.0.0.1:80/x"}, "canary"),
        ({"gate": ""}, "what must hold for a pass"),
        ({"gate": "wrong"}, "wrong is not judged here, known: errors, slow"),
        ({"gate": "latency"}, "latency is not judged here"),
        ({"min_events": -1}, "min_events"),
        ({"canary_revision": "v2"}, "canary_revision"),
        ({"low": 0.1}, "low and high belong together"),
        ({"wait": 3}, "wait"),
    ],
    ids=str,
)
def test_a_question_that_says_nothing_is_refused_by_name(court, change, why):
    with pytest.raises(UsageError, match=why):
        court.ask(**change)


def test_the_same_attempt_is_the_same_comparison(court):
    court.ask()
    court.servers.start("ml/other")
    with pytest.raises(UsageError, match=f"compares {STABLE} with {CANARY}"):
        court.ask(canary="ml/other")


FLAGGER = {"name": "churn", "namespace": "ml", "phase": "Progressing", "checksum": "6d4f"}


def test_flaggers_payload_is_a_question():
    payload = FLAGGER | {"metadata": {"gate": "errors, slow", "min_events": "500"}}
    asked = read_flagger(json.dumps(payload).encode(), lambda *where: {("ml", "churn"): 15}[where])
    assert asked.question.weight == 1500
    assert asked.question.gate == ("errors", "slow")
    assert (asked.attempt, asked.stable, asked.canary, asked.min_events) == (
        "ml/churn/6d4f", "ml/churn-primary", "ml/churn-canary", 500,
    )  # fmt: skip
    payload["metadata"] |= {"weight": "30", "canary": "10.0.0.1:80"}
    asked = read_flagger(json.dumps(payload).encode(), lambda *_: pytest.fail("not needed"))
    assert (asked.weight, asked.canary) == (30, "10.0.0.1:80")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"name": "x", "namespace": 3}', b"\xff"])
def test_what_is_not_flaggers_is_refused(body):
    with pytest.raises(UsageError):
        read_flagger(body, lambda *_: 0.0)


def test_a_store_that_does_not_answer_is_said(court, engine, tmp_path):
    engine.dispose()
    (tmp_path / "store.db").unlink()
    (tmp_path / "store.db").mkdir()
    with pytest.raises(Unavailable):
        court.ask()
