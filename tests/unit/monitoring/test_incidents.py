from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tidemill.domain.incidents import Incident, acknowledge, observe, resolve
from tidemill.domain.verdicts import Cause, Finding, WindowVerdict
from tidemill.errors import Refused

NOW = datetime(2013, 4, 2, tzinfo=UTC)


def window(
    day: int, cause: Cause = "none", column: str = "temp", **changes: object
) -> WindowVerdict:
    tier = "T1" if cause == "data_quality" else "T4"
    findings = () if cause == "none" else (Finding(tier, "r", column, 2, 1, f"{column} is off"),)
    verdict = WindowVerdict(
        "m", "rev", str(NOW + timedelta(day)), str(NOW + timedelta(day + 1)), 900, 900, "judged",
        cause=cause, findings=findings, raised=(tier,) if findings else (),
    )  # fmt: skip
    return replace(verdict, **changes)


def opened(cause: Cause = "data_quality") -> Incident:
    incident = observe(None, window(0, cause), cause, NOW)
    assert incident is not None
    return incident


def test_only_its_own_cause_opens_an_incident() -> None:
    assert observe(None, window(0), "skew", NOW) is None
    assert observe(None, window(0, "data_quality"), "skew", NOW) is None
    incident = opened()
    assert (incident.state, incident.columns, incident.numbers) == (
        "open",
        ("temp",),
        ("temp is off",),
    )


def test_the_same_first_window_gives_the_same_id() -> None:
    assert opened().id == opened().id
    assert opened().id != opened("concept_drift").id


def test_the_same_window_counts_once() -> None:
    incident = opened()
    again = window(0, "data_quality")
    assert observe(incident, again, "data_quality", NOW) == incident


def test_three_clean_windows_resolve_it_and_a_raise_between_begins_anew() -> None:
    incident: Incident | None = opened()
    for day, cause in enumerate(["none", "none", "data_quality", "none", "none"], start=1):
        incident = observe(incident, window(day, cause), "data_quality", NOW)
        assert incident
        assert incident.unresolved
    ended = observe(incident, window(6), "data_quality", NOW)
    assert ended
    assert ended.state == "resolved"
    assert "3 clean windows" in ended.resolution


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "extended"},
        {"status": "not_evaluable"},
        {"unevaluated": {"T1": "why"}},
        {"raised": ("T1",), "cause": "code_bug"},
    ],
)
def test_what_was_not_judged_or_is_hidden_is_not_clean(changes: dict[str, object]) -> None:
    incident: Incident | None = opened()
    for day in range(1, 6):
        incident = observe(incident, window(day, **changes), "data_quality", NOW)
    assert incident
    assert incident.unresolved
    assert incident.clean == 0


def test_a_new_column_opens_an_acknowledged_incident_again() -> None:
    seen = acknowledge(opened(), "me", "known")
    same = observe(seen, window(1, "data_quality"), "data_quality", NOW)
    assert same
    assert same.state == "acknowledged"
    other = observe(seen, window(1, "data_quality", "carrier"), "data_quality", NOW)
    assert other
    assert other.state == "open"
    assert other.columns == ("carrier", "temp")


def test_another_revision_ends_it_once_it_was_judged() -> None:
    incident = opened()
    waiting = observe(incident, window(1, revision="new", status="extended"), "data_quality", NOW)
    assert waiting == incident
    ended = observe(incident, window(1, revision="new"), "data_quality", NOW)
    assert ended
    assert ended.resolution == "revision new serves now"


def test_faults_block_retraining_until_they_are_resolved() -> None:
    assert opened().blocks
    assert acknowledge(opened(), "me", "").blocks
    assert not resolve(opened(), "me", "mended", NOW).blocks
    assert not opened("concept_drift").blocks


def test_a_resolved_incident_is_over() -> None:
    ended = resolve(opened(), "me", "mended", NOW)
    with pytest.raises(Refused, match="was resolved"):
        acknowledge(ended, "me", "")
    new = observe(ended, window(5, "data_quality"), "data_quality", NOW)
    assert new
    assert new.id != ended.id
