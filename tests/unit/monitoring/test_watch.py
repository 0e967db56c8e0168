"""Rounds of monitoring with the governor behind them."""

from __future__ import annotations

import polars as pl
import pytest
from tests.monitoring_world import DAY, MODEL, World

from tidemill.domain.incidents import Incident
from tidemill.settings.monitoring import RetrainingSettings
from tidemill.steps.retrain import Governor, serving
from tidemill.steps.watch import Round, follow

pytestmark = pytest.mark.slow


class Stopped(Exception):
    pass


def governor(world: World, **settings: object) -> Governor:
    return Governor(
        MODEL,
        requests=world.requests,
        decisions=world.requests,
        incidents=world.incidents,
        objects=world.objects,
        champion=lambda: serving(MODEL, world.windows, world.bundles),
        rollouts=tuple,
        clock=world.clock,
        settings=RetrainingSettings(**settings),
    )


def flip(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(late=1 - pl.col("late"))


def test_real_drift_becomes_one_run_as_of_its_day(world: World) -> None:
    drawn: list[Incident] = []
    rounds = Round(world.monitor, governor(world, cooldown_days=7), drawn.append)
    start = world.clock.instant
    for day in range(12):
        world.log(start + day * DAY)
    world.label(start + 12 * DAY, flip)
    for day in range(1, 13):
        world.clock.instant = (start + day * DAY).replace(hour=1)
        rounds.run()
    (incident,) = world.incidents.all(MODEL)
    (request,) = world.requests.all(MODEL)
    assert incident.cause == "concept_drift"
    assert [d.id for d in drawn] == [incident.id]
    assert (request.state, request.correlation_id) == ("pending", incident.id)
    assert request.accepted_at[:10] == incident.opened_at[:10]


def test_following_waits_for_the_log_and_for_the_clock(world: World) -> None:
    start, looks = world.clock.instant, []

    def sleep(seconds: float) -> None:
        looks.append(len(world.windows.last(MODEL, 9)))
        assert seconds == world.clock.poll_seconds
        if len(looks) == 2:
            world.log(start)
            world.clock.instant = start + DAY
        if len(looks) == 4:
            world.clock.instant = (start + DAY).replace(hour=1)
        if len(looks) == 6:
            raise Stopped

    with pytest.raises(Stopped):
        follow(Round(world.monitor, governor(world), lambda _: None), world.clock, sleep=sleep)
    assert looks == [0, 0, 0, 0, 1, 1]
