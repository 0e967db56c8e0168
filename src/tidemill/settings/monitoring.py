"""Monitoring and retraining: windows, thresholds, the governor's limits."""

from __future__ import annotations

from pydantic import Field

from tidemill.settings.base import Group

__all__ = ["MonitoringSettings", "RetrainingSettings"]


class MonitoringSettings(Group):
    """When a window of predictions is judged, and by which bounds (docs: monitoring)."""

    window_hours: int = Field(default=24, ge=1)
    """Length of a window; the reference is calibrated on blocks of the same length."""
    min_rows: int = Field(default=500, ge=1)
    """A window with fewer rows is extended, never judged."""
    warmup_days: float = Field(default=7, ge=0)
    """The first days of the training period that the reference leaves out: rolling features are
    still filling there, and would widen every bound."""
    maturity_hours: float = Field(default=24, ge=0)
    """Labels are complete this long after the event's scheduled instant."""
    settle_hours: float = Field(default=0.25, ge=0)
    """A window is judged this long after its end, when servers have written their logs."""
    null_margin: float = Field(default=0.05, gt=0)
    """T1: null share above the in-control maximum by this much."""
    unseen_share: float = Field(default=0.05, gt=0)
    """T1: share of rows with an unseen category that pages."""
    jump_factor: float = Field(default=1.5, gt=1)
    """T1: day-over-day jump of a median beyond this times the largest in-control jump."""
    replay_mismatch: float = Field(default=0.001, gt=0)
    """T2: share of re-scored rows that differ."""
    skew_mismatch: float = Field(default=0.01, gt=0)
    """T3: share of served features that differ from the offline recomputation."""
    sample_rows: int = Field(default=2000, ge=1)
    """Rows sampled for T2 and T3."""
    pooled_days: int = Field(default=7, ge=1)
    """T4: matured label-days pooled before performance is judged."""
    min_label_share: float = Field(default=0.8, gt=0, le=1)
    """T4: share of matured predictions that must have a label; cancelled flights never get one."""
    performance_z: float = Field(default=3.0, gt=0)
    """T4: bound on |z| against in-control pools."""
    drift_factor: float = Field(default=1.25, gt=1)
    """T5: qPSI beyond this times the in-control maximum."""
    drift_floor: float = Field(default=0.1, gt=0)
    """T5: qPSI below this never counts."""
    drift_share: float = Field(default=0.3, gt=0, le=1)
    """T5: importance-weighted share of drifted features."""
    mix_columns: list[str] = Field(default=["origin", "dest", "carrier"])
    """T5: traffic-mix columns, each counts by itself."""
    persistence: tuple[int, int] = (2, 3)
    """T4, T5: raised when k of the last n windows fired. T0 to T3 latch at once."""
    draw_reports: bool = True
    """Draw an Evidently report of every new incident, in a process of its own (11 CPU seconds)."""
    report_rows: int = Field(default=20000, ge=100)
    """Rows sampled for an Evidently report."""
    runbooks: str = "docs/runbooks"
    """Folder or URL of the runbooks; an alert links `<runbooks>/<cause>.md`."""


class RetrainingSettings(Group):
    """The governor: when a retraining may run."""

    schedule_days: float = Field(default=28, gt=0)
    """Retrain on an expanding window this long after the last training."""
    cooldown_days: float = Field(default=14, ge=0)
    """No drift-caused retraining sooner than this after the last one."""
    budget: int = Field(default=4, ge=0)
    """Most retrainings within `budget_days`."""
    budget_days: float = Field(default=30, gt=0)
    """Length of the budget's window."""
    min_new_labels: int = Field(default=5000, ge=0)
    """Matured labels since the last training that a retraining needs."""
    attempts: int = Field(default=2, ge=1)
    """Runs of one request that may fail before a person is asked."""
    window: str = Field(default="expanding", pattern=r"^(expanding|\d+d)$")
    """Training window: `expanding`, or the last N days as `Nd`."""
