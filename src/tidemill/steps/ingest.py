"""Ingest: read months of raw tables as known at an instant, keep each as an immutable object.

The object is stored whole before the ledger mentions it, and the ledger row is one transaction:
whatever kills the process, each partition is the old one or the new one. Running it again changes
nothing; a late or corrected partition becomes a new attempt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from tidemill.domain.months import STATIC, bounds
from tidemill.errors import Conflict, DataError
from tidemill.ports.data import Partition, PartitionLedger, Source
from tidemill.ports.objects import ObjectStore
from tidemill.steps.formats import to_parquet

__all__ = ["Ingested", "ingest"]

TRIES = 3
"""Two ingests of one month at once: the loser looks again and most often finds nothing to do."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What ingest did with one partition."""

    outcome: Literal["recorded", "unchanged"]
    partition: Partition


def ingest(
    source: Source,
    ledger: PartitionLedger,
    objects: ObjectStore,
    *,
    months: Sequence[str],
    as_of: datetime,
    again: bool = False,
) -> list[Ingested]:
    """Bring every table's partitions up to `as_of`: the given months and the static tables.

    Months that begin after `as_of` are skipped. `again` reads even what did not change, which
    restores a lost object. Raises DataError that names every partition that could not be read,
    after all others were ingested; Conflict when another ingest keeps winning.
    """
    done: list[Ingested] = []
    broken: list[str] = []
    for table, period in _periods(source, months, as_of):
        try:
            done.append(_ingest(source, ledger, objects, table, period, as_of, again))
        except DataError as error:
            broken.append(f"{table} {period}: {error.message}")
    if broken:
        raise DataError(
            f"{len(broken)} of {len(broken) + len(done)} partitions cannot be read:\n  "
            + "\n  ".join(broken),
            hint="mend the source and run the same command again; the others are ingested",
        )
    return done


def _periods(source: Source, months: Sequence[str], as_of: datetime) -> Iterator[tuple[str, str]]:
    begun = [month for month in months if bounds(month)[0] <= as_of]
    for table, cadence in source.tables().items():
        for period in [STATIC] if cadence == "static" else begun:
            yield table, period


def _ingest(
    source: Source,
    ledger: PartitionLedger,
    objects: ObjectStore,
    table: str,
    period: str,
    as_of: datetime,
    again: bool,
) -> Ingested:
    digest = source.digest(table, period, as_of)
    draft: Partition | None = None
    for _ in range(TRIES):
        attempts = ledger.attempts(table, period)
        known = next((a for a in attempts if a.as_of <= as_of), None)
        if known and known.source_digest == digest and not again:
            return Ingested("unchanged", known)
        draft = draft or _store(source, objects, table, period, as_of, digest)
        try:
            after = max((a.attempt for a in attempts), default=0)
            return Ingested("recorded", ledger.record(draft, after=after))
        except Conflict as error:
            conflict = error
    raise conflict


def _store(
    source: Source, objects: ObjectStore, table: str, period: str, as_of: datetime, digest: str
) -> Partition:
    frame = source.read(table, period, as_of)
    content = to_parquet(frame)
    content_digest = hashlib.sha256(content).hexdigest()
    key = f"raw/{table}/{period}-{content_digest[:16]}.parquet"
    objects.put(key, content)
    return Partition(
        table=table,
        period=period,
        attempt=0,
        as_of=as_of,
        source_digest=digest,
        schema_digest=hashlib.sha256(repr(list(frame.schema.items())).encode()).hexdigest(),
        content_digest=content_digest,
        rows=frame.height,
        key=key,
    )
