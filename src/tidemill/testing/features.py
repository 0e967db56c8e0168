"""A feature repository in memory: joins as of an instant, remembers what it materialised."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.bundle import FeatureService
from tidemill.errors import NotFound, Refused
from tidemill.ports.features import Materialised

if TYPE_CHECKING:
    import polars as pl

__all__ = ["MemoryFeatures"]


@dataclass
class MemoryFeatures:
    """One service whose values never expire and are never revised."""

    service: FeatureService
    failure: Exception | None = None
    """Raised by the next `materialise`, once."""
    filled: list[Materialised] = field(default_factory=list)

    def resolve(self, name: str) -> FeatureService:
        """Return the service."""
        if name != self.service.name:
            raise NotFound.among("feature service", name, [self.service.name])
        return self.service

    def join(self, service: str, spine: pl.DataFrame, tables: Path) -> pl.DataFrame:
        """Add to each row the newest values at or before its instant."""
        import polars as pl

        joined = spine.with_row_index("__row").sort("event_timestamp")
        for view in self.resolve(service).views:
            table = pl.read_parquet(tables / f"{view.name}.parquet").sort("event_timestamp")
            columns = [*view.join_keys, "event_timestamp", *(f.name for f in view.fields)]
            joined = joined.join_asof(
                table.select(columns),
                on="event_timestamp",
                by=list(view.join_keys),
                check_sortedness=False,
            )
        return joined.sort("__row").drop("__row")

    def materialise(
        self, service: str, tables: Path, until: datetime, *, replace: bool = False
    ) -> Materialised:
        """Count the keys of each table; an earlier instant than the last one is refused."""
        import polars as pl

        if self.failure:
            failure, self.failure = self.failure, None
            raise failure
        if self.filled and until < self.filled[-1].as_of and not replace:
            raise Refused(f"filled up to {self.filled[-1].as_of}")
        rows = {
            view.name: pl.read_parquet(tables / f"{view.name}.parquet")
            .unique(list(view.join_keys))
            .height
            for view in self.resolve(service).views
        }
        self.filled.append(Materialised(until, rows))
        return self.filled[-1]
