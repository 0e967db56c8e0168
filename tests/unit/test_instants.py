"""Instants as people write them, on the command line and as parameters of a run."""

from datetime import UTC, datetime

import pytest

from tidemill.domain.instants import instant
from tidemill.errors import UsageError


@pytest.mark.parametrize(
    ("text", "hour"), [("2013-04-01", 0), ("2013-04-01T02:00+02:00", 0), ("2013-04-01T05:00", 5)]
)
def test_an_instant_is_utc_unless_it_says_otherwise(text: str, hour: int) -> None:
    assert instant(text) == datetime(2013, 4, 1, hour, tzinfo=UTC)


def test_what_is_no_instant_is_refused() -> None:
    with pytest.raises(UsageError, match="'yesterday' is no instant") as raised:
        instant("yesterday")
    assert raised.value.hint == "write 2013-04-01T00:00+00:00"
