"""What keeps a rollout in its step, and what stops it altogether."""

from __future__ import annotations

import math

from tidemill.domain.evidence import TOTAL, log_split
from tidemill.domain.rollout.model import Attempt, Now, Snapshot
from tidemill.domain.rollout.pairs import Pairing
from tidemill.domain.rollout.windows import REQUESTS, unread

__all__ = ["blockers", "elapsed", "events", "exhausted", "split_broken", "standstill"]


def elapsed(attempt: Attempt, now: Now) -> float:
    """Return the seconds of the project's clock that count for the step; pauses do not."""
    if attempt.entered_at is None:
        return 0.0
    until = attempt.paused_since or now.clock
    return max(0.0, (until - attempt.entered_at).total_seconds() - attempt.paused_seconds)


def exhausted(attempt: Attempt, now: Now) -> bool:
    """Whether the step has had all its time."""
    return elapsed(attempt, now) >= attempt.plan.steps[attempt.step].max_seconds


def events(attempt: Attempt, epoch: int) -> int:
    """Return the requests that both arms answered under the weight in force."""
    series = attempt.evidence.series.get(REQUESTS, ())
    return sum(sum(segment.trials) for segment in series if segment.epoch == epoch)


def split_broken(attempt: Attempt, epoch: int) -> bool:
    """Whether the observed split of requests contradicts the weight in force."""
    log_e = log_split(attempt.evidence.series.get(REQUESTS, ()), epoch)
    return log_e >= math.log(1 / attempt.plan.tolerance.srm_alpha)


def blockers(snapshot: Snapshot, now: Now) -> list[str]:
    """Return why the step cannot be left, one phrase each; empty means the gate is open."""
    state, attempt = snapshot.state, snapshot.attempt
    step = attempt.plan.steps[attempt.step]
    last = attempt.step + 1 == len(attempt.plan.steps)
    following = TOTAL if last else attempt.plan.steps[attempt.step + 1].weight
    pairing, spent = attempt.evidence.pairing, elapsed(attempt, now)
    seen = pairing.matched if step.mirror else events(attempt, state.epoch)
    unit = "pairs" if step.mirror else "requests"
    checks = [
        (snapshot.applied, "the route is not in force"),
        (spent >= step.min_seconds, f"{spent:.0f} of {step.min_seconds:.0f} s"),
        (seen >= step.min_events, f"{seen} of {step.min_events} {unit}"),
        (not split_broken(attempt, state.epoch), "the split of requests contradicts the weight"),
        (_gap(attempt, now) <= attempt.plan.max_gap, f"{_gap(attempt, now):.0%} of evidence lost"),
        (not step.mirror or pairing.lost <= attempt.plan.max_lost, _loss(pairing)),
        (not step.approval or attempt.approved, "waits for approval"),
        (snapshot.ready(snapshot.stable, TOTAL), "stable has too few ready servers"),
        (snapshot.ready(attempt.canary, following), "the canary has too few ready servers"),
        (not _growing(snapshot), "servers are being added"),
    ]
    verdicts = {a.metric: a for a in attempt.verdicts}
    for name in step.gate:
        found = verdicts.get(name)
        verdict = found.verdict if found else "missing"
        reason = f" ({found.reason})" if found and found.reason else ""
        checks.append((verdict == "pass", f"{name}: {verdict}{reason}"))
    return [why for holds, why in checks if not holds]


def standstill(snapshot: Snapshot, now: Now) -> tuple[str, str] | None:
    """Return the kind and reason of a condition under which nothing may move forward."""
    state, attempt = snapshot.state, snapshot.attempt
    sick = [a for a in attempt.assessments if a.stable_unhealthy]
    both = [a for a in sick if a.log_e_guard and a.log_e_guard[1] >= a.guard_at]
    if both:
        return "unhealthy", f"stable and canary are both above max_rate in {both[0].metric}"
    if sick and attempt.plan.policy.on_stable_unhealthy == "freeze":
        return "unhealthy", f"stable is above max_rate in {sick[0].metric}"
    if state.applied_at is None:
        return None
    missing = (now.wall - state.applied_at).total_seconds() - attempt.plan.settle_seconds
    if attempt.evidence.seen_at is not None:
        missing = min(missing, unread(attempt.evidence, now))
    if missing > attempt.plan.missing_after_seconds:
        why = attempt.evidence.problem or snapshot.reading.problem or "no complete reading"
        return "evidence", f"no evidence for {missing:.0f} s: {why}"
    return None


def _growing(snapshot: Snapshot) -> bool:
    """Whether an arm has been asked for more servers that are not all ready yet."""
    seen = snapshot.workloads or {}
    arms = (snapshot.stable.revision, snapshot.attempt.canary.revision)
    return any(seen[arm].grown_from for arm in arms if arm in seen)


def _loss(pairing: Pairing) -> str:
    altered = f", {pairing.altered} came with other content" if pairing.altered else ""
    return f"{pairing.lost:.1%} of the mirrored requests made no pair{altered}"


def _gap(attempt: Attempt, now: Now) -> float:
    """Share of the step whose evidence is lost."""
    if not attempt.evidence.gap_seconds or attempt.entered_wall is None:
        return 0.0
    spent = (now.wall - attempt.entered_wall).total_seconds()
    return attempt.evidence.gap_seconds / max(spent, 1e-9)
