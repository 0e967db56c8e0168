"""The judge's answers as callers read them: JSON for Argo Rollouts, a status for Flagger."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from tidemill.domain.rollout.judge import Finding, Judged

__all__ = ["FLAGGER", "as_document", "as_status"]

INCREASE = "confirm-traffic-increase"
FLAGGER = {
    INCREASE: ("pass",),
    "confirm-promotion": ("pass",),
    "rollout": ("pass", "undecided", "missing"),
    "rollback": ("harm",),
}
"""Verdicts that a webhook is answered with yes, by its type."""
YES, NO = 200, 409
"""No is no 5xx: Flagger would ask again at once."""


def as_document(finding: Finding) -> dict[str, Any]:
    """Return the finding as JSON; e-values are natural logarithms."""
    return {
        "attempt": finding.attempt,
        "verdict": finding.verdict,
        "reason": finding.reason,
        "weight": finding.weight / 100,
        "requests": _arms(finding.requests),
        "metrics": {one.assessment.metric: _metric(one) for one in finding.metrics},
    }


def _metric(judged: Judged) -> dict[str, Any]:
    found = judged.assessment
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "log_e": {"harm": found.log_e_harm, "pass": found.log_e_pass, "split": found.log_e_split},
        "decides_at": {"harm": found.harm_at, "pass": found.pass_at, "split": found.split_at},
        "ratio": {"from": found.ratio[0], "to": found.ratio[1]},
        "requests": _arms(found.trials),
        "bad": _arms(found.bad),
        "expected": asdict(judged.expected) if judged.expected else None,
    }


def _arms(pair: tuple[float, float]) -> dict[str, float]:
    return {"stable": pair[0], "canary": pair[1]}


def as_status(finding: Finding, asked_for: str) -> tuple[int, str]:
    """Return the status of a webhook's answer, and the line that Flagger shows.

    The first increase is asked for, too: a canary without traffic cannot pass, and need not.
    """
    first = asked_for == INCREASE and finding.verdict == "undecided" and not finding.weight
    status = YES if first or finding.verdict in FLAGGER[asked_for] else NO
    return status, f"{finding.verdict}: {finding.reason}"
