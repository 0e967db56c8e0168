"""The as-of join, held to a row-by-row oracle on random bitemporal tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.adapters.asof import asof, latest

START = datetime(2013, 1, 1, tzinfo=UTC)
INSTANT = pl.Datetime("us", "UTC")
Fact = tuple[str | None, int, int | None, float | None]
"""Key, event hour, created hour, value."""
Asked = tuple[str | None, int]


def hour(number: int | None) -> datetime | None:
    return None if number is None else START + timedelta(hours=number)


def frame(facts: Sequence[Fact]) -> pl.DataFrame:
    rows = [(key, hour(ts), hour(created), value) for key, ts, created, value in facts]
    schema = {"key": pl.String, "ts": INSTANT, "created": INSTANT, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def ask(asked: Sequence[Asked]) -> pl.DataFrame:
    rows = [(key, hour(at)) for key, at in asked]
    return pl.DataFrame(rows, schema={"key": pl.String, "at": INSTANT}, orient="row")


def join(asked: Sequence[Asked], facts: Sequence[Fact], ttl: int, *, revised: bool) -> list[float]:
    joined = asof(
        ask(asked).lazy().with_row_index("row").sort("at"),
        frame(facts).lazy(),
        at="at",
        keys={"key": "key"},
        timestamp="ts",
        created="created" if revised else None,
        columns=["value"],
        ttl=timedelta(hours=ttl),
    )
    return joined.sort("row").collect()["value"].to_list()


def oracle(asked: Asked, facts: Sequence[Fact], ttl: int, *, revised: bool) -> float | None:
    """Of all rows known at the instant, the newest event, and its newest revision."""
    key, at = asked
    known = [
        (ts, created if revised else 0, value)
        for name, ts, created, value in facts
        if key is not None and name == key and ts <= at
        if not revised or (created is not None and created <= at)
    ]
    if not known:
        return None
    ts, _, value = max(known, key=lambda row: row[:2])
    return value if ttl == 0 or ts + ttl >= at else None


keys = st.sampled_from(["a", "b", "c", None])
hours = st.integers(0, 30)
facts = st.lists(
    st.tuples(keys, hours, st.none() | hours, st.none() | st.integers(0, 99).map(float)),
    max_size=30,
    unique_by=lambda fact: fact[:3],
)
once_per_instant = st.lists(
    st.tuples(keys, hours, st.none(), st.none() | st.integers(0, 99).map(float)),
    max_size=30,
    unique_by=lambda fact: fact[:2],
)
asked = st.lists(st.tuples(keys, hours), min_size=1, max_size=20)
ttls = st.sampled_from([0, 1, 5, 10])


@given(asked=asked, facts=facts, ttl=ttls)
@settings(max_examples=200)
def test_revised_sources_equal_the_oracle(asked: list[Asked], facts: list[Fact], ttl: int) -> None:
    wanted = [oracle(one, facts, ttl, revised=True) for one in asked]
    assert join(asked, facts, ttl, revised=True) == wanted


@given(asked=asked, facts=once_per_instant, ttl=ttls)
@settings(max_examples=200)
def test_unrevised_sources_equal_the_oracle(
    asked: list[Asked], facts: list[Fact], ttl: int
) -> None:
    wanted = [oracle(one, facts, ttl, revised=False) for one in asked]
    assert join(asked, facts, ttl, revised=False) == wanted


@given(facts=facts, until=hours, back=st.integers(0, 30))
@settings(max_examples=200)
def test_the_latest_row_is_the_one_that_an_as_of_join_finds(
    facts: list[Fact], until: int, back: int
) -> None:
    found = latest(
        frame(facts).lazy(),
        keys=["key"],
        timestamp="ts",
        created="created",
        since=START + timedelta(hours=until - back),
        until=START + timedelta(hours=until),
    ).collect()
    values = dict(found.drop_nulls("key").select("key", "value").iter_rows())
    recent = [fact for fact in facts if fact[1] >= until - back]
    for key in ("a", "b", "c"):
        assert values.get(key) == oracle((key, until), recent, 0, revised=True)


@pytest.mark.parametrize(
    ("at", "wanted"),
    [(9, None), (10, 1.0), (15, 1.0), (16, None)],
    ids=["before the first value", "the same instant", "a ttl later", "expired"],
)
def test_bounds_are_inclusive(at: int, wanted: float | None) -> None:
    assert join([("a", at)], [("a", 10, 10, 1.0)], 5, revised=True) == [wanted]


def test_a_correction_is_seen_only_after_it_was_made() -> None:
    facts: list[Fact] = [("a", 10, 10, 1.0), ("a", 10, 14, 2.0)]
    assert join([("a", 13), ("a", 14)], facts, 0, revised=True) == [1.0, 2.0]


def test_a_late_older_value_never_replaces_a_newer_one() -> None:
    facts: list[Fact] = [("a", 12, 12, 2.0), ("a", 10, 13, 1.0)]
    assert join([("a", 14)], facts, 0, revised=True) == [2.0]


def test_rows_that_share_key_and_instant_are_all_kept() -> None:
    assert join([("a", 11), ("a", 11)], [("a", 10, 10, 1.0)], 0, revised=True) == [1.0, 1.0]
