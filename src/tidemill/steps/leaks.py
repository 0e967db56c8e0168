"""The leak check: features recomputed from data as it was known must not differ.

For a cut-off, the tables are computed twice: from all the data, and from the data as known at the
cut-off. A row that is stamped at or before the cut-off and differs has used what happened later.
Cut-offs that miss a view's own grid of instants miss its leaks, so they are taken from the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from tidemill.bundle import FeatureService, FeatureView
from tidemill.ports.data import Source
from tidemill.ports.features import Transforms
from tidemill.settings.features import FeatureSettings
from tidemill.steps.featurize import compute
from tidemill.steps.recompute import read_raw

__all__ = ["Leak", "LeakCheck", "find_leaks"]

PER_VIEW = 2
"""Cut-offs taken from each view's own instants."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A feature that knew the future."""

    view: str
    feature: str
    """Empty when whole rows exist only in hindsight, or vanish."""
    cut_off: datetime
    rows: int
    """Rows that differ."""


@dataclass(frozen=True, slots=True)
class LeakCheck:
    """What was compared and found."""

    cut_offs: tuple[datetime, ...]
    rows: int
    """Rows compared, over all cut-offs and views."""
    leaks: tuple[Leak, ...]


def find_leaks(
    source: Source,
    transforms: Transforms,
    settings: FeatureSettings,
    service: FeatureService,
    *,
    months: Sequence[str],
    as_of: datetime,
) -> LeakCheck:
    """Compare every view of the service at cut-offs on its instants, up to `as_of`."""

    def tables(until: datetime) -> dict[str, pl.DataFrame]:
        raw = read_raw(source, months, until)
        return compute(raw, transforms, settings, since=None, until=until)

    hindsight = tables(as_of)
    cut_offs = sorted({at for view in service.views for at in _instants(hindsight[view.name])})
    compared, leaks = 0, []
    for cut_off in cut_offs:
        known = tables(cut_off)
        for view in service.views:
            then = _until(known[view.name], cut_off)
            later = _until(hindsight[view.name], cut_off)
            compared += max(then.height, later.height)
            leaks += _differences(view, then, later, cut_off)
    return LeakCheck(tuple(cut_offs), compared, tuple(leaks))


def _instants(table: pl.DataFrame) -> list[datetime]:
    """Take cut-offs from a table's distinct instants, spread over them, the last one excluded."""
    instants = table["event_timestamp"].unique().sort()
    picks = [len(instants) * (n + 1) // (PER_VIEW + 1) for n in range(PER_VIEW)]
    return [instants[pick] for pick in picks if 0 < pick < len(instants)]


def _until(table: pl.DataFrame, cut_off: datetime) -> pl.DataFrame:
    stamps = [name for name in ("event_timestamp", "created") if name in table.columns]
    return table.filter(pl.col(name) <= cut_off for name in stamps)


def _differences(
    view: FeatureView, then: pl.DataFrame, later: pl.DataFrame, cut_off: datetime
) -> list[Leak]:
    stamps = [name for name in ("event_timestamp", "created") if name in then.columns]
    identity = [*view.join_keys, *stamps]
    appeared = later.join(then, on=identity, how="anti", nulls_equal=True).height
    vanished = then.join(later, on=identity, how="anti", nulls_equal=True).height
    found = [Leak(view.name, "", cut_off, appeared + vanished)] if appeared + vanished else []
    both = then.join(later, on=identity, nulls_equal=True, suffix="_later")
    for field in view.fields:
        rows = both.filter(pl.col(field.name).ne_missing(pl.col(f"{field.name}_later"))).height
        if rows:
            found.append(Leak(view.name, field.name, cut_off, rows))
    return found
