"""Evidently as the renderer of evidence: it draws, it never decides.

Its own verdicts are not used: on real days of healthy data its defaults report drift 97.8% of the
time (docs: monitoring). Importing it costs about 11 CPU seconds, so only the process that draws a
report does, on an incident or once a week. Usage reporting is off (`telemetry`).
"""

from __future__ import annotations

import html
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tidemill.errors import DataError, MissingExtra

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EvidentlyRenderer"]


class EvidentlyRenderer:
    """Implements `ports.monitoring.Renderer`."""

    def render(self, reference: Path, current: Path, target: Path, title: str) -> Path:
        """Compare two Parquet files column by column and write one HTML file."""
        import pandas as pd

        frames = pd.read_parquet(reference), pd.read_parquet(current)
        sound, left_out = _preflight(*frames)
        snapshot = _attempt(sound, *frames) if sound else ""
        if isinstance(snapshot, str):
            snapshot = _without_the_guilty(sound, left_out, *frames)
        target.parent.mkdir(parents=True, exist_ok=True)
        snapshot.save_html(str(target))
        page = target.read_text()
        target.write_text(page.replace("<body>", "<body>" + _heading(title, left_out), 1))
        return target


def _preflight(reference: pd.DataFrame, current: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Split the reference's columns into those worth a try and those that cannot be compared."""
    sound, left_out = [], []
    for name in reference.columns:
        if name not in current.columns:
            left_out.append(f"{name}: not in the log")
        elif reference[name].isna().all() or current[name].isna().all():
            left_out.append(f"{name}: no value at all")
        elif _numeric(reference[name]) != _numeric(current[name]):
            left_out.append(f"{name}: {current[name].dtype}, training had {reference[name].dtype}")
        else:
            sound.append(str(name))
    return sound, left_out


def _without_the_guilty(
    sound: list[str], left_out: list[str], reference: pd.DataFrame, current: pd.DataFrame
) -> Any:
    """Run each column alone, note in `left_out` those that raise, and run the others together."""
    alone = {name: _attempt([name], reference, current) for name in sound}
    left_out += [f"{name}: {found}" for name, found in alone.items() if isinstance(found, str)]
    kept = [name for name, found in alone.items() if not isinstance(found, str)]
    if not kept:
        raise DataError(f"no column can be compared: {'; '.join(left_out)}")
    return _run(kept, reference, current)


def _attempt(names: Sequence[str], reference: pd.DataFrame, current: pd.DataFrame) -> Any:
    """Return the report on some columns, or why Evidently raised: one bad column loses it all."""
    try:
        return _run(names, reference, current)
    except MissingExtra:
        raise
    except Exception as error:  # noqa: BLE001 - Evidently raises whatever its parts raise
        return f"{type(error).__name__} {error}"


def _run(names: Sequence[str], reference: pd.DataFrame, current: pd.DataFrame) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Evidently and its web framework
        try:
            from evidently import DataDefinition, Dataset, Report
            from evidently.metrics import MissingValueCount, ValueDrift
        except ImportError as error:
            raise MissingExtra("evidently", "monitor") from error

    numbers = [name for name in names if _numeric(reference[name])]
    texts = [name for name in names if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=texts)
    metrics = [
        metric
        for name in names
        for metric in (
            ValueDrift(column=name, method="wasserstein" if name in numbers else "psi"),
            MissingValueCount(column=name),
        )
    ]
    before, after = (
        Dataset.from_pandas(_shown(frame, reference, names, numbers), data_definition=definition)
        for frame in (reference, current)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its plots warn about empty bins
        return Report(metrics).run(after, before)


def _shown(
    frame: pd.DataFrame, reference: pd.DataFrame, names: Sequence[str], numbers: Sequence[str]
) -> pd.DataFrame:
    """Return the columns to draw; numbers are clipped, because one outlier would flatten a plot."""
    shown = frame[list(names)].copy()
    for name in numbers:
        known = reference[name].replace([np.inf, -np.inf], np.nan)
        low, high = known.min(), known.max()
        width = (high - low) or 1.0
        shown[name] = shown[name].astype("float64").clip(low - width, high + width)
    for name in names:
        if name not in numbers:
            shown[name] = shown[name].astype("object").where(shown[name].notna(), None)
    return shown


def _numeric(column: pd.Series[Any]) -> bool:
    return bool(column.dtype.kind in "iuf")


def _heading(title: str, left_out: Sequence[str]) -> str:
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in left_out)
    note = f"<p>Not compared:</p><ul>{lines}</ul>" if lines else ""
    note += (
        "<p>'Detected' below is Evidently's own default, not the bound that raised the alert.</p>"
    )
    style = "font-family:sans-serif;margin:1.5rem;white-space:pre-line"
    return f'<header style="{style}"><h2>{html.escape(title)}</h2>{note}</header>'
