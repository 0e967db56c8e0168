"""Faults planted in real April traffic: each is named by its right cause, in time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from tests.monitoring_world import World, causes

from tidemill.domain.incidents import acknowledge

pytestmark = pytest.mark.slow


def half_null(world: World, rows: pl.DataFrame) -> pl.DataFrame:
    hit = pl.int_range(pl.len()) % 10 < 3
    return world.rescored(rows.with_columns(temp=pl.when(~hit).then(pl.col("temp"))))


def celsius(world: World, rows: pl.DataFrame) -> pl.DataFrame:
    return world.rescored(rows.with_columns(temp=(pl.col("temp") - 32) / 1.8))


def renamed(world: World, rows: pl.DataFrame) -> pl.DataFrame:
    return world.rescored(rows.with_columns(pl.col("carrier").replace("UA", "UAL")))


def shuffled(world: World, rows: pl.DataFrame) -> pl.DataFrame:
    column = rows["origin_dep_delay_3h"].shuffle(seed=1)
    return world.rescored(rows.with_columns(column))


def filled(world: World, rows: pl.DataFrame) -> pl.DataFrame:
    hit = pl.int_range(pl.len()) % 5 == 0
    rate = pl.when(hit).then(0.0).otherwise("carrier_late_rate_7d")
    return world.rescored(rows.with_columns(carrier_late_rate_7d=rate))


def shifted(world: World, rows: pl.DataFrame) -> pl.DataFrame:
    names = sorted(world.flights.rows["dest"].unique())
    other = dict(zip(names, names[1:] + names[:1], strict=True))
    wrong = world.rescored(rows.with_columns(pl.col("dest").replace(other)))
    return rows.with_columns(wrong["score"])


def without_jfk(_world: World, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("origin") != "JFK")


@pytest.mark.parametrize(
    ("fault", "cause", "tier", "column"),
    [
        (half_null, "data_quality", "T1", "temp"),
        (celsius, "data_quality", "T1", "temp"),
        (renamed, "data_quality", "T1", "carrier"),
        (shuffled, "skew", "T3", "origin_dep_delay_3h"),
        (filled, "skew", "T3", "carrier_late_rate_7d"),
        (shifted, "code_bug", "T2", "score"),
        (without_jfk, "covariate_shift", "T5", "origin"),
    ],
)
def test_a_fault_is_named_on_its_first_day(
    settled: World,
    fault: Callable[[World, pl.DataFrame], pl.DataFrame],
    cause: str,
    tier: str,
    column: str,
) -> None:
    judged = settled.play(1, fault=lambda rows: fault(settled, rows))
    verdict = judged[-1].verdict
    assert verdict.cause == cause
    assert tier in verdict.raised
    assert column in {f.column for f in verdict.findings if f.tier == tier}
    assert not verdict.retraining
    (incident,) = judged[-1].incidents
    assert (incident.cause, incident.state) == (cause, "open")
    assert incident.numbers


def test_lost_traffic_names_both_hypotheses(settled: World) -> None:
    judged = settled.play(1, fault=lambda rows: without_jfk(settled, rows))
    assert judged[-1].verdict.hypotheses == ("data_quality",)
    assert any(f.rule == "volume" for f in judged[-1].verdict.findings)


def test_a_jump_latches_until_the_level_returns(settled: World) -> None:
    judged = settled.play(2, fault=lambda rows: celsius(settled, rows))
    assert causes(judged) == ["data_quality"] * 2
    assert causes(settled.play(3)) == ["none"] * 3
    assert settled.incidents.all("flight-delay")[0].state == "resolved"


def test_an_acknowledged_level_counts_as_normal(settled: World) -> None:
    settled.play(1, fault=lambda rows: celsius(settled, rows))
    (incident,) = settled.incidents.all("flight-delay")
    settled.incidents.save(acknowledge(incident, "me", "the feed sends Celsius now"))
    later = settled.play(1, fault=lambda rows: celsius(settled, rows))
    assert not [f for f in later[0].verdict.findings if f.rule == "jump"]


def test_flipped_morning_labels_are_concept_drift_within_a_week(world: World) -> None:
    onset = pl.datetime(2013, 4, 9, time_zone="UTC")
    flip = (pl.col("sched_minute") < 720) & (pl.col("event_timestamp") >= onset)

    def change(rows: pl.DataFrame) -> pl.DataFrame:
        return rows.with_columns(late=pl.when(flip).then(1 - pl.col("late")).otherwise("late"))

    judged = world.play(14, labels=change)
    found = causes(judged)
    assert set(found[:8]) == {"none"}
    first = found.index("concept_drift") + 1
    assert first <= 14, found
    raised = judged[first - 1]
    assert raised.verdict.retraining
    assert raised.incidents[0].retraining
    assert raised.verdict.performance["labels"] > 5000


def test_thirteen_real_days_without_a_fault_raise_nothing(world: World) -> None:
    judged = world.play(13, labels=lambda rows: rows)
    assert causes(judged) == ["none"] * 13
    assert all(not j.verdict.unevaluated for j in judged[7:])
    assert all(not j.incidents for j in judged)


def test_rows_that_fell_back_to_a_default_count_as_null(world: World) -> None:
    def defaulted(rows: pl.DataFrame) -> pl.DataFrame:
        hit = pl.int_range(pl.len()) % 4 == 0
        return world.rescored(
            rows.with_columns(
                humid=pl.when(hit).then(50.0).otherwise("humid"),
                defaulted=pl.when(hit)
                .then(pl.lit(["humid"]))
                .otherwise(pl.lit([], pl.List(pl.String))),
            )
        )

    judged = world.play(1, fault=defaulted)
    assert {f.column for f in judged[0].verdict.findings if f.rule == "nulls"} == {"humid"}


def test_a_canary_is_not_judged_before_it_is_promoted(world: World) -> None:
    def split(share: int) -> Callable[[pl.DataFrame], pl.DataFrame]:
        canary = pl.int_range(pl.len()) % 10 < share
        name = pl.when(canary).then(pl.lit("bbbbbbbbbb")).otherwise(pl.lit(world.revision))
        return lambda rows: rows.with_columns(revision=name)

    world.bundles.folders["bbbbbbbbbb"] = world.flights.bundle
    judged = [world.play(1, fault=split(share))[0] for share in (3, 4, 10)]
    assert [j.verdict.revision for j in judged] == [world.revision] * 2 + ["bbbbbbbbbb"]


def test_every_window_costs_the_same_numbers_twice(world: World) -> None:
    first = world.play(1)
    second = World(world.flights, world.folder / "again").play(1)
    assert [j.verdict for j in first] == [j.verdict for j in second]
    assert np.isfinite(list(first[0].verdict.psi.values())).all()
