"""Months tile time: no instant between them, none in two."""

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.months import bounds, month_of, months
from tidemill.errors import UsageError

INSTANTS = st.datetimes(datetime(1, 2, 1), datetime(9998, 1, 1), timezones=st.just(UTC))


@given(INSTANTS)
def test_an_instant_lies_in_its_month(instant: datetime) -> None:
    begin, end = bounds(month_of(instant))
    assert begin <= instant < end
    assert month_of(end - timedelta(microseconds=1)) == month_of(begin)


@given(INSTANTS, INSTANTS)
def test_months_of_a_range_follow_each_other(one: datetime, other: datetime) -> None:
    first, last = sorted((one, other))
    listed = months(month_of(first), month_of(min(last, first + timedelta(days=900))))
    assert listed[0] == month_of(first)
    assert all(bounds(a)[1] == bounds(b)[0] for a, b in pairwise(listed))


def test_a_month_is_in_utc() -> None:
    new_year = datetime(2013, 12, 31, 20, tzinfo=timezone(timedelta(hours=-5)))
    assert month_of(new_year) == "2014-01"


@pytest.mark.parametrize("text", ["2013", "2013-13", "2013-00", "13-01", "2013-1", "", "0000-01"])
def test_what_is_no_month_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="is no month"):
        bounds(text)


def test_an_empty_range_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="2013-02 to 2013-01 is empty"):
        months("2013-02", "2013-01")
