"""Freeze windows: when they hold, what they bind, and who may break them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, time, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.rollout_world import NAME, START, World, plan

from tidemill.controller.orders import Orders
from tidemill.controller.plan import make_plan
from tidemill.domain.rollout.freeze import DAYS, Freeze, frozen_until, make_freeze
from tidemill.domain.rollout.model import Command
from tidemill.errors import ConfigError
from tidemill.settings import load

BERLIN = "Europe/Berlin"
WEEKEND = make_freeze(["Fri", "Sat", "Sun"], "16:00", "08:00", BERLIN)
HOUR = timedelta(hours=1)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("at", "until"),
    [
        ("2026-07-10T13:59", None),  # Friday, 15:59 in Berlin
        ("2026-07-10T14:00", "2026-07-11T06:00"),
        ("2026-07-11T05:59", "2026-07-11T06:00"),
        ("2026-07-11T06:00", None),
        ("2026-07-13T05:59", "2026-07-13T06:00"),  # Monday, of the window that began on Sunday
        ("2026-07-13T06:00", None),
        ("2026-07-13T15:00", None),
        ("2026-01-09T14:59", None),  # an hour later in winter
        ("2026-01-09T15:00", "2026-01-10T07:00"),
    ],
)
def test_a_window_is_read_from_the_clock_on_the_wall(at, until):
    assert frozen_until([WEEKEND], utc(at)) == (utc(until) if until else None)


def test_a_whole_day_and_windows_that_overlap():
    sunday = make_freeze(["sun"], "00:00", "00:00", "UTC")
    assert frozen_until([sunday], utc("2026-07-12T00:00")) == utc("2026-07-13T00:00")
    assert frozen_until([sunday], utc("2026-07-13T00:00")) is None
    longer = make_freeze(["sun"], "22:00", "03:00", "UTC")
    assert frozen_until([sunday, longer], utc("2026-07-12T23:00")) == utc("2026-07-13T03:00")


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [
        # 29 March 2026: 02:00 to 03:00 does not exist in Berlin
        ("01:00", "02:30", "2026-03-29T00:00", "2026-03-29T01:30"),
        ("02:30", "04:00", "2026-03-29T00:30", "2026-03-29T02:00"),
        ("01:00", "05:00", "2026-03-29T00:00", "2026-03-29T03:00"),
        # 25 October 2026: 02:00 to 03:00 comes twice
        ("01:00", "02:30", "2026-10-24T23:00", "2026-10-25T01:30"),
        ("02:30", "04:00", "2026-10-25T00:30", "2026-10-25T03:00"),
        ("01:00", "05:00", "2026-10-24T23:00", "2026-10-25T04:00"),
    ],
)
def test_where_the_clock_is_turned_a_window_is_rather_too_long(start, end, first, last):
    window = make_freeze(["sun"], start, end, BERLIN)
    begins, ends = utc(first), utc(last)
    assert frozen_until([window], begins - timedelta(seconds=1)) is None
    for at in (begins, ends - timedelta(seconds=1)):
        assert frozen_until([window], at) == ends
    assert frozen_until([window], ends) is None


def test_a_zone_that_is_not_known_is_always_frozen():
    nowhere = Freeze(("mon",), time(0), time(1), "Mars/Olympus")
    at = utc("2026-07-15T12:00")
    assert frozen_until([nowhere], at) == at + timedelta(days=1), "nothing is let through"


TIMES = st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 59]))
WINDOWS = st.builds(
    Freeze,
    st.sets(st.sampled_from(DAYS), min_size=1).map(tuple),
    TIMES,
    TIMES,
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "UTC"]),
)
INSTANTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(
    lambda at: at.replace(tzinfo=UTC)
)


@given(st.lists(WINDOWS, max_size=3), INSTANTS)
def test_at_its_end_a_window_is_over(windows, at):
    until = frozen_until(windows, at)
    if until is not None:
        assert at < until <= at + timedelta(hours=26)
        later = frozen_until(windows, until)
        assert later is None or later > until, "only by another window"


@given(st.builds(Freeze, st.sets(st.sampled_from(DAYS), min_size=1).map(tuple), TIMES, TIMES,
                 st.just("Asia/Kathmandu")), INSTANTS)  # fmt: skip
def test_where_no_clock_is_turned_it_is_plain_arithmetic(window, at):
    local = at + timedelta(hours=5, minutes=45)
    today, before = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    clock = local.time()
    if window.end > window.start:
        inside = today in window.days and window.start <= clock < window.end
    else:
        inside = (today in window.days and clock >= window.start) or (
            before in window.days and clock < window.end
        )
    assert (frozen_until([window], at) is not None) == inside


# what it binds ------------------------------------------------------------------------------------

MORNING = make_freeze(["mon"], "00:00", "01:00", "UTC")
"""START is a Monday's midnight."""
AFTER = START + HOUR


def frozen_world(*, begins: int = 8, **changes: object) -> World:
    """A world that freezes some seconds after midnight, for an hour."""
    world = World(plan(**changes))
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    world.change(plan=replace(world.plan, freeze=(MORNING,)))
    return world


def test_a_step_that_is_passed_waits_and_its_time_is_not_up():
    world = frozen_world(on_inconclusive="rollback")
    world.run(30)
    assert world.weight("v2") == 500
    assert world.condition("Progressing") == ("False", "Frozen")
    message = next(c.message for c in world.state.conditions if c.type == "Progressing")
    assert message == "frozen until 2013-04-01 01:00 UTC"
    world.now = AFTER - timedelta(seconds=2)
    world.run(1)
    assert world.weight("v2") == 500
    world.run_until("finalizing")
    assert "rollback" not in world.actions, "a frozen step is not an undecided one"


def test_a_canary_that_is_prepared_gets_no_first_request():
    world = World(replace(plan(), freeze=(MORNING,)))
    world.deploy()
    world.want("v2")
    world.run(100)
    assert (world.phase, world.weight("v2")) == ("preparing", 0)
    assert "v2" in world.servers.running
    world.now = AFTER
    world.run_until("progressing", limit=3)


def test_what_protects_is_never_frozen():
    world = frozen_world()
    world.rates(v2=0.9)
    world.run_until("rolling_back", limit=30)
    world.run(3)
    assert world.weight("v1") == 10_000


def test_an_undecided_step_may_pause_but_not_continue():
    late = {"steps": (replace(plan().steps[0], min_events=10**6, max_seconds=20),)}
    world = frozen_world(on_inconclusive="pause", **late)
    world.run_until("paused", limit=40)
    world = frozen_world(on_inconclusive="continue", **late)
    world.run(60)
    assert world.weight("v2") == 500
    world.now = AFTER
    world.run_until("finalizing")


def test_abort_and_a_revision_that_is_superseded_are_not_frozen():
    world = frozen_world()
    world.want("v3")
    world.change(plan=replace(world.plan, freeze=(MORNING,)))
    world.run(4)
    assert world.state.history[0].outcome == "superseded"
    world = frozen_world()
    world.command("abort", "v2")
    world.run(4)
    assert world.phase == "stable"


def test_a_person_promotes_only_after_breaking_the_glass():
    world = frozen_world()
    world.run(30)
    world.command("promote", "v2")
    world.run(1)
    assert world.log[-1] == (
        "ignore",
        "promote: frozen until 2013-04-01 01:00 UTC: break the glass first",
    )
    Orders(NAME, world.store, world.store).command("break_glass", reason="INC-7, ask Ada")
    world.run(1)
    assert ("break_glass", "until 2013-04-01 01:00 UTC: INC-7, ask Ada") in world.log
    told = [r for r in world.releases.told if r.kind == "unfrozen"]
    assert [(r.subject.revision, r.champion.revision, r.reason) for r in told] == [
        ("v2", "v1", "INC-7, ask Ada")
    ]
    world.run_until("finalizing")
    assert world.now < AFTER


def test_the_glass_is_broken_for_the_windows_of_now_alone():
    steps = (replace(plan().steps[0], min_seconds=90, max_seconds=10**6), plan().steps[1])
    world = frozen_world(steps=steps)
    later = make_freeze(["mon"], "02:00", "06:00", "UTC")
    world.change(plan=replace(world.plan, freeze=(MORNING, later)))
    order(world, "a", "first")
    world.run(1)
    world.now = START + 3 * HOUR
    world.run(120)
    assert world.weight("v2") == 500, "another window"
    order(world, "b", "second")
    world.run(2)
    assert world.weight("v2") == 2500
    assert [r.reason for r in world.releases.told if r.kind == "unfrozen"] == ["first", "second"]


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (Command("1", "break_glass", "v2"), "it needs a reason"),
        (Command("1", "break_glass", "v9", reason="x"), "no rollout of v9 is in flight"),
    ],
    ids=["no reason", "another revision"],
)
def test_glass_that_stays_whole(command, why):
    world = frozen_world()
    world.change(command=command)
    world.run(1)
    assert world.log[-1] == ("ignore", f"break_glass: {why}")


def test_there_must_be_something_frozen():
    world = World()
    world.deploy()
    world.want("v2")
    world.run_until("progressing")
    order(world, "1", "just in case")
    world.run(1, requests=0)
    assert world.log[-1] == ("ignore", "break_glass: nothing is frozen now")


def order(world: World, number: str, reason: str) -> None:
    world.change(command=Command(number, "break_glass", "v2", reason=reason))


EVENTS = st.lists(
    st.sampled_from(
        ["run", "hours", "v1", "v2", "v3", "bad", "good", "pause", "resume", "promote", "glass",
         "lose", "find"]
    ),
    min_size=4,
    max_size=14,
)  # fmt: skip


@settings(max_examples=60)
@given(st.lists(WINDOWS, min_size=1, max_size=2), EVENTS)
def test_no_canary_gets_more_inside_a_window(windows, events):
    small = replace(plan().steps[0], min_events=1)
    steps = (small, replace(small, name="c50", weight=5000))
    quick = plan(steps=steps, scale_down_seconds=1, settle_seconds=0, freeze=tuple(windows))
    world = World(quick)
    world.deploy()
    world.want("v2")
    for number, event in enumerate(events):
        happen(world, event, number)
        world.run(3)
    weight, thawed = 0, START
    for decision in world.store.log:
        until = frozen_until(windows, decision.at)
        if decision.action == "begin":
            thawed = START
        elif decision.action == "break_glass":
            assert until
            thawed = until
        if decision.weight > weight:
            assert until is None or decision.at < thawed, decision
        weight = decision.weight


def happen(world: World, event: str, number: int) -> None:
    if event in ("v1", "v2", "v3"):
        world.want(event)
    elif event in ("bad", "good"):
        world.rates(v2=0.9 if event == "bad" else 0.02)
    elif event in ("pause", "resume"):
        world.change(paused=event == "pause")
    elif event == "promote":
        world.command("promote", "v2")
    elif event == "glass":
        order(world, f"g{number}", "because")
    elif event in ("lose", "find"):
        world.servers.broken = {"v2"} if event == "lose" else set()
    elif event == "hours":
        world.now += 5 * HOUR


# settings -----------------------------------------------------------------------------------------


def test_settings_become_windows():
    window = "{days: [fri, sat], start: '16:00', end: '08:00', time_zone: Europe/Berlin}"
    made = make_plan(load(None, assignments=[f"rollout.freeze=[{window}]"]).settings)
    assert made.freeze == (Freeze(("fri", "sat"), time(16), time(8), BERLIN),)


@pytest.mark.parametrize(
    "window",
    [
        "{days: [fri], start: 16:00, end: '08:00'}",  # YAML reads a number of minutes
        "{days: [], start: '16:00', end: '08:00'}",
        "{days: [fri], start: '24:00', end: '08:00'}",
        "{days: [fri], start: '16:00', end: '08:00', time_zone: Mars/Olympus}",
        "{days: [freitag], start: '16:00', end: '08:00'}",
    ],
)
def test_settings_that_are_no_windows(window):
    with pytest.raises(ConfigError, match="freeze"):
        load(None, assignments=[f"rollout.freeze=[{window}]"])
