"""Error rates, power and speed of the canary's decisions: `python -m benchmarks rollout`.

Every figure is measured on simulated traffic with fixed seeds, by the functions that decide
(restarts, least bad events; looked at once a minute), and beside a rule that is in use elsewhere: a
threshold counted per minute, a z-test looked at again and again.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.evalues import alternatives, log_mean_exp, log_wealth
from tidemill.domain.evidence import LEVELS, TOTAL, Metric, Segment, Tolerance, assess
from tidemill.settings.rollout import RolloutSettings
from tidemill.testing.canaries import Canaries

Counts = NDArray[np.float64]
Looks = NDArray[np.bool]
WHOLE = np.array([1.0])
ALPHA, BETA = 0.01, 0.05
METRIC = Metric("errors", "error", 1.2, 1.5, None, ALPHA)
TOLERANCE = Tolerance(BETA, 0.0001, 5, 0.8)
EQUAL = replace(METRIC, harm_ratio=1.0)
RAMP = (0.01, 0.05, 0.1, 0.25, 0.5)


def main() -> None:
    """Print the tables."""
    for title, table in TABLES:
        begin = time.perf_counter()
        print(f"\n## {title}\n")
        table()
        print(f"\n({time.perf_counter() - begin:.1f} s)")


def traffic(
    rng: np.random.Generator,
    runs: int,
    weights: Counts,
    rate: Counts,
    ratio: float,
    rpm: int,
    *,
    round_robin: bool = False,
) -> tuple[Counts, Counts]:
    """Return requests and bad events per minute on stable and canary, each `[runs, minutes, 2]`.

    Every minute has `rpm` requests, so that all runs are cut into the same segments.
    """
    requests = np.full((runs, len(weights)), rpm)
    canary = (
        np.rint(requests * weights).astype(int) if round_robin else rng.binomial(requests, weights)
    )
    stable = requests - canary
    bad = [rng.binomial(stable, rate), rng.binomial(canary, np.minimum(1, rate * ratio))]
    return np.stack([stable, canary], -1).astype(float), np.stack(bad, -1).astype(float)


def canaries(weights: Counts, requests: Counts, bad: Counts) -> Canaries:
    """Return canaries with whole bad events, one look a minute."""
    shares = np.rint(weights * TOTAL).astype(int).tolist()
    per_minute = requests[0].sum(axis=1).astype(int).tolist()
    return Canaries(shares, per_minute, bad[:, :, None, :])


def rolled_back(weights: Counts, seen: tuple[Counts, Counts], metric: Metric = METRIC) -> Looks:
    """Return whether each minute would roll back, `[runs, minutes]`; `seen` is `traffic`'s."""
    requests, bad = seen
    return canaries(weights, requests, bad).rolled_back(metric, TOLERANCE, requests[..., 1])


def crossed(hits: Looks) -> tuple[float, float]:
    """Return the share of runs that ever decide, and the median minute of those."""
    first = hits.argmax(axis=1)[hits.any(axis=1)] + 1
    return float(hits.any(axis=1).mean()), float(np.median(first)) if len(first) else math.nan


def z_peeks(requests: Counts, bad: Counts) -> tuple[float, float]:
    """Return the share of runs that a z-test at 1 % rejects: at any minute, at the end."""
    n, x = requests.cumsum(axis=1), bad.cumsum(axis=1)
    with np.errstate(all="ignore"):
        p = x / n
        pooled = x.sum(2) / n.sum(2)
        z = (p[..., 1] - p[..., 0]) / np.sqrt(pooled * (1 - pooled) * (1 / n).sum(2))
    high = np.nan_to_num(z, nan=0, posinf=0) > 2.326
    return float(high.any(axis=1).mean()), float(high[:, -1].mean())


def false_rollbacks() -> None:
    """Print the table."""
    rng = np.random.default_rng(20261122)
    weights = np.repeat(RAMP, 50)
    rate = 0.005 * (1 + 0.8 * np.sin(np.arange(250) / 20))
    rate[100:110] = 0.2
    print("| requests/min | ratio | random split | round robin |\n|---|---|---|---|")
    for rpm in (60, 600):
        for ratio in (1.0, 1.2):
            found = [
                crossed(
                    rolled_back(
                        weights,
                        traffic(rng, 5000, weights, rate, ratio, rpm, round_robin=robin),
                    )
                )[0]
                for robin in (False, True)
            ]
            print(f"| {rpm} | {ratio} | {found[0]:.4f} | {found[1]:.4f} |")


def peeking() -> None:
    """Print the table."""
    rng = np.random.default_rng(7)
    half = np.full(250, 0.5)
    requests, bad = traffic(rng, 5000, half, np.full(250, 0.01), 1.0, 600)
    any_, end = z_peeks(requests, bad)
    ours, _ = crossed(rolled_back(half, (requests, bad), EQUAL))
    print(f"constant traffic: z once {end:.3f}, z every minute {any_:.3f}, ours {ours:.4f}")
    ramp = np.repeat(RAMP, 50)
    requests, bad = traffic(rng, 5000, ramp, np.linspace(0.002, 0.02, 250), 1.0, 600)
    _, end = z_peeks(requests, bad)
    ours, _ = crossed(rolled_back(ramp, (requests, bad), EQUAL))
    print(f"error rate rises with the weight: z at the end {end:.3f}, ours {ours:.4f}")


def thresholds() -> None:
    """Print the table."""
    rng = np.random.default_rng(8)
    weights = np.full(60, 0.05)
    print(
        "| requests/min | ≥99 %, 4 failures | the same, empty = failed | ours |\n|---|---|---|---|"
    )
    for rpm in (60, 600, 6000):
        requests, bad = traffic(rng, 5000, weights, np.full(60, 0.005), 1.0, rpm)
        empty = requests[..., 1] == 0
        failed = ~empty & (bad[..., 1] > 0.01 * requests[..., 1])
        ours, _ = crossed(rolled_back(weights, (requests, bad)))
        ignoring, counting = ((f.sum(1) >= 4).mean() for f in (failed, failed | empty))
        print(f"| {rpm} | {ignoring:.3f} | {counting:.3f} | {ours:.4f} |")


def detection() -> None:
    """Print the table."""
    rng = np.random.default_rng(9)
    weights = np.full(240, 0.05)
    print("| requests/min | ×2 | ×3 | ×5 | ×10 | ×50 |\n|---|---|---|---|---|---|")
    for rpm in (600, 6000):
        cells = []
        for ratio in (2, 3, 5, 10, 50):
            seen = traffic(rng, 1000, weights, np.full(240, 0.005), ratio, rpm)
            share, median = crossed(rolled_back(weights, seen))
            cells.append(f"{share:.0%}, {median:.0f} min")
        print(f"| {rpm} | {' | '.join(cells)} |")


def passing() -> None:
    """Print the table."""
    rng = np.random.default_rng(10)
    print("| margin | weight | requests/min | pass in 4 h | median | false pass |")
    print("|---|---|---|---|---|---|")
    for margin in (1.5, 2.0):
        for weight in (0.1, 0.5):
            for rpm in (600, 6000):
                weights, rate = np.full(240, weight), np.full(240, 0.005)
                metric = replace(METRIC, pass_ratio=margin)
                equal, at_margin = (
                    crossed(
                        canaries(weights, *traffic(rng, runs, weights, rate, ratio, rpm)).log_pass(
                            metric
                        )
                        >= math.log(1 / BETA)
                    )
                    for runs, ratio in ((1000, 1.0), (4000, margin))
                )
                print(f"| {margin} | {weight:.0%} | {rpm} | {equal[0]:.0%} | {equal[1]:.0f} min "
                      f"| {at_margin[0]:.4f} |")  # fmt: skip


def default(event: str) -> Metric:
    """Return the metric of `event` as the settings' defaults have it."""
    analysis = RolloutSettings().analysis
    chosen = next(m for m in analysis.metrics if m.event == event)
    return Metric(
        event,
        event,
        chosen.harm_ratio,
        chosen.pass_ratio,
        chosen.max_rate,
        analysis.alpha * chosen.alpha_share,
    )


def collapsed() -> None:
    """Print the table."""
    metric, rng = default("low"), np.random.default_rng(14)
    weights = np.repeat([0.05, 0.25, 0.5], [8, 16, 312])  # hours at 900 requests a day
    print("| canary's share of low scores, stable's = 1 | rolled back | median |\n|---|---|---|")
    for ratio in (0.0, 0.03, 0.1, 0.2, 1 / 3, 1.0, 3.0):
        seen = traffic(rng, 2000, weights, np.full(len(weights), 0.25), ratio, 38)
        share, median = crossed(rolled_back(weights, seen, metric))
        print(f"| {ratio:.2f} | {share:.4f} | {median:.0f} h |")


def wrong() -> None:
    """Print the table."""
    metric, beta = default("wrong"), RolloutSettings().analysis.beta
    rng = np.random.default_rng(12)
    print("| true ratio | rolled back | median | passed | median |\n|---|---|---|---|---|")
    for ratio in (0.95, 1.0, metric.harm_ratio, metric.pass_ratio, 1.3, 1.5, 2.0):
        labelled, days = _labelled(rng, ratio)
        harm = crossed(days.rolled_back(metric, TOLERANCE, labelled))
        passed = crossed(days.log_pass(metric) >= math.log(1 / beta))
        print(f"| {ratio:g} | {harm[0]:.3f} | day {harm[1]:.0f} | {passed[0]:.3f} "
              f"| day {passed[1]:.0f} |")  # fmt: skip


def _labelled(rng: np.random.Generator, ratio: float) -> tuple[Counts, Canaries]:
    """Return the canary's rows a day and the canaries: 8 % missed (1), 26 % false alarms (6/20)."""
    runs, days, rows = 2000, 14, 1000
    stable = rng.binomial(rows, 0.5, size=(runs, days))
    arms = [(stable, 1.0), (rows - stable, ratio)]
    missed = np.stack([rng.binomial(n, 0.08 * r) for n, r in arms], -1)
    alarms = np.stack([rng.binomial(n, min(1, 0.26 * r)) for n, r in arms], -1)
    losses = np.stack([alarms, missed], axis=2).astype(float)
    canaries = Canaries([5000] * days, [rows] * days, losses, levels=(6 / LEVELS, 1.0))
    return (rows - stable).astype(float), canaries


def late() -> None:
    """Print the table."""
    rng = np.random.default_rng(13)
    weights = np.full(240, 0.1)
    rate = np.full(240, 0.005)
    healthy = traffic(rng, 200, weights, rate, 1.0, 600)
    sick = traffic(rng, 200, weights, rate, 5.0, 600)
    requests, bad = (
        np.concatenate([h[:, :120], s[:, 120:]], axis=1) for h, s in zip(healthy, sick, strict=True)
    )
    one = _one_start(weights, bad) >= METRIC.harm_at
    restarting = rolled_back(weights, (requests, bad))
    print(f"one start {crossed(one)[1] - 120:.0f} min, "
          f"with restarts {crossed(restarting)[1] - 120:.0f} min")  # fmt: skip


def _one_start(weights: Counts, bad: Counts) -> Counts:
    """Return the log e-value without restarts, to compare with; no decision is taken by it."""
    wealth = log_wealth(weights, WHOLE, bad[:, :, None, :], alternatives(1.2, "harm"), 1.2)
    return log_mean_exp(wealth.cumsum(axis=1))


def speed() -> None:
    """Print the table."""
    metric = Metric("wrong", "wrong", 1.05, 1.2, None, 0.004)
    tolerance = Tolerance(BETA, 0.0001, 5, 0.8)
    for count in (1, 8, 32):
        segments = tuple(
            Segment(k, 1, 5000, (500, 500), (500, 500), ((6, 120, 120), (20, 40, 40)))
            for k in range(count)
        )
        begin = time.perf_counter()
        for _ in range(50):
            assess(metric, segments, tolerance, 1)
        print(f"{count} segments: {(time.perf_counter() - begin) * 20:.1f} ms")


TABLES = (
    (
        "False rollbacks: r_h 1.2, alpha 1 %, 5000 runs of 250 looks, an incident in both arms",
        false_rollbacks,
    ),
    ("Equal arms: a z-test looked at every minute against this test, nominal 1 %", peeking),
    ("Per-minute thresholds on a healthy canary (0.5 % errors, 5 % weight, 60 min)", thresholds),
    (
        "Detection at 5 % weight, 0.5 % errors, alpha 1 %: share within 4 h, median minutes",
        detection,
    ),
    (
        "Passing an equal canary, beta 5 %, 0.5 % errors; and false passes exactly at the margin",
        passing,
    ),
    ("Wrong predictions, settings' defaults, 1000 labelled rows a day, 50 %, 14 days", wrong),
    ("A canary that lacks low scores, settings' defaults, 38 requests an hour, 14 days", collapsed),
    ("A ×5 regression that begins at minute 120 (10 %, 600/min): minutes until it is found", late),
    ("One judgement of one metric", speed),
)
