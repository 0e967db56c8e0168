"""What cannot be judged is said, is never read as health, and loses nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from tests.monitoring_world import DAY, MODEL, RELEASE, World

from tidemill.bundle import write_manifest
from tidemill.domain.verdicts import TIERS, WindowVerdict
from tidemill.errors import DataError, NotFound, Unavailable
from tidemill.settings.monitoring import MonitoringSettings
from tidemill.steps.monitor import Monitor
from tidemill.steps.profile import build_profile

pytestmark = pytest.mark.slow


def one(world: World) -> WindowVerdict:
    (judged,) = world.play(1)
    return judged.verdict


def test_no_log_at_all_is_an_error(world: World) -> None:
    world.clock.instant += DAY
    with pytest.raises(NotFound, match="no prediction log of flight-delay"):
        world.monitor.run()


def test_a_window_is_not_judged_before_it_has_settled(world: World) -> None:
    world.log(RELEASE)
    world.clock.instant = RELEASE + DAY
    assert world.monitor.run() == []
    world.clock.instant += timedelta(minutes=15)
    assert len(world.monitor.run()) == 1
    assert world.monitor.run() == []


def test_too_few_rows_extend_the_window(world: World) -> None:
    few = world.play(1, fault=lambda rows: rows.head(300))[0].verdict
    assert (few.status, few.cause) == ("extended", "none")
    assert set(few.unevaluated) == set(TIERS)
    assert "300 of 500 rows" in few.unevaluated["T1"]
    more = world.play(1, fault=lambda rows: rows.head(300))[0].verdict
    assert (more.status, more.rows, more.start) == ("judged", 600, few.start)


def test_a_window_that_stays_too_small_is_given_up(world: World) -> None:
    verdicts = [j.verdict for j in world.play(8, fault=lambda rows: rows.head(10))]
    assert [v.status for v in verdicts] == ["extended"] * 6 + ["not_evaluable", "extended"]
    assert "70 of 500 rows in 7 windows" in verdicts[6].unevaluated["T0"]


def test_a_silent_server_is_a_page(settled: World) -> None:
    settled.clock.instant = settled.clock.instant + DAY
    (judged,) = settled.monitor.run()
    assert (judged.verdict.status, judged.verdict.cause) == ("extended", "data_quality")
    assert "0 rows" in judged.incidents[0].numbers[0]


def test_a_missing_column_pages_and_stops_no_other_tier(settled: World) -> None:
    (judged,) = settled.play(1, fault=lambda rows: rows.drop("temp"))
    verdict = judged.verdict
    assert verdict.cause == "data_quality"
    assert [f.text for f in verdict.findings if f.tier == "T0"] == ["temp is not in the log"]
    assert "T2" in verdict.unevaluated
    assert "T3" not in verdict.unevaluated
    assert not verdict.retraining


def test_text_in_place_of_numbers_pages(settled: World) -> None:
    (judged,) = settled.play(
        1, fault=lambda rows: rows.with_columns(pl.col("temp").cast(pl.String))
    )
    texts = [f.text for f in judged.verdict.findings if f.tier == "T0"]
    assert texts == ["temp has type String, training had a numeric"]


def test_all_null_and_impossible_values_page(settled: World) -> None:
    (judged,) = settled.play(
        1, fault=lambda rows: rows.with_columns(temp=pl.lit(None, pl.Float64), humid=pl.lit(400.0))
    )
    rules = {(f.rule, f.column) for f in judged.verdict.findings if f.tier == "T0"}
    assert rules == {("all_null", "temp"), ("range", "humid")}


def test_a_truncated_file_is_named(settled: World) -> None:
    start = settled.clock.instant.replace(hour=0)
    settled.log(start)
    key = f"predictions/{MODEL}/dt={start:%Y-%m-%d}/000000.parquet"
    settled.objects.put(key.replace("000000", "000001"), settled.objects.get(key)[:5000])
    settled.clock.instant = start + DAY + timedelta(hours=1)
    (judged,) = settled.monitor.run()
    assert judged.verdict.cause == "data_quality"
    assert "000001.parquet" in judged.verdict.top(1)[0].text


def test_a_log_without_its_own_columns_is_not_evaluable(world: World) -> None:
    world.put(f"predictions/{MODEL}/dt=2013-04-01/0.parquet", pl.DataFrame({"at": [RELEASE]}))
    world.clock.instant = RELEASE + DAY + timedelta(hours=1)
    (judged,) = world.monitor.run()
    assert judged.verdict.status == "not_evaluable"
    assert "row_id, revision, score" in judged.verdict.unevaluated["T0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no reference profile"),
        ("{", "is malformed"),
        (json.dumps({"format": 1, "rows": 1}), "is malformed"),
        (json.dumps({"format": 2}), "is malformed"),
    ],
)
def test_a_profile_that_is_missing_or_broken(
    world: World, content: str | None, message: str
) -> None:
    bundle = world.folder / "broken"
    shutil.copytree(world.flights.bundle, bundle)
    (bundle / "profile.json").unlink()
    if content is not None:
        (bundle / "profile.json").write_text(content)
    world.bundles.folders[world.revision] = bundle
    verdict = one(world)
    assert verdict.status == "not_evaluable"
    assert message in verdict.unevaluated["T4"]
    assert verdict.cause == "none"


def test_private_columns_are_left_out_and_raise_no_alarm(world: World) -> None:
    bundle = world.folder / "private"
    shutil.copytree(world.flights.bundle, bundle)
    tags = {"carrier": "hash", "temp": "mask", "dest": "drop"}
    write_manifest(bundle, replace(world.flights.manifest(), pii=tags))
    shown = [c for c in world.flights.columns if c.name not in tags]
    profile = build_profile(world.flights.oof, shown, world.settings)
    (bundle / "profile.json").write_text(json.dumps(profile))
    world.bundles.folders[world.revision] = bundle

    def keep(rows: pl.DataFrame) -> pl.DataFrame:
        hashed = pl.col("carrier").hash(7).cast(pl.String)
        return rows.with_columns(hashed, temp=pl.lit(None, pl.Float64)).drop("dest")

    (judged,) = world.play(1, fault=keep)
    assert (judged.verdict.status, judged.verdict.cause) == ("judged", "none")
    assert "log does not hold carrier, dest, temp" in judged.verdict.unevaluated["T2"]
    assert "T3" not in judged.verdict.unevaluated
    assert not [f for f in judged.verdict.findings if f.column in tags]


def test_rows_that_a_rule_keeps_skew_nothing(world: World, tmp_path: Path) -> None:
    """Slow requests of one carrier in bad weather, nine of ten rows: none of it is judged."""

    def rare(rows: pl.DataFrame) -> pl.DataFrame:
        worst = rows.with_columns(
            temp=pl.lit(-5.0), carrier=pl.lit("HA"), sampled=pl.lit(value=False)
        )
        return pl.concat([rows.with_columns(sampled=pl.lit(value=True)), *[worst] * 9])

    plain = world.copy(tmp_path / "plain")
    (with_rare,), (without,) = world.play(1, fault=rare), plain.play(1)
    assert with_rare.verdict == without.verdict
    assert with_rare.verdict.cause == "none"


def test_a_revision_that_nobody_registered(world: World) -> None:
    world.bundles.folders.clear()
    assert "no registered revision" in one(world).unevaluated["T2"]


def test_a_registry_that_is_down_leaves_the_window_for_later(world: World) -> None:
    class Down:
        def folder(self, revision: str) -> None:
            raise Unavailable("the registry does not answer")

    world.bundles, bundles = Down(), world.bundles
    with pytest.raises(Unavailable):
        world.play(1)
    assert world.windows.last(MODEL, 5) == []
    world.bundles = bundles
    del world.__dict__["monitor"]
    assert len(world.monitor.run()) == 1


def test_labels_that_are_absent_or_few_are_not_evaluable(world: World) -> None:
    judged = world.play(9)
    assert judged[-1].verdict.unevaluated["T4"] == "there are no labels"
    world.label(world.clock.instant, lambda rows: rows.gather_every(2))
    (later,) = world.play(1)
    assert "matured predictions have a label" in later.verdict.unevaluated["T4"]


def test_a_window_killed_half_way_is_judged_again_with_equal_results(settled: World) -> None:
    class Killed(Exception):
        pass

    class Dies:
        def __init__(self, windows: object) -> None:
            self.last = windows.last

        def save(self, verdict: WindowVerdict) -> None:
            raise Killed

    monitor: Monitor = settled.monitor
    windows = monitor._windows
    monitor._windows = Dies(windows)
    with pytest.raises(Killed):
        settled.play(1, fault=lambda rows: settled.rescored(rows.with_columns(humid=pl.lit(400.0))))
    (before,) = settled.incidents.all(MODEL)
    monitor._windows = windows
    (judged,) = monitor.run()
    assert judged.verdict.cause == "data_quality"
    assert settled.incidents.all(MODEL) == [before]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda oof: oof.drop("temp"), "no column temp"),
        (lambda oof: oof.with_columns(score=pl.lit(None, pl.Float64)), "null values in score"),
        (lambda oof: oof.head(100), "needs two blocks"),
    ],
)
def test_a_profile_needs_its_columns_and_enough_days(
    world: World, change: object, message: str
) -> None:
    flights = world.flights
    with pytest.raises(DataError, match=message):
        build_profile(change(flights.oof), flights.columns, MonitoringSettings())
