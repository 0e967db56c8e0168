"""Gates: what a candidate must show, each verdict with its numbers and a sentence.

A gate that cannot be evaluated counts as failed: missing evidence is not good evidence.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.criteria import BOUND
from tidemill.domain.metrics import auc_error

__all__ = [
    "SliceFigures",
    "Status",
    "Verdict",
    "beats",
    "enough_rows",
    "judge_slices",
    "no_champion",
    "non_inferior",
    "passed",
    "within",
]

Status = Literal["pass", "fail", "not_evaluable"]
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
SLICE_ERRORS = 2.0
"""A slice fails when even its AUC plus this many standard errors is too low."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one gate says."""

    gate: str
    status: Status
    sentence: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SliceFigures:
    """One value of a slicing column."""

    value: str
    rows: int
    events: int
    auc: float


def passed(verdicts: Sequence[Verdict]) -> bool:
    """Tell whether every gate passed; no verdict at all is no pass."""
    return bool(verdicts) and all(verdict.status == "pass" for verdict in verdicts)


def within(metric: str, bound: str, value: float | None) -> Verdict:
    """Judge a metric against a bound such as `>= 0.62`."""
    gate = f"threshold/{metric}"
    match = BOUND.match(bound)
    if match is None:
        return Verdict(gate, "not_evaluable", f"the bound '{bound}' is not a comparison")
    if value is None or not math.isfinite(value):
        return Verdict(gate, "not_evaluable", f"{metric} was not measured, bound {bound}")
    limit = float(match[2])
    good = COMPARE[match[1]](value, limit)
    sentence = f"{metric} is {value:.6g}, {'within' if good else 'outside'} the bound {bound}"
    return Verdict(gate, _status(good), sentence, {"value": value, "bound": limit})


def enough_rows(compared: float | None, asked: float | None) -> Verdict:
    """Judge whether ONNX Runtime was compared with torch on as many real rows as asked for."""
    gate = "parity_rows"
    if compared is None or asked is None or not compared >= asked:
        sentence = f"compared on {compared} held-out rows, {asked} are asked for"
        return Verdict(gate, "not_evaluable", sentence)
    sentence = f"compared on {compared:.0f} held-out rows, at least {asked:.0f} are asked for"
    return Verdict(gate, "pass", sentence, {"rows": compared, "asked": asked})


def beats(baseline: str, loss: float | None, baseline_loss: float | None) -> Verdict:
    """Judge whether the model's log-loss is below a baseline's on the same rows."""
    gate = f"baseline/{baseline}"
    if loss is None or baseline_loss is None or not math.isfinite(loss + baseline_loss):
        return Verdict(gate, "not_evaluable", f"the log-loss against '{baseline}' is not known")
    sentence = f"log-loss {loss:.4f} against {baseline_loss:.4f} of '{baseline}'"
    numbers = {"model": loss, "baseline": baseline_loss}
    return Verdict(gate, _status(loss < baseline_loss), sentence, numbers)


def no_champion() -> Verdict:
    """Return the verdict of a first release: there is nobody to be worse than."""
    return Verdict("champion", "pass", "there is no champion yet, so there is nothing to compare")


def non_inferior(
    means: NDArray[np.floating], observed: float, days: int, margin: float, level: float
) -> Verdict:
    """Judge the challenger's log-loss minus the champion's by its bootstrapped means.

    Passes when their `level` quantile is below `margin`: the challenger is at worst a little worse.
    One day alone has no spread to resample, so it is not evaluable.
    """
    if days < 2 or not np.isfinite(means).all() or not math.isfinite(observed):
        return Verdict("champion", "not_evaluable", f"{days} day(s) of losses cannot be compared")
    upper = float(np.quantile(means, level))
    good = upper < margin
    sentence = (
        f"log-loss differs by {observed:+.4f} from the champion's on the same rows of {days} days; "
        f"with {level:.0%} confidence it is below {upper:+.4f}, allowed is {margin:+.4f}"
    )
    numbers = {"difference": observed, "upper": upper, "margin": margin, "days": float(days)}
    return Verdict("champion", _status(good), sentence, numbers)


def judge_slices(
    column: str, slices: Sequence[SliceFigures], min_rows: int, min_auc: float
) -> Verdict:
    """Judge the AUC of every slice with enough rows; smaller ones are reported elsewhere.

    A slice fails when its AUC is below `min_auc` by more than two standard errors, so that the
    smallest judged slice does not fail by chance. A large slice with one class alone is not
    evaluable, and so is a column without a large slice.
    """
    gate = f"slices/{column}"
    judged = [s for s in slices if s.rows >= min_rows]
    if not judged:
        sentence = f"no value of '{column}' has {min_rows} rows"
        return Verdict(gate, "not_evaluable", sentence, {"judged": 0.0})
    blind = [s.value for s in judged if not 0 < s.events < s.rows or not math.isfinite(s.auc)]
    if blind:
        return Verdict(gate, "not_evaluable", f"'{column}' {', '.join(blind)}: one class only")
    weak = [s for s in judged if s.auc + SLICE_ERRORS * _error(s) < min_auc]
    worst = min(judged, key=lambda s: s.auc)
    numbers = {"judged": float(len(judged)), "weak": float(len(weak)), "lowest_auc": worst.auc}
    sentence = (
        f"{len(weak)} of {len(judged)} values of '{column}' are below AUC {min_auc:g}"
        f"{': ' if weak else ''}{', '.join(f'{s.value} ({s.auc:.3f})' for s in weak)}; "
        f"lowest is {worst.value} with {worst.auc:.3f} on {worst.rows} rows"
    )
    return Verdict(gate, _status(not weak), sentence, numbers)


def _error(figures: SliceFigures) -> float:
    return auc_error(figures.auc, figures.events, figures.rows - figures.events)


def _status(good: bool) -> Status:
    return "pass" if good else "fail"
