"""The token bucket's promises, for every sequence of requests."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from tidemill.server.bucket import EARLY_SECONDS, Own, TokenBucket

rates = st.floats(0.01, 1e4)
bursts = st.floats(1, 100)
pauses = st.lists(st.floats(0, 10), min_size=1, max_size=60)


@given(rates, bursts, pauses)
def test_no_span_of_time_takes_more_than_burst_and_rate(
    rate: float, burst: float, gaps: list[float]
) -> None:
    bucket = TokenBucket(rate, burst, Own())
    taken = [now for now in accumulate(gaps) if not bucket.take(now)]
    for first, since in enumerate(taken):
        for count, until in enumerate(taken[first:], 1):
            assert count <= burst + rate * (until - since + EARLY_SECONDS) + 1e-6


@given(rates, bursts, pauses)
def test_who_waits_as_told_is_let_in_and_not_before(
    rate: float, burst: float, gaps: list[float]
) -> None:
    bucket = TokenBucket(rate, burst, Own())
    for now in accumulate(gaps):
        if wait := bucket.take(now):
            assert EARLY_SECONDS / 2 < wait <= 1 / rate + 2 * EARLY_SECONDS
            assert bucket.take(now + wait * 0.9) or wait < 20 * EARLY_SECONDS
            assert not bucket.take(now + wait * (1 + 1e-6) + 1e-9)
            return


@given(rates, bursts, st.integers(1, 50))
def test_who_keeps_to_the_rate_is_never_refused(rate: float, burst: float, count: int) -> None:
    bucket = TokenBucket(rate, burst, Own())
    assert not any(bucket.take(n / rate * (1 + 1e-9)) for n in range(count))


@given(rates, bursts, st.floats(0, 1e6))
def test_a_clock_that_steps_back_adds_nothing(rate: float, burst: float, back: float) -> None:
    bucket = TokenBucket(rate, burst, Own())
    while not bucket.take(100.0):
        pass
    assert bucket.take(100.0 - back)
    assert bucket.take(100.0)


@given(st.integers(1, 100), st.floats(0.01, 1e4), st.floats(0, 1e7))
def test_a_burst_is_whole_at_any_moment(burst: int, rate: float, now: float) -> None:
    bucket = TokenBucket(rate, float(burst), Own())
    assert [bool(bucket.take(now)) for _ in range(burst)] == [False] * burst
