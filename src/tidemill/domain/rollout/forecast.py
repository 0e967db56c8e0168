"""How much evidence a decision will take, before an attempt is started."""

from __future__ import annotations

import math

from tidemill.domain.evidence import TOTAL, Metric, Tolerance
from tidemill.domain.paired import PairedRate, pairs_until
from tidemill.domain.rollout.model import Plan, Step

__all__ = [
    "events_left",
    "events_to_harm",
    "events_to_pass",
    "pairs_to_harm",
    "pairs_to_pass",
    "seconds_to_leave",
]

MIXTURE_NATS = 3.0
"""What it costs not to know the ratio beforehand (at most ln 25)."""


def events_to_harm(metric: Metric, weight: int, ratio: float) -> float:
    """Return the bad events of both arms until harm of `ratio` is found, roughly the mean."""
    nats = metric.harm_at + MIXTURE_NATS + math.log(2)  # the restarts halve the capital
    return _events(weight, ratio, metric.harm_ratio, nats)


def events_to_pass(metric: Metric, tolerance: Tolerance, weight: int) -> float:
    """Return the bad events of both arms until an equal canary passes, roughly the mean."""
    return _events(weight, 1.0, metric.pass_ratio, math.log(1 / tolerance.beta) + MIXTURE_NATS)


def pairs_to_pass(metric: PairedRate, tolerance: Tolerance, share: float) -> float:
    """Return the pairs until a canary passes whose rate is `share` of the limit, roughly."""
    return pairs_until(metric, math.log(1 / tolerance.beta), share * metric.max_rate)


def pairs_to_harm(metric: PairedRate, times: float) -> float:
    """Return the pairs until harm is found at `times` the limit, roughly; infinite if it cannot."""
    rate = times * metric.max_rate
    return pairs_until(metric, metric.harm_at, rate) if rate < 1 else math.inf


def events_left(metric: Metric, tolerance: Tolerance, weight: int, log_e: float) -> float:
    """Return the bad events of both arms until an equal canary passes, its log e-value known."""
    total = math.log(1 / tolerance.beta) + MIXTURE_NATS
    return max(1.0, _events(weight, 1.0, metric.pass_ratio, total - log_e))


def seconds_to_leave(plan: Plan, step: Step, rate: float, bad: float) -> float:
    """Return how long an equal canary stays in a step, project's clock, roughly the mean.

    `rate` is requests per second of both arms, `bad` the share of them that is a bad event. As if
    the step had to bring all the evidence itself; that of earlier steps makes it shorter. Of a
    shadow step: with rates of half their limits.
    """
    if step.mirror:
        mirrored = rate * step.mirror / TOTAL
        gated = [m for m in plan.paired if m.name in step.gate]
        pairs = [pairs_to_pass(metric, plan.tolerance, 0.5) for metric in gated]
        return max(step.min_seconds, step.min_events / mirrored, *(n / mirrored for n in pairs))
    waits = [step.min_seconds, step.min_events / rate]
    for metric in (m for m in plan.metrics if m.name in step.gate):
        events = events_to_pass(metric, plan.tolerance, step.weight)
        waits.append(events / (rate * bad) + (plan.maturation_seconds if metric.delayed else 0))
    return max(waits)


def _events(weight: int, ratio: float, null: float, nats: float) -> float:
    """Wald: the nats that a decision takes over those that an event brings."""
    true, assumed = _share(weight, ratio), _share(weight, null)
    gain = true * math.log(true / assumed) + (1 - true) * math.log((1 - true) / (1 - assumed))
    return nats / gain


def _share(weight: int, ratio: float) -> float:
    """Chance that a bad event is the canary's."""
    w = weight / TOTAL
    return w * ratio / (w * ratio + 1 - w)
