"""What people see of a shadow step: the pairs that it will need, those that it has seen."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tidemill.cli.output import table
from tidemill.domain.rollout.forecast import pairs_to_harm, pairs_to_pass

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tidemill.domain.rollout.model import Attempt, Plan

__all__ = ["pairs_needed", "pairs_seen"]


def pairs_needed(plan: Plan) -> list[RenderableType]:
    """Show for each shadow step and metric how many pairs a decision takes."""
    rows = [
        (
            *(step.name, f"{step.mirror / 100:g} %", metric.name),
            "yes" if metric.name in step.gate else "",
            f"{metric.max_rate:.2%}",
            *(_count(pairs_to_pass(metric, plan.tolerance, share)) for share in (0.0, 0.5)),
            *(_count(pairs_to_harm(metric, times)) for times in (1.5, 3.0)),
        )
        for step in plan.steps
        if step.mirror
        for metric in plan.paired
    ]
    if not rows:
        return []
    headers = ("step", "mirrored", "metric", "gate", "max_rate",
               "pass, none", "pass, ×0.5", "harm ×1.5", "harm ×3")  # fmt: skip
    note = "\npairs until the decision, roughly the mean, by the rate as a multiple of max_rate\n"
    return [table(headers, rows), note]


def pairs_seen(attempt: Attempt) -> list[RenderableType]:
    """Show what the pairs of an attempt say; nothing if it had none."""
    pairing = attempt.evidence.pairing
    if not (attempt.paired or pairing.due):
        return []
    rows = [
        (
            *(found.metric, found.verdict, f"{found.events} of {found.pairs:,}"),
            f"{found.rate[0]:.2%} – {found.rate[1]:.2%}",
            f"{found.limit:.2%}",
            f"{found.log_e:.2f} of {found.harm_at:.2f} harm, {found.pass_at:.2f} pass",
            found.reason,
        )
        for found in attempt.paired
    ]
    headers = ("paired", "verdict", "events", "rate", "limit", "log e", "reason")
    altered = f"; {pairing.altered} came with other content" if pairing.altered else ""
    note = (
        f"{pairing.matched:,} pairs of {pairing.due:,.0f} mirrored requests, {pairing.lost:.1%} "
        f"lost (at most {attempt.plan.max_lost:.0%}){altered}\n"
    )
    return [table(headers, rows), note]


def _count(pairs: float) -> str:
    return "never" if math.isinf(pairs) else f"{pairs:,.0f}"
