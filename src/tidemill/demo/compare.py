"""Champion against never retrained: the first release scores what the champion was asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import polars as pl

from tidemill.demo.story import Point, Story
from tidemill.domain.performance import auc
from tidemill.steps.prediction_log import read_labels, read_predictions
from tidemill.steps.scoring import OnnxModel

if TYPE_CHECKING:
    from tidemill.wiring import Project

__all__ = ["compare_with_first"]

POOL = timedelta(days=7)


def compare_with_first(project: Project, story: Story, start: datetime) -> None:
    """Add both AUCs to the story's points, pooled over seven days, on the same rows.

    A row counts for the champion that answered it; rows that a canary answered are left out.
    """
    model = project.settings.registry.model
    end = project.clock.now()
    log = read_predictions(project.objects, model, start, end).frame
    labels = read_labels(project.objects, model, start, end + timedelta(days=2)).frame
    champions = _champions(project)
    rows = (
        log.sort("at")
        .join_asof(champions, left_on="at", right_on="since", strategy="backward")
        .filter(pl.col("revision") == pl.col("champion"))
        .join(labels.select("row_id", "label"), on="row_id", how="inner")
    )
    first = OnnxModel(project.bundles.folder(champions["champion"][0]) / "model.onnx")
    rows = rows.with_columns(first=pl.Series(first.score(rows)))
    story.points = [_pooled(point, rows) for point in story.points]
    both = [p for p in story.points if p.auc_champion is not None and p.auc_first is not None]
    if both:
        last = both[-1]
        story.figures["AUC, last seven days"] = (
            f"{last.auc_champion:.3f}, never retrained {last.auc_first:.3f}"
        )


def _champions(project: Project) -> pl.DataFrame:
    """Return who was champion since when, oldest first."""
    decisions = project.rollouts.decisions(project.settings.name)
    since = [(d.clock, d.revision) for d in decisions if d.action in ("deploy", "finalize")]
    frame = pl.DataFrame(since, schema=["since", "champion"], orient="row")
    return frame.with_columns(pl.col("since").cast(pl.Datetime("us", "UTC"))).sort("since")


def _pooled(point: Point, rows: pl.DataFrame) -> Point:
    end = datetime.fromisoformat(point.day) + timedelta(days=1)
    pool = rows.filter(pl.col("at").is_between(end - POOL, end, closed="left"))
    if pool["label"].n_unique() < 2:
        return point
    truth = pool["label"].to_numpy()
    return replace(
        point,
        auc_champion=auc(truth, pool["score"].to_numpy()),
        auc_first=auc(truth, pool["first"].to_numpy()),
    )
