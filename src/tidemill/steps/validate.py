"""Validate: check partitions against the contract, quarantine broken ones, assemble the dataset.

A month's newest attempt that passes is its current partition. A broken attempt is quarantined and
the last good one stays in use, judged as of its own instant. Each file in the folder is a whole
partition that was current when it was judged; the step fails if the newest attempt of any month
that it judged is broken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl
import structlog

from tidemill.domain.months import STATIC, bounds
from tidemill.errors import DataError, NotFound
from tidemill.files import place
from tidemill.ports.data import Partition, PartitionLedger
from tidemill.ports.objects import ObjectStore
from tidemill.settings.contract import Contract, TableContract
from tidemill.steps.checks import Finding, Span, check_frame, check_rows
from tidemill.steps.verdicts import Report, Verdict

__all__ = ["validate"]

log = structlog.get_logger(__name__)


def validate(
    ledger: PartitionLedger,
    objects: ObjectStore,
    contract: Contract,
    *,
    months: Sequence[str],
    as_of: datetime,
    folder: Path,
    whole: bool = True,
) -> Report:
    """Judge each month as known at `as_of` and make `folder` hold the current partitions.

    `whole`: `months` and the static tables are the dataset, and whatever else lies there is
    removed; if not, the other months stay what they are. Keeps the report as evidence and returns
    it, whether or not something is broken: call `require_valid` on it. Raises ConfigError for a
    contract that cannot be evaluated, Unavailable when `folder` cannot be written.
    """
    verdicts: list[Verdict] = []
    judged: set[Path] = set()
    kept: set[Path] = set()
    for name, table in contract.tables.items():
        current: _Current | None = None
        for period in _periods(table, months, as_of):
            pace = current.pace if current else None
            verdict, current = _judge(ledger, objects, name, table, period, as_of, pace)
            verdicts.append(verdict)
            path = folder / name / f"{period}.parquet"
            judged.add(path)
            if current:
                kept.add(_keep(path, current.content))
    _remove((set(folder.rglob("*")) if whole else judged) - kept)
    report = Report(as_of, contract.digest, tuple(verdicts))
    report.keep(objects)
    return report


@dataclass(frozen=True, slots=True)
class _Current:
    """The partition that a month's dataset holds."""

    content: bytes
    pace: float | None
    """Rows per day, once a day is complete."""


def _judge(
    ledger: PartitionLedger,
    objects: ObjectStore,
    name: str,
    table: TableContract,
    period: str,
    as_of: datetime,
    pace: float | None,
) -> tuple[Verdict, _Current | None]:
    """Find the newest good attempt of a month; `pace` is that of the month before."""
    attempts = [a for a in ledger.attempts(name, period) if a.as_of <= as_of]
    if not attempts:
        absent = Finding("absent", "", "error", 0, 0, "nothing was ingested")
        return Verdict(name, period, 0, 0, 0, (absent,)), None
    newest = attempts[0]
    reported: tuple[Finding, ...] = ()
    for attempt in attempts:
        span = _span(table, period, as_of if attempt is newest else attempt.as_of)
        content, findings = _examine(objects, attempt, table, span, pace)
        if attempt is newest:
            reported = tuple(findings)
        broken = any(f.severity == "error" for f in findings)
        ledger.judge(attempt, "quarantined" if broken else "valid")
        if not broken:
            verdict = Verdict(name, period, newest.attempt, attempt.attempt, newest.rows, reported)
            return verdict, _Current(content, _pace(attempt.rows, table, span))
    return Verdict(name, period, newest.attempt, 0, newest.rows, reported), None


def _examine(
    objects: ObjectStore,
    attempt: Partition,
    table: TableContract,
    span: Span,
    pace: float | None,
) -> tuple[bytes, list[Finding]]:
    """Read an attempt's object and check it."""
    try:
        content = objects.get(attempt.key)
        if hashlib.sha256(content).hexdigest() != attempt.content_digest:
            raise DataError(f"the object {attempt.key} is not what was ingested: its bytes changed")
        frame = pl.read_parquet(content)
    except (NotFound, DataError, pl.exceptions.PolarsError) as error:
        return b"", [Finding("object", "", "error", attempt.rows, attempt.rows, str(error))]
    findings = check_rows(frame.height, table, span, pace) + check_frame(frame, table, span)
    return content, findings


def _periods(table: TableContract, months: Sequence[str], as_of: datetime) -> list[str]:
    if not table.timestamp:
        return [STATIC]
    return [month for month in months if bounds(month)[0] <= as_of]


def _span(table: TableContract, period: str, as_of: datetime) -> Span:
    return Span(as_of, *bounds(period)) if table.timestamp else Span(as_of)


def _pace(rows: int, table: TableContract, span: Span) -> float | None:
    days = span.days(lag_hours=table.rows.lag_hours, ahead=table.rows.ahead)
    return rows / days if days >= 1 else None


def _keep(path: Path, content: bytes) -> Path:
    """Make `path` hold `content`, untouched when it does; raises Unavailable."""
    same = path.is_file() and path.read_bytes() == content
    return path if same else place(path, content)


def _remove(paths: set[Path]) -> None:
    for path in sorted(paths):
        if path.is_file():
            path.unlink()
            log.warning("removed from the dataset", file=str(path))
