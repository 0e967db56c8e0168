"""Error rates, power and speed of the canary's decisions: `python -m benchmarks rollout`.

Every figure is measured on simulated traffic with fixed seeds, by the code that decides, and beside
a rule that is in use elsewhere: a threshold counted per minute, a z-test looked at again and again.
"""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.evalues import alternatives, log_restarts, log_wealth
from tidemill.domain.evidence import LEVELS, Metric, Segment, Tolerance, assess

Counts = NDArray[np.float64]
WHOLE = np.array([1.0])
ALPHA, BETA = 0.01, 0.05
RAMP = (0.01, 0.05, 0.1, 0.25, 0.5)
CHUNK = 500


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
    """Return requests and bad events per minute on stable and canary, each `[runs, minutes, 2]`."""
    requests = rng.poisson(rpm, size=(runs, len(weights)))
    canary = (
        np.rint(requests * weights).astype(int) if round_robin else rng.binomial(requests, weights)
    )
    stable = requests - canary
    bad = [rng.binomial(stable, rate), rng.binomial(canary, np.minimum(1, rate * ratio))]
    return np.stack([stable, canary], -1).astype(float), np.stack(bad, -1).astype(float)


def running(weights: Counts, bad: Counts, null: float, side: str) -> Counts:
    """Return the log e-value after every minute, `[runs, minutes]`."""
    parts = []
    for first in range(0, len(bad), CHUNK):
        part = bad[first : first + CHUNK]
        runs, minutes, _ = part.shape
        wealth = log_wealth(
            np.tile(weights, runs),
            WHOLE,
            part.reshape(runs * minutes, 1, 2),
            alternatives(null, side),  # type: ignore[arg-type]
            null,
        )
        total = wealth.reshape(runs, minutes, -1).cumsum(axis=1)
        peak = total.max(axis=2)
        parts.append(peak + np.log(np.exp(total - peak[..., None]).mean(axis=2)))
    return np.concatenate(parts)


def crossed(log_e: Counts, level: float) -> tuple[float, float]:
    """Return the share of runs that ever cross 1/level, and the median minute of those."""
    hits = log_e >= math.log(1 / level)
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
                    running(weights, traffic(rng, 20_000, weights, rate, ratio, rpm,
                                             round_robin=robin)[1], 1.2, "harm"), ALPHA,
                )[0]
                for robin in (False, True)
            ]  # fmt: skip
            print(f"| {rpm} | {ratio} | {found[0]:.4f} | {found[1]:.4f} |")


def peeking() -> None:
    """Print the table."""
    rng = np.random.default_rng(7)
    half = np.full(250, 0.5)
    requests, bad = traffic(rng, 5000, half, np.full(250, 0.01), 1.0, 600)
    any_, end = z_peeks(requests, bad)
    ours, _ = crossed(running(half, bad, 1.0, "harm"), ALPHA)
    print(f"constant traffic: z once {end:.3f}, z every minute {any_:.3f}, ours {ours:.4f}")
    ramp = np.repeat(RAMP, 50)
    requests, bad = traffic(rng, 5000, ramp, np.linspace(0.002, 0.02, 250), 1.0, 600)
    _, end = z_peeks(requests, bad)
    ours, _ = crossed(running(ramp, bad, 1.0, "harm"), ALPHA)
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
        ours, _ = crossed(running(weights, bad, 1.2, "harm"), ALPHA)
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
            bad = traffic(rng, 1000, weights, np.full(240, 0.005), ratio, rpm)[1]
            share, median = crossed(running(weights, bad, 1.2, "harm"), ALPHA)
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
                equal = traffic(rng, 1000, weights, rate, 1.0, rpm)[1]
                share, median = crossed(running(weights, equal, margin, "pass"), BETA)
                at_margin = traffic(rng, 4000, weights, rate, margin, rpm)[1]
                false, _ = crossed(running(weights, at_margin, margin, "pass"), BETA)
                print(f"| {margin} | {weight:.0%} | {rpm} | {share:.0%} | {median:.0f} min "
                      f"| {false:.4f} |")  # fmt: skip


def wrong() -> None:
    """Print the table."""
    from tidemill.settings.rollout import RolloutSettings

    analysis = RolloutSettings().analysis
    metric = next(m for m in analysis.metrics if m.event == "wrong")
    alpha = analysis.alpha * metric.alpha_share
    rng = np.random.default_rng(12)
    print("| true ratio | rolled back | median | passed | median |\n|---|---|---|---|---|")
    for ratio in (0.95, 1.0, metric.harm_ratio, metric.pass_ratio, 1.3, 1.5, 2.0):
        harm, passed = (
            crossed(_losses(rng, ratio, null, side), level)
            for null, side, level in (
                (metric.harm_ratio, "harm", alpha),
                (metric.pass_ratio, "pass", analysis.beta),
            )
        )
        print(f"| {ratio:g} | {harm[0]:.3f} | day {harm[1]:.0f} | {passed[0]:.3f} "
              f"| day {passed[1]:.0f} |")  # fmt: skip


def _losses(rng: np.random.Generator, ratio: float, null: float, side: str) -> Counts:
    """Return the log e-value after each day: 8 % events missed (1), 26 % false alarms (6/20)."""
    runs, days, rows = 2000, 14, 1000
    stable = rng.binomial(rows, 0.5, size=(runs, days))
    arms = [(stable, 1.0), (rows - stable, ratio)]
    missed = np.stack([rng.binomial(n, 0.08 * r) for n, r in arms], -1)
    alarms = np.stack([rng.binomial(n, min(1, 0.26 * r)) for n, r in arms], -1)
    losses = np.stack([alarms, missed], axis=2).astype(float).reshape(runs * days, 2, 2)
    levels = np.array([6 / LEVELS, 1.0])
    bets = alternatives(null, side)  # type: ignore[arg-type]
    wealth = log_wealth(np.full(runs * days, 0.5), levels, losses, bets, null)
    wealth = wealth.reshape(runs, days, -1)
    if side == "pass":
        total = wealth.cumsum(axis=1)
        peak = total.max(axis=2)
        return peak + np.log(np.exp(total - peak[..., None]).mean(axis=2))
    return np.array([
        [log_restarts(run[: day + 1].sum(0, keepdims=True), np.array([0])) for day in range(days)]
        for run in wealth[:500]
    ])  # fmt: skip


def late() -> None:
    """Print the table."""
    rng = np.random.default_rng(13)
    weights = np.full(240, 0.1)
    rate = np.full(240, 0.005)
    healthy = traffic(rng, 200, weights, rate, 1.0, 600)[1][:, :120]
    sick = traffic(rng, 200, weights, rate, 5.0, 600)[1][:, 120:]
    bad = np.concatenate([healthy, sick], axis=1)
    single = running(weights, bad, 1.2, "harm")
    bets = alternatives(1.2, "harm")
    restarts = np.array([
        [_restarting(run[: minute + 1], bets) for minute in range(119, 200)] for run in bad
    ])  # fmt: skip
    print(f"one start {crossed(single, ALPHA)[1] - 120:.0f} min, "
          f"with restarts {crossed(restarts, ALPHA)[1] - 1:.0f} min")  # fmt: skip


def _restarting(minutes: Counts, bets: Counts) -> float:
    """Cut every 9 minutes, about the 5000 requests after which the controller cuts."""
    cuts = np.arange(0, len(minutes), 9)
    bad = np.add.reduceat(minutes, cuts, axis=0)[:, None, :]
    wealth = log_wealth(np.full(len(cuts), 0.1), WHOLE, bad, bets, 1.2)
    return log_restarts(wealth, np.arange(len(cuts)))


def speed() -> None:
    """Print the table."""
    metric = Metric("wrong", "wrong", True, 1.05, 1.2, None, 0.004)
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
        "False rollbacks: r_h 1.2, alpha 1 %, 20 000 runs of 250 looks, an incident in both arms",
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
    ("A ×5 regression that begins at minute 120 (10 %, 600/min): minutes until it is found", late),
    ("One judgement of one metric", speed),
)
