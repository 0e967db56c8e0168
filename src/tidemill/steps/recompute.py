"""Raw tables and features, read and computed anew for a past period as it is known now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from tidemill.domain.months import STATIC, month_of, months
from tidemill.ports.data import Source
from tidemill.ports.features import Transforms
from tidemill.settings.features import FeatureSettings
from tidemill.steps.featurize import compute

__all__ = ["Recomputed", "Tables", "known_raw", "read_raw"]

Tables = Callable[[datetime, datetime], Mapping[str, pl.DataFrame]]
"""Feature tables by view, with the rows between two instants."""


@dataclass(frozen=True, slots=True)
class Recomputed:
    """Computes feature tables from the source itself, past everything that serving uses."""

    source: Source
    transforms: Transforms
    settings: FeatureSettings
    first: str
    """First month of the source, YYYY-MM."""

    def __call__(self, since: datetime, until: datetime) -> Mapping[str, pl.DataFrame]:
        """Return the tables; raises DataError or Unavailable."""
        begin = since - timedelta(days=self.settings.lookback_days)
        raw = known_raw(self.source, begin, until, first=self.first)
        return compute(raw, self.transforms, self.settings, since=since, until=until)


def known_raw(
    source: Source, begin: datetime, until: datetime, *, first: str
) -> dict[str, pl.LazyFrame]:
    """Return every raw table as known at `until`, monthly ones from the month of `begin`."""
    return read_raw(source, months(max(first, month_of(begin)), month_of(until)), until)


def read_raw(source: Source, months: Sequence[str], as_of: datetime) -> dict[str, pl.LazyFrame]:
    """Return every raw table as known at `as_of`, monthly ones of the given months."""
    return {
        table: pl.concat(
            source.read(table, period, as_of)
            for period in ([STATIC] if cadence == STATIC else months)
        ).lazy()
        for table, cadence in source.tables().items()
    }
