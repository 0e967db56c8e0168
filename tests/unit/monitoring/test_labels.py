"""The labels feed on the real source."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from tests.monitoring_world import MODEL, World

from tidemill.errors import DataError, Unavailable
from tidemill.steps.prediction_log import read_labels

pytestmark = pytest.mark.slow
FIRST = datetime(2013, 1, 1, tzinfo=UTC)
LATER = datetime(2013, 1, 20, 12, tzinfo=UTC)


def stored(world: World) -> pl.DataFrame:
    found = read_labels(world.objects, MODEL, FIRST, LATER + timedelta(days=5))
    return found.frame.sort("row_id")


def test_steps_give_the_same_labels_as_one_leap(world: World) -> None:
    for hours in (24, 30, 31, 24 * 12, 24 * 19 + 12):
        world.labels.collect(FIRST + timedelta(hours=hours))
    stepwise = stored(world)
    other = World(world.flights, world.folder / "leap")
    assert other.labels.collect(LATER) == stepwise.height
    assert stored(other).equals(stepwise)
    known = world.flights.rows.filter(pl.col("label_at") <= LATER, pl.col("late").is_not_null())
    assert stepwise.height == known.height
    joined = stepwise.join(known, left_on="row_id", right_on="flight_id")
    assert joined.filter(pl.col("label") == pl.col("late")).height == known.height
    assert stepwise["label_at"].max() <= LATER


def test_nothing_is_collected_twice(world: World) -> None:
    assert world.labels.collect(LATER) > 0
    assert world.labels.collect(LATER) == 0
    assert world.labels.collect(LATER - timedelta(days=1)) == 0


def test_a_feed_that_was_killed_writes_the_same_labels_again(world: World) -> None:
    put, written = world.objects.put, []

    def dies(key: str, content: bytes) -> str:
        if len(written) == 3:
            raise Unavailable("killed")
        written.append(key)
        return put(key, content)

    world.objects.put = dies
    with pytest.raises(Unavailable):
        world.labels.collect(LATER - timedelta(days=1))
    world.objects.put = put
    world.labels.collect(LATER)
    other = World(world.flights, world.folder / "whole")
    other.labels.collect(LATER)
    assert stored(world).equals(stored(other))


def test_a_broken_mark_is_named(world: World) -> None:
    world.objects.put(f"labels/{MODEL}/collected.json", b"{")
    with pytest.raises(DataError, match=r"collected\.json cannot be read"):
        world.labels.collect(LATER)
