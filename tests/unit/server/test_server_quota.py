"""Quotas: so many requests a day, whatever restarts, and however many processes answer."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import Unavailable
from tidemill.server.quota import Quota

EVENING = datetime(2026, 11, 1, 22, 30, tzinfo=UTC)


class Clock:
    now = EVENING

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def save(*quotas: Quota) -> None:
    for quota in quotas:
        thread = quota.save()
        assert thread
        thread.join()


def test_after_so_many_requests_the_day_is_over(tmp_path: Path, clock: Clock) -> None:
    quota = Quota(tmp_path / "state/quota.db", clock)
    assert [quota.take("shop", 3) for _ in range(4)] == [0, 0, 0, 5400]
    assert quota.take("other", 3) == 0
    clock.now += timedelta(minutes=89, seconds=59.5)
    assert quota.take("shop", 3) == 1
    clock.now += timedelta(seconds=0.5)
    assert [quota.take("shop", 3) for _ in range(4)] == [0, 0, 0, 86400]


def test_a_restart_gives_nothing_back(tmp_path: Path, clock: Clock) -> None:
    quota = Quota(tmp_path / "quota.db", clock)
    for _ in range(2):
        quota.take("shop", 3)
    save(quota)
    quota.take("shop", 3)  # within the last second: the new process does not know it
    again = Quota(tmp_path / "quota.db", clock)
    assert [again.take("shop", 3) for _ in range(2)] == [0, 5400]


def test_after_a_week_a_day_is_forgotten(tmp_path: Path, clock: Clock) -> None:
    quota = Quota(tmp_path / "quota.db", clock)
    for _ in range(9):
        assert quota.take("shop", 1) == 0
        save(quota)
        clock.now += timedelta(days=1)
    rows = sqlite3.connect(tmp_path / "quota.db").execute("SELECT day FROM quota").fetchall()
    assert sorted(day for (day,) in rows) == [f"2026-11-{n:02d}" for n in range(2, 10)]


@pytest.mark.parametrize("days", [2, -2], ids=["ahead", "back"])
def test_a_clock_that_jumps_and_returns_gives_nothing_back(
    tmp_path: Path, clock: Clock, days: int
) -> None:
    quota = Quota(tmp_path / "quota.db", clock)
    for _ in range(3):
        assert quota.take("shop", 3) == 0
    save(quota)
    clock.now += timedelta(days=days)
    assert [quota.take("shop", 3) for _ in range(4)][:3] == [0, 0, 0]
    save(quota)
    clock.now -= timedelta(days=days)
    quota.take("shop", 100)  # it notices the day …
    save(quota)  # … and within a second knows what was used of it
    assert quota.take("shop", 3) == 5400


@settings(max_examples=40)
@given(st.lists(st.sampled_from(["a", "b", "save a", "save b"]), max_size=40))
def test_processes_share_a_quota(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """In whatever order: no request is counted twice or lost, and after a save all know all."""
    path = tmp_path_factory.mktemp("quota") / "quota.db"
    clock, most = Clock(), 10
    both = {"a": Quota(path, clock), "b": Quota(path, clock)}
    taken = 0
    for step in steps:
        if step in both:
            taken += both[step].take("shop", most) == 0
        else:
            save(both[step[-1]])
    save(both["a"], both["b"], both["a"])
    assert taken <= 2 * most
    left = 0
    while both["a"].take("shop", most) == 0:
        left += 1
    assert left == max(0, most - taken)


def test_a_file_that_cannot_be_written_later_stops_nothing(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "quota.db"
    quota = Quota(path, clock)
    quota.take("shop", 3)
    path.unlink()
    path.mkdir()
    save(quota, quota)
    assert [quota.take("shop", 3) for _ in range(3)] == [0, 0, 5400]
    path.rmdir()
    save(quota)
    assert Quota(path, clock).take("shop", 3) == 5400


def test_a_file_that_cannot_be_made_is_said_at_the_start(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "quota.db").write_text("no database, and longer than the magic of one")
    with pytest.raises(Unavailable, match=r"quota\.db"):
        Quota(tmp_path / "quota.db", clock)
