"""What a gate may name and how it writes a bound: read by the settings, so without numpy."""

from __future__ import annotations

import re

__all__ = ["BASELINES", "BOUND", "METRICS", "PARITY_METRICS"]

METRICS = (
    "auc", "logloss", "brier", "ece", "bias", "calibration_slope", "calibration_intercept"
)  # fmt: skip
"""Figures that `domain.metrics.measure` returns."""
PARITY_METRICS = ("parity_rows", "parity_edges", "parity_max_abs", "parity_flips")
"""Figures of the comparison of ONNX Runtime with torch."""
BASELINES = ("prior", "logistic", "boosting")
"""Baselines that are fitted in every training run."""
BOUND = re.compile(r"^(>=|<=|>|<) *(-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)$")
"""A comparison and a number: `>= 0.62`."""
