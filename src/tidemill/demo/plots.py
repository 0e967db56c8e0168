"""The plots of the account, as SVG text that needs nothing from outside."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from tidemill.demo.story import Canary, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["auc_plot", "canary_plot", "drift_plot"]

RIGHTMOST = 0.15
"""Share of a plot's width in which a mark's text stands left of its line."""
INK, TEAL, RED, GREY, GOLD = "#22303c", "#00796b", "#c62828", "#90a4ae", "#b26a00"


def drift_plot(points: Sequence[Point], marks: Sequence[tuple[str, str]], bound: float) -> str:
    """Draw drift of features and of performance, day by day; `marks` are (day, text)."""
    figure, (above, below) = _figure(2, "Drift over time")
    days = [_number(p.day) for p in points]
    drift = [p.drift for p in points]
    if any(value is not None for value in drift):
        above.plot(days, _gaps(drift), color=TEAL, marker="o", ms=3)
    above.set_ylabel("median qPSI of features", fontsize=8)
    below.plot(days, _gaps([p.performance for p in points]), color=GOLD, marker="o", ms=3)
    below.axhline(bound, color=RED, ls="--", lw=1, label="bound")
    below.set_ylabel("performance |z|", fontsize=8)
    _legend(below)
    for axes in (above, below):
        _mark(axes, marks)
    return _svg(figure)


def canary_plot(canary: Canary) -> str:
    """Draw the evidence of one attempt with its two thresholds and the canary's weight."""
    figure, (axes,) = _figure(1, f"version {canary.version}, {canary.metric}: {canary.outcome}")
    at = [_number(text) for text in canary.at]
    axes.plot(at, canary.log_e_harm, color=RED, label="evidence of harm")
    axes.plot(at, canary.log_e_pass, color=TEAL, label="evidence of passing")
    axes.axhline(canary.harm_at, color=RED, ls="--", lw=1, label="rolls back above")
    axes.axhline(canary.pass_at, color=TEAL, ls="--", lw=1, label="passes above")
    axes.set_ylabel("log e-value", fontsize=8)
    reach = 2 * max(canary.harm_at, canary.pass_at)  # how far beyond a threshold tells nothing
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -reach), min(high, reach))
    weights = axes.twinx()
    weights.step(at, [w / 100 for w in canary.weight], where="post", color=GREY, lw=1)
    weights.set_ylim(0, 105)
    weights.set_ylabel("canary weight, %", color=GREY, fontsize=8)
    _legend(axes)
    return _svg(figure)


def auc_plot(points: Sequence[Point], marks: Sequence[tuple[str, str]]) -> str:
    """Draw the champion's AUC against that of the first release on the same rows."""
    figure, (axes,) = _figure(1, "Champion against never retrained (AUC, seven days pooled)")
    days = [_number(p.day) for p in points]
    axes.plot(days, _gaps([p.auc_first for p in points]), color=GREY, label="never retrained")
    axes.plot(days, _gaps([p.auc_champion for p in points]), color=TEAL, label="champion")
    axes.set_ylabel("AUC", fontsize=8)
    _legend(axes)
    _mark(axes, marks)
    return _svg(figure)


def _figure(rows: int, title: str) -> tuple[Figure, list[Axes]]:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 1.1 + 1.9 * rows), layout="constrained")
    axes: list[Axes] = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    figure.suptitle(title, fontsize=11, color=INK, x=0.01, ha="left")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        dates = AutoDateLocator(minticks=3, maxticks=9)
        axis.xaxis.set_major_locator(dates)
        axis.xaxis.set_major_formatter(ConciseDateFormatter(dates))
    return figure, axes


def _legend(axes: Axes) -> None:
    """Explain the lines above the plot, where none of them is."""
    axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0, fontsize=7,
        frameon=False,
    )  # fmt: skip


def _mark(axes: Axes, marks: Sequence[tuple[str, str]]) -> None:
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.28 * (high - low))
    first, last = axes.get_xlim()
    for count, (day, text) in enumerate(marks):
        at = _number(day)
        axes.axvline(at, color=INK, lw=0.6, ls=":")
        axes.text(
            at, 0.99 - 0.07 * (count % 3), f" {text} ", fontsize=6.5, color=INK, va="top",
            ha="right" if at > last - RIGHTMOST * (last - first) else "left",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip


def _number(instant: str) -> float:
    from matplotlib.dates import date2num

    return float(date2num(datetime.fromisoformat(instant)))


def _gaps(values: Sequence[float | None]) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
