"""Judge one window of predictions: the six tiers, one cause."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

import polars as pl

from tidemill.bundle import Manifest, read_manifest, read_profile
from tidemill.domain.diagnosis import diagnose
from tidemill.domain.profile import Profile
from tidemill.domain.tiers import (
    check_contract,
    check_features,
    check_mismatches,
    check_quality,
    feature_psi,
)
from tidemill.domain.verdicts import TIERS, Status, TierResult, WindowVerdict
from tidemill.errors import DataError, TidemillError
from tidemill.settings.monitoring import MonitoringSettings
from tidemill.steps.pool import Pool, judge_pool
from tidemill.steps.prediction_log import Read
from tidemill.steps.recompute import Tables
from tidemill.steps.replay import mismatches
from tidemill.steps.scoring import OnnxModel
from tidemill.steps.skew import skewed
from tidemill.steps.window_counts import Ranges, count, count_columns

__all__ = ["Judge", "Reference", "Window", "expected_volume", "without_defaults"]

EXPECTATION = 7
"""Earlier windows whose medians, of volume and of columns, are what the next one should have."""
FEWEST = 3
"""Windows that an expectation needs."""


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open period of predictions."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class Reference:
    """The bundle of one revision, as windows are judged against it."""

    revision: str
    bundle: Path

    @cached_property
    def manifest(self) -> Manifest:
        """Inputs and features of the model."""
        return read_manifest(self.bundle)

    @cached_property
    def profile(self) -> Profile:
        """The reference profile; raises IntegrityError when it is absent or malformed."""
        return read_profile(self.bundle)

    @cached_property
    def model(self) -> OnnxModel:
        """The model itself."""
        return OnnxModel(self.bundle / "model.onnx")


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges windows of one model."""

    model: str
    settings: MonitoringSettings
    ranges: Ranges
    """Declared ranges by column."""
    tables: Tables
    """Computes the offline feature tables."""

    def judge(
        self,
        window: Window,
        log: Read,
        reference: Reference,
        pool: Pool,
        past: Sequence[WindowVerdict],
        *,
        levels: Mapping[str, float],
    ) -> WindowVerdict:
        """Judge a window against the reference of the revision that served most of it.

        `log` holds the window's predictions of all revisions, `past` the earlier verdicts, oldest
        first, `levels` the latched medians (`tiers.check_quality`). Raises IntegrityError when the
        reference cannot be read.
        """
        settings, profile = self.settings, reference.profile
        rows = log.frame.filter(pl.col("revision") == reference.revision)
        shown = without_defaults(rows)
        counted = count_columns(shown, profile, self.ranges)
        adjoining = past[-1] if past and past[-1].end == _iso(window.start) else None
        quality, held = check_quality(
            counted,
            previous=adjoining.medians if adjoining else {},
            typical=typical_medians(past),
            levels=levels,
            distance=_distance(adjoining, window) / profile.block_hours if adjoining else 1.0,
            null_margin=settings.null_margin,
            unseen_share=settings.unseen_share,
            jump_factor=settings.jump_factor,
        )
        performance, numbers = judge_pool(pool, profile.performance, settings)
        volume = self.volume(window, log)
        results = (
            check_contract(
                counted,
                rows=volume,
                expected_rows=expected_volume(past),
                unreadable=log.unreadable,
            ),
            quality,
            self._replay(rows, reference),
            self._skew(shown, reference),
            performance,
            check_features(
                counted,
                profile,
                factor=settings.drift_factor,
                floor=settings.drift_floor,
                share=settings.drift_share,
                mix=settings.mix_columns,
            ),
        )
        history = [v.fired for v in past if v.revision == reference.revision]
        found = diagnose(results, history, persistence=settings.persistence)
        score = count(rows, profile.score, {})
        return WindowVerdict(
            model=self.model,
            revision=reference.revision,
            start=_iso(window.start),
            end=_iso(window.end),
            rows=rows.height,
            volume=volume,
            status="judged",
            cause=found.cause,
            hypotheses=found.hypotheses,
            fired=tuple(r.tier for r in results if r.fired),
            raised=found.raised,
            unevaluated={r.tier: r.unevaluated for r in results if r.unevaluated},
            findings=tuple(finding for r in results for finding in r.findings),
            retraining=found.retraining,
            medians={c.name: c.median for c, _ in counted if c.median is not None},
            levels=held,
            psi={c.name: feature_psi(c, r) for c, r in counted if not c.problem}
            | {"score": feature_psi(score, profile.score)},
            performance=numbers,
        )

    def unjudged(
        self,
        window: Window,
        log: Read,
        past: Sequence[WindowVerdict],
        *,
        status: Status,
        reason: str,
        revision: str = "",
    ) -> WindowVerdict:
        """Record a window that cannot be judged; its volume and its files still are."""
        volume = self.volume(window, log)
        contract = check_contract(
            (), rows=volume, expected_rows=expected_volume(past), unreadable=log.unreadable
        )
        return WindowVerdict(
            model=self.model,
            revision=revision or (past[-1].revision if past else ""),
            start=_iso(window.start),
            end=_iso(window.end),
            rows=log.frame.height,
            volume=volume,
            status=status,
            cause="data_quality" if contract.fired else "none",
            hypotheses=("covariate_shift",) if contract.fired else (),
            fired=("T0",) if contract.fired else (),
            raised=("T0",) if contract.fired else (),
            unevaluated=dict.fromkeys(TIERS, reason),
            findings=contract.findings,
            medians=past[-1].medians if past else {},
            levels=past[-1].levels if past else {},
        )

    def volume(self, window: Window, log: Read) -> int:
        """Return the rows of the last `window_hours`: an extended window has more."""
        if log.frame.is_empty():
            return 0
        begin = window.end - timedelta(hours=self.settings.window_hours)
        return log.frame.filter(pl.col("at") >= begin).height

    def _replay(self, rows: pl.DataFrame, reference: Reference) -> TierResult:
        manifest = reference.manifest
        if private := sorted(c.name for c in manifest.inputs if c.name in manifest.pii):
            reason = f"the log does not hold {', '.join(private)}: tagged pii in the contract"
            return TierResult("T2", unevaluated=reason)
        try:
            compared = {"score": mismatches(reference.model, self._sample(rows))}
        except (DataError, pl.exceptions.PolarsError) as error:
            return TierResult("T2", unevaluated=f"the log cannot be scored again: {error}")
        what = "differs from what the registered model gives"
        return check_mismatches("T2", compared, self.settings.replay_mismatch, what)

    def _skew(self, rows: pl.DataFrame, reference: Reference) -> TierResult:
        try:
            compared = skewed(self._sample(rows), reference.manifest, self.tables)
        except (TidemillError, pl.exceptions.PolarsError, KeyError) as error:
            return TierResult("T3", unevaluated=f"the features cannot be recomputed: {error}")
        what = "differs from its offline value"
        return check_mismatches("T3", compared, self.settings.skew_mismatch, what)

    def _sample(self, rows: pl.DataFrame) -> pl.DataFrame:
        count = min(self.settings.sample_rows, rows.height)
        return rows.sample(count, seed=0) if count < rows.height else rows


def expected_volume(past: Sequence[WindowVerdict]) -> float | None:
    """Return the median volume of the last windows, or None while there are too few."""
    volumes = [verdict.volume for verdict in past[-EXPECTATION:]]
    return statistics.median(volumes) if len(volumes) >= FEWEST else None


def _distance(before: WindowVerdict, window: Window) -> float:
    """Return the hours between the middles of two windows."""
    start, end = datetime.fromisoformat(before.start), datetime.fromisoformat(before.end)
    return ((window.start - start) + (window.end - end)) / 2 / timedelta(hours=1)


def typical_medians(past: Sequence[WindowVerdict]) -> dict[str, float]:
    """Return the median of each column's medians over the last windows."""
    recent = [verdict.medians for verdict in past[-EXPECTATION:]]
    names = {name for medians in recent for name in medians}
    return {name: statistics.median(m[name] for m in recent if name in m) for name in names}


def without_defaults(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the log with null where an input fell back to a default: it was not observed."""
    if "defaulted" not in rows.columns or not rows["defaulted"].list.len().sum():
        return rows
    names = set(rows["defaulted"].explode().drop_nulls()) & set(rows.columns)
    fell_back = pl.col("defaulted").list
    return rows.with_columns(
        pl.when(fell_back.contains(name).fill_null(value=False).not_())
        .then(pl.col(name))
        .alias(name)
        for name in sorted(names)
    )


def _iso(instant: datetime) -> str:
    return instant.isoformat()
