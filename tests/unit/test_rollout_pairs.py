"""Answers of both arms joined to pairs: lost, altered, repeated, absent; and what a pair counts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rollout_world import START, plan, revision

from tidemill.adapters import pairing
from tidemill.adapters.pairing import GRACE_SECONDS, PairReader
from tidemill.domain.evidence import Tolerance
from tidemill.domain.paired import (
    Answered,
    PairedRate,
    assess_pairs,
    compare,
    judge_pairs,
    log_rate,
    pairs_until,
    rate_interval,
)
from tidemill.domain.rollout.model import Attempt, State, Workload
from tidemill.domain.rollout.pairs import Pairing, Pairs, add_pairs
from tidemill.domain.rollout.readings import Evidence

OLD = GRACE_SECONDS + 1
FLIP = PairedRate("disagreement", "flip", 0.05, 0.1, 0.002)
METRICS = (
    FLIP,
    replace(FLIP, name="apart", event="difference"),
    replace(FLIP, name="failures", event="failed"),
    replace(FLIP, name="slow", event="slower"),
)


class Table:
    """One server's answers of one kind, as the port for shadows tells them."""

    def __init__(self, arm: str) -> None:
        self.arm, self.start, self.entries = arm, f"{arm}-1", []
        self.forgotten = 0
        self.down = False

    def note(
        self, request: str, content: str, score: float = 0.9, *, age: float = OLD, ok: bool = True
    ) -> None:
        number = self.forgotten + len(self.entries) + 1
        scores = [score] if ok else []
        outcome = "ok" if ok else "error"
        self.entries.append([number, age, request, content, outcome, False, scores])

    def page(self, after: int) -> dict[str, Any]:
        fresh = [entry for entry in self.entries if entry[0] > after][:3]
        count = self.forgotten + len(self.entries)
        return {"revision": self.arm, "start": self.start, "count": count, "answers": fresh}


class Arms:
    """Stable with one server, a canary with as many as are named."""

    def __init__(self, *canaries: str) -> None:
        self.arms = revision("v1"), replace(revision("v2"), digest="sha256:v2")
        self.stable = Table("v1")
        self.canaries = {name: Table("v2") for name in canaries or ("c",)}
        self.client = httpx.Client(transport=httpx.MockTransport(self._answer))
        self.pairing = Pairing()
        self.reader = PairReader(self.client)

    def _answer(self, asked: httpx.Request) -> httpx.Response:
        *_, side, after = asked.url.path.split("/")
        assert side == ("clients" if asked.url.host == "s" else "shadows")
        table = self.stable if asked.url.host == "s" else self.canaries[asked.url.host]
        return (
            httpx.Response(503) if table.down else httpx.Response(200, json=table.page(int(after)))
        )

    def look(self, *, share: float = 1.0) -> Pairs:
        stable, canary = self.arms
        evidence = Evidence(pairing=self.pairing)
        made = plan(paired=METRICS)
        attempt = Attempt(1, canary, made, 1, START, evidence=evidence)
        state = State("progressing", stable, attempt=attempt, mirror=10000)
        servers = {
            "v1": Workload(1, 1, "s:1", shadows={"s": "s:2"}),
            "v2": Workload(1, 1, "c:1", shadows={name: f"{name}:2" for name in self.canaries}),
        }
        pairs = self.reader.read(servers, state)
        self.pairing = add_pairs(self.pairing, pairs, share)
        return pairs

    def restart(self) -> None:
        """Lose all that the reader remembers, as a new controller does."""
        self.reader = PairReader(self.client)


@pytest.fixture
def arms() -> Arms:
    made = Arms()
    made.look()
    return made


def test_a_shadow_and_an_answer_to_the_same_request_are_a_pair(arms: Arms) -> None:
    arms.stable.note("r1", "x", 0.9)
    arms.canaries["c"].note("r1", "x", 0.1)
    pairs = arms.look()
    assert (pairs.answered, pairs.matched, pairs.altered) == (1, 1, 0)
    assert pairs.tallies == {
        "disagreement": (1, 1), "apart": (1, 1), "failures": (1, 0), "slow": (1, 0)
    }  # fmt: skip
    assert arms.look().matched == 0, "once"


def test_what_was_answered_before_the_first_look_is_not_compared() -> None:
    arms = Arms()
    arms.stable.note("r1", "x")
    arms.canaries["c"].note("r1", "x")
    assert arms.look() == Pairs(cursor={"s": ("v1-1", 1), "c": ("v2-1", 1)})
    assert arms.look().matched == 0


def test_a_mirror_that_was_lost_is_no_pair_and_is_missed(arms: Arms) -> None:
    for number in range(10):
        arms.stable.note(f"r{number}", "x")
    for number in range(7):
        arms.canaries["c"].note(f"r{number}", "x")
    pairs = arms.look()
    assert (pairs.answered, pairs.matched) == (10, 7)
    assert arms.pairing.lost == pytest.approx(0.3)


def test_a_shadow_that_stable_does_not_know_is_no_evidence(arms: Arms) -> None:
    arms.stable.note("r1", "x")
    arms.canaries["c"].note("forged", "y", 0.1)
    pairs = arms.look()
    assert (pairs.matched, pairs.altered, pairs.tallies["disagreement"]) == (0, 0, (0, 0))


def test_another_content_under_the_same_id_is_no_pair(arms: Arms) -> None:
    arms.stable.note("r1", "x", 0.9)
    arms.canaries["c"].note("r1", "y", 0.1)
    pairs = arms.look()
    assert (pairs.matched, pairs.altered, pairs.tallies["disagreement"]) == (0, 1, (0, 0))
    assert arms.pairing.lost == 1.0


def test_without_ids_the_content_tells_requests_apart(arms: Arms) -> None:
    for content, score in (("x", 0.9), ("y", 0.1), ("x", 0.9)):
        arms.stable.note("", content, score)
    for content, score in (("x", 0.8), ("y", 0.2), ("z", 0.9)):
        arms.canaries["c"].note("", content, score)
    pairs = arms.look()
    assert (pairs.matched, pairs.altered, pairs.tallies["disagreement"]) == (2, 0, (2, 0))


def test_an_id_that_a_client_repeats_takes_no_wrong_partner(arms: Arms) -> None:
    for content, score in (("x", 0.9), ("y", 0.1)):
        arms.stable.note("same", content, score)
        arms.canaries["c"].note("same", content, score)
    pairs = arms.look()
    assert (pairs.matched, pairs.altered, pairs.tallies["disagreement"]) == (2, 0, (2, 0))


def test_what_is_fresh_waits_for_its_other_half(arms: Arms) -> None:
    arms.canaries["c"].note("r1", "x", age=GRACE_SECONDS - 1)
    assert arms.look().matched == 0
    arms.stable.note("r1", "x")
    arms.canaries["c"].entries[0][1] = OLD
    assert arms.look().matched == 1
    assert arms.pairing.lost == 0


def test_stables_answer_may_be_consumed_long_before(arms: Arms) -> None:
    arms.stable.note("r1", "x")
    arms.canaries["c"].note("r1", "x", age=1)
    assert (arms.look().answered, arms.look().matched) == (1, 0)
    arms.canaries["c"].entries[0][1] = OLD
    assert arms.look().matched == 1


@given(
    cuts=st.lists(st.integers(1, 5), max_size=6),
    deaths=st.sets(st.integers(0, 6)),
    canary=st.lists(st.sampled_from([0.1, 0.9]), min_size=12, max_size=12),
)
def test_neither_cuts_nor_a_new_controller_change_the_sums(
    cuts: list[int], deaths: set[int], canary: list[float]
) -> None:
    whole, cut = Arms(), Arms()
    for one in (whole, cut):
        one.look()
    left = list(range(12))
    for place, size in enumerate([*cuts, 12]):
        now, left = left[:size], left[size:]
        for one in (whole, cut):
            for number in now:
                one.stable.note(f"r{number}", "x")
                one.canaries["c"].note(f"r{number}", "x", canary[number])
        if place in deaths:
            cut.restart()
        cut.look()
    whole.look()
    assert cut.pairing == whole.pairing
    assert cut.pairing.tallies["disagreement"] == (12, canary.count(0.1))


def test_a_look_whose_result_was_not_kept_is_read_again(arms: Arms) -> None:
    arms.stable.note("r1", "x")
    arms.canaries["c"].note("r1", "x")
    before = arms.pairing
    first = arms.look()
    arms.pairing = before
    assert arms.look() == first


def test_a_server_that_restarts_is_read_from_its_beginning(arms: Arms) -> None:
    for number in range(4):
        arms.stable.note(f"r{number}", "x")
        arms.canaries["c"].note(f"r{number}", "x")
    arms.look()
    arms.canaries["c"].start, arms.canaries["c"].entries = "v2-2", []
    arms.stable.note("r9", "x")
    arms.canaries["c"].note("r9", "x")
    assert arms.look().matched == 1


def test_every_server_of_the_canary_is_read() -> None:
    arms = Arms("c", "d")
    arms.look()
    for number, name in enumerate(("c", "d", "d")):
        arms.stable.note(f"r{number}", "x")
        arms.canaries[name].note(f"r{number}", "x")
    assert arms.look().matched == 3


def test_one_that_cannot_be_read_leaves_all_unread() -> None:
    arms = Arms("c", "d")
    arms.look()
    arms.canaries["d"].down = True
    with pytest.raises(httpx.HTTPStatusError):
        arms.look()


def test_a_server_is_believed_under_its_own_revision_alone(arms: Arms) -> None:
    arms.canaries["c"].arm = "v9"
    with pytest.raises(ValueError, match="answers as v9, not v2"):
        arms.look()


def test_what_the_table_forgot_is_lost(arms: Arms) -> None:
    for number in range(6):
        arms.stable.note(f"r{number}", "x")
        arms.canaries["c"].note(f"r{number}", "x")
    arms.canaries["c"].entries = arms.canaries["c"].entries[4:]
    arms.canaries["c"].forgotten = 4
    assert (arms.look().answered, arms.pairing.matched) == (6, 2)


def test_memory_is_bounded(arms: Arms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "REMEMBERED", 5)
    for number in range(20):
        arms.stable.note(f"r{number}", "x")
    arms.look()
    assert len(arms.reader._known) == len(arms.reader._ids) == 5


# what a pair counts -------------------------------------------------------------------------------

YES, NO = Answered(True, False, (0.9,)), Answered(True, False, (0.1,))
FAILED, SLOW = Answered(False, False, ()), Answered(True, True, (0.9,))
MANY = Answered(True, False, (0.9, 0.9))
NONE = Answered(True, False, (None,))


@pytest.mark.parametrize(
    ("event", "stable", "canary", "tally"),
    [
        ("flip", YES, YES, (1, 0)),
        ("flip", YES, NO, (1, 1)),
        ("flip", YES, Answered(True, False, (1.7,)), (1, 1)),
        ("flip", YES, NONE, (1, 1)),
        ("flip", YES, MANY, (1, 1)),
        ("flip", MANY, Answered(True, False, (0.9, 0.1)), (1, 1)),
        ("flip", YES, FAILED, (0, 0)),
        ("flip", FAILED, YES, (0, 0)),
        ("difference", YES, Answered(True, False, (0.82,)), (1, 0)),
        ("difference", YES, Answered(True, False, (0.7,)), (1, 1)),
        ("difference", YES, NONE, (1, 1)),
        ("failed", YES, YES, (1, 0)),
        ("failed", YES, FAILED, (1, 1)),
        ("failed", FAILED, FAILED, (0, 0)),
        ("failed", FAILED, YES, (0, 0)),
        ("slower", YES, SLOW, (1, 1)),
        ("slower", SLOW, SLOW, (1, 0)),
        ("slower", SLOW, YES, (1, 0)),
        ("slower", YES, FAILED, (0, 0)),
    ],
)
def test_what_a_pair_counts(
    event: Any, stable: Answered, canary: Answered, tally: tuple[int, int]
) -> None:
    assert compare(replace(FLIP, event=event), (stable, canary), (0.25, 0.25)) == tally


def test_each_arm_has_its_own_threshold() -> None:
    pair = Answered(True, False, (0.3,)), Answered(True, False, (0.3,))
    assert compare(FLIP, pair, (0.25, 0.35)) == (1, 1)


# the test of a rate -------------------------------------------------------------------------------

TOLERANCE = Tolerance(0.05, 0.0001, 5, 0.8)


def test_the_e_value_is_that_of_the_formula() -> None:
    """Of 2 pairs 1 is an event: B(3/2, 3/2) / B(1/2, 1/2) = 1/8, over 0.05 x 0.95."""
    assert log_rate(2, 1, 0.05) == pytest.approx(math.log(1 / 8 / (0.05 * 0.95)))
    assert log_rate(0, 0, 0.05) == pytest.approx(0.0)


@given(pairs=st.integers(0, 400), rate=st.floats(0.001, 0.999))
def test_its_mean_is_one_if_the_rate_is_true(pairs: int, rate: float) -> None:
    terms = [
        math.exp(
            math.log(math.comb(pairs, x))
            + x * math.log(rate)
            + (pairs - x) * math.log1p(-rate)
            + log_rate(pairs, x, rate)
        )
        for x in range(pairs + 1)
    ]
    assert sum(terms) == pytest.approx(1.0, rel=1e-6)


@given(pairs=st.integers(1, 100_000), data=st.data())
def test_the_interval_is_where_the_e_value_is_small(pairs: int, data: Any) -> None:
    events = data.draw(st.integers(0, pairs))
    low, high = rate_interval(pairs, events, 0.05)
    assert 0 <= low <= events / pairs <= high <= 1
    for rate in (low, high):
        if 0 < rate < 1:
            assert log_rate(pairs, events, rate) == pytest.approx(math.log(20), abs=1e-3)


@given(pairs=st.integers(1, 20_000), data=st.data())
def test_more_events_are_never_better(pairs: int, data: Any) -> None:
    order = {"pass": 0, "undecided": 1, "harm": 2}
    few = data.draw(st.integers(0, pairs))
    many = data.draw(st.integers(few, pairs))
    found = [order[assess_pairs(FLIP, (pairs, x), TOLERANCE).verdict] for x in (few, many)]
    assert found == sorted(found)


def test_verdicts() -> None:
    verdicts = {
        tally: assess_pairs(FLIP, tally, TOLERANCE).verdict
        for tally in ((0, 0), (50, 0), (200, 0), (1000, 50), (4, 4), (5, 5), (1000, 120))
    }
    assert list(verdicts.values()) == [
        *("missing", "undecided", "pass", "undecided", "undecided", "harm", "harm")
    ]


def ever(verdict: str, rate: float, metric: PairedRate, pairs: int = 400) -> float:
    """Return the exact chance that any of the looks after each pair says `verdict`."""
    chance, hit = np.array([1.0]), 0.0
    for n in range(1, pairs + 1):
        chance = np.append(chance * (1 - rate), 0.0) + np.append(0.0, chance * rate)
        decided = [judge_pairs(metric, (n, x), TOLERANCE) == verdict for x in range(n + 1)]
        hit += chance[decided].sum()
        chance[decided] = 0.0
    return float(hit)


@pytest.mark.parametrize("rate", [0.05, 0.06])
def test_a_canary_at_the_limit_hardly_ever_passes(rate: float) -> None:
    assert 0 < ever("pass", rate, FLIP) <= TOLERANCE.beta


@pytest.mark.parametrize("rate", [0.05, 0.04])
def test_a_canary_at_the_limit_is_hardly_ever_harmful(rate: float) -> None:
    metric = replace(FLIP, alpha=0.01)
    assert 0 < ever("harm", rate, metric) <= metric.alpha


def test_a_canary_that_differs_is_found() -> None:
    assert ever("harm", 0.3, FLIP, pairs=100) > 0.99
    assert ever("pass", 0.01, FLIP) > 0.8


def test_a_billion_pairs_are_no_overflow() -> None:
    assert math.isfinite(log_rate(10**9, 10**7, 0.05))
    low, high = rate_interval(10**9, 10**7, 0.05)
    assert low < 0.01 < high < 0.0101


def test_how_many_pairs_it_takes() -> None:
    agreeing = pairs_until(FLIP, math.log(20), 0.0)
    assert assess_pairs(FLIP, (int(agreeing), 0), TOLERANCE).verdict == "pass"
    assert assess_pairs(FLIP, (int(agreeing * 0.9), 0), TOLERANCE).verdict == "undecided"
    assert agreeing < pairs_until(FLIP, math.log(20), 0.025) < 1000
    assert pairs_until(FLIP, math.log(20), 0.05) == math.inf
