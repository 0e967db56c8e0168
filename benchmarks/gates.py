"""Gates: how often the champion comparison is wrong, by simulation on real held-out days.

Labels are drawn from a known probability per row; champion and challenger are that probability
with errors of their own, shared within a day as real errors are. `sd` is the size of the errors on
the logit scale: equal models have equal `sd`, a worse challenger a larger one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.bootstrap import block_means
from tidemill.domain.gates import non_inferior
from tidemill.domain.metrics import log_losses
from tidemill.settings.model import GateSettings

ROWS_PER_DAY = 900
TRIALS = 200
CHAMPION_SD = 0.30

Floats = NDArray[np.float64]


def main() -> None:
    """Print how often challengers of known quality pass, for 7 and 14 test days."""
    settings = GateSettings()
    print(f"{TRIALS} trials each, margin {settings.non_inferiority_margin}, "
          f"level {settings.non_inferiority_level}")  # fmt: skip
    print("  days  challenger's sd  true difference  passes")
    for days in (7, 14):
        for sd in (0.20, 0.25, 0.30, 0.35, 0.40, 0.50):
            passes, difference = rate(sd, days, settings, TRIALS)
            print(f"  {days:4d}  {sd:15.2f}  {difference:+15.4f}  {passes:6.1%}")


def rate(sd: float, days: int, settings: GateSettings, trials: int) -> tuple[float, float]:
    """Return the share of challengers that pass, and their mean difference of log-loss."""
    rng = np.random.default_rng(11)
    passed, differences = 0, []
    day = np.repeat(np.arange(days), ROWS_PER_DAY)
    for trial in range(trials):
        # Days differ in their event rate (weather), rows within a day by what the model knows.
        logit = rng.normal(-1.4, 0.5, days)[day] + rng.normal(0, 0.9, day.size)
        label = (rng.random(day.size) < _sigmoid(logit)).astype(np.float64)
        challenger, champion = (_errors(rng, logit, day, s) for s in (sd, CHAMPION_SD))
        difference = log_losses(challenger, label) - log_losses(champion, label)
        means = block_means(difference, day, settings.bootstrap_samples, trial)
        verdict = non_inferior(
            means,
            float(difference.mean()),
            days,
            settings.non_inferiority_margin,
            settings.non_inferiority_level,
        )
        passed += verdict.status == "pass"
        differences.append(difference.mean())
    return passed / trials, float(np.mean(differences))


def _errors(rng: np.random.Generator, logit: Floats, day: NDArray[np.int64], sd: float) -> Floats:
    """Return scores whose error is half the day's, half the row's."""
    days = int(day.max()) + 1
    error = rng.normal(0, sd, days)[day] + rng.normal(0, sd, day.size)
    return _sigmoid(logit + error * np.sqrt(0.5))


def _sigmoid(z: Floats) -> Floats:
    return 1 / (1 + np.exp(-z))


if __name__ == "__main__":
    main()
