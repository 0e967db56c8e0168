"""Features: the repository for training, the online store for serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tidemill.bundle import FeatureService, FeatureView

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "FeatureSource",
    "Materialised",
    "OnlineBatch",
    "OnlineReader",
    "Transforms",
    "Value",
]

Value = float | int | str | bool | None
"""A feature's value online; None when it is null, expired or unknown."""


@dataclass(frozen=True, slots=True)
class OnlineBatch:
    """What the online store held for N rows of keys."""

    columns: dict[str, list[Value]]
    """Feature → N values in the order of the keys."""
    as_of: datetime | None
    """The instant up to which the store was materialised, read before the values; None: never."""
    stale: dict[str, list[bool]] = field(default_factory=dict)
    """View → for N rows whether the stored value was older than its ttl; without any: absent."""

    def part(self, begin: int, end: int) -> OnlineBatch:
        """Return the rows from `begin` up to `end`."""
        rows = slice(begin, end)
        return OnlineBatch(
            {name: values[rows] for name, values in self.columns.items()},
            self.as_of,
            {view: old for view, all_of in self.stale.items() if any(old := all_of[rows])},
        )


class OnlineReader(Protocol):
    """Reads feature values by entity key."""

    def read(
        self,
        views: Sequence[FeatureView],
        keys: Mapping[str, Sequence[str | int | None]],
        moment: datetime,
    ) -> OnlineBatch:
        """Look up the features of `views` for N rows at once.

        `keys` holds N values per join key. A value older than its view's ttl at `moment`, an
        unknown key and a null key give None. May be called from any thread. Raises Unavailable
        when the store does not answer or was never materialised.
        """
        ...

    def verify(self, service: FeatureService) -> None:
        """Raise Mismatch unless the store holds exactly this definition of the service.

        Raises Unavailable when the store does not answer or was never materialised.
        """
        ...


@dataclass(frozen=True, slots=True)
class Materialised:
    """What one materialisation wrote."""

    as_of: datetime
    """The instant up to which the online store is now filled."""
    rows: dict[str, int]
    """View → keys whose newest row was in the window; views with nothing new are absent."""


class Transforms(Protocol):
    """The project's own code, `transforms.py` of the feature repository."""

    def tables(
        self,
        raw: Mapping[str, pl.LazyFrame],
        *,
        step_minutes: int,
        since: datetime | None,
        until: datetime | None,
    ) -> dict[str, pl.DataFrame]:
        """Compute the feature tables by view from the raw tables.

        Rows have `since <= event_timestamp <= until`, None being the ends of the data; a view
        without a clock of its own is always given whole.
        """
        ...

    def spine(self, raw: Mapping[str, pl.LazyFrame], *, horizon_minutes: int) -> pl.DataFrame:
        """Give each event that is scored a row: instant, keys, request columns, label."""
        ...


class FeatureSource(Protocol):
    """The feature repository, opened."""

    def resolve(self, name: str) -> FeatureService:
        """Resolve a service with its digest; raises NotFound, ConfigError on a bad definition."""
        ...

    def join(self, service: str, spine: pl.DataFrame, tables: Path) -> pl.DataFrame:
        """Add the service's features to `spine`, each as it was known at `event_timestamp`.

        `tables` is the folder of feature tables `<view>.parquet`. Raises NotFound or DataError
        when a table is missing or does not fit its view.
        """
        ...

    def materialise(
        self, service: str, tables: Path, until: datetime, *, replace: bool = False
    ) -> Materialised:
        """Fill the online store with the newest values known at `until`, then read them back.

        Every service of the definitions is filled, so that a new one can stand beside one that
        served models are pinned to. Raises NotFound for an unknown `service`; Refused when the
        store is filled up to a later instant, or for a service that changed or is gone, unless
        `replace`; Conflict when another process is at it.
        """
        ...
