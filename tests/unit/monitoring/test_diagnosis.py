from __future__ import annotations

from itertools import combinations

import pytest

from tidemill.domain.diagnosis import CAUSES, FAULTS, diagnose
from tidemill.domain.verdicts import TIERS, Finding, Tier, TierResult

PERSISTENCE = (2, 3)


def fired(tier: Tier, rule: str = "r") -> TierResult:
    return TierResult(tier, (Finding(tier, rule, "c", 2, 1, "text"),))


def results(*tiers: Tier, unevaluated: tuple[Tier, ...] = ()) -> list[TierResult]:
    return [
        fired(tier)
        if tier in tiers
        else TierResult(tier, unevaluated="why" if tier in unevaluated else "")
        for tier in TIERS
    ]


@pytest.mark.parametrize("size", range(1, 7))
def test_the_first_cause_in_the_order_wins(size: int) -> None:
    for tiers in combinations(TIERS, size):
        found = diagnose(results(*tiers), [tiers, tiers], persistence=PERSISTENCE)
        expected = [cause for cause, own in CAUSES.items() if set(own) & set(tiers)]
        assert [found.cause, *found.hypotheses] == expected


def test_performance_and_features_have_to_persist() -> None:
    for tier in ("T4", "T5"):
        once = diagnose(results(tier), [(), ()], persistence=PERSISTENCE)
        assert once.cause == "none"
        twice = diagnose(results(tier), [(tier,), ()], persistence=PERSISTENCE)
        assert twice.cause != "none"
        older = diagnose(results(tier), [(tier,), (), ()], persistence=PERSISTENCE)
        assert older.cause == "none"
        ebbing = diagnose(results(), [(tier,), (tier,)], persistence=PERSISTENCE)
        assert ebbing.cause != "none"


def test_a_tier_that_was_not_judged_is_not_raised_by_the_past() -> None:
    found = diagnose(results(unevaluated=("T4",)), [("T4",), ("T4",)], persistence=PERSISTENCE)
    assert found.cause == "none"


def test_retraining_is_for_concept_drift_with_every_fault_excluded() -> None:
    for cause, tiers in CAUSES.items():
        found = diagnose(results(*tiers), [tiers], persistence=PERSISTENCE)
        assert found.retraining == (cause == "concept_drift")
    for fault in FAULTS:
        for tier in CAUSES[fault]:
            found = diagnose(results("T4", unevaluated=(tier,)), [("T4",)], persistence=PERSISTENCE)
            assert found.cause == "concept_drift"
            assert not found.retraining


def test_a_note_names_no_cause() -> None:
    note = TierResult("T1", (Finding("T1", "unseen", "dest", 0.02, 0.05, "text", page=False),))
    assert diagnose([note], [], persistence=PERSISTENCE).cause == "none"


def test_volume_alone_is_data_quality_and_with_a_mix_shift_traffic_that_left() -> None:
    volume, mix = fired("T0", "volume"), fired("T5", "mix")
    assert diagnose([volume], [], persistence=PERSISTENCE).cause == "data_quality"
    both = diagnose([volume, mix], [], persistence=PERSISTENCE)
    assert (both.cause, both.hypotheses) == ("covariate_shift", ("data_quality",))
    jumped = diagnose([volume, fired("T1", "jump"), mix], [], persistence=PERSISTENCE)
    assert jumped.cause == "covariate_shift"
    nulls = diagnose([volume, fired("T1", "nulls"), mix], [], persistence=PERSISTENCE)
    assert nulls.cause == "data_quality"
