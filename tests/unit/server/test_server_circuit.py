"""The circuit breaker's promises, for every sequence of tries."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidemill.server.circuit import Circuit

limits = st.integers(1, 6)
firsts = st.floats(0.01, 10)
factors = st.floats(1, 100)
gaps = st.floats(0, 50)
tries = st.lists(st.tuples(gaps, st.booleans()), max_size=60)


@given(limits, firsts, factors, tries)
def test_it_opens_after_as_many_failures_in_a_row_and_closes_at_a_success(
    limit: int, first: float, factor: float, steps: list[tuple[float, bool]]
) -> None:
    circuit = Circuit(limit, first, first * factor)
    now, row = 0.0, 0
    for gap, ok in steps:
        now += gap
        if not circuit.admit(now):
            continue
        before = circuit.open
        row = 0 if ok else row + 1
        changed = circuit.record(now, ok=ok)
        assert circuit.open == (row >= limit)
        assert changed == (circuit.open != before)


@given(limits, firsts, factors, st.lists(gaps, max_size=80))
def test_while_it_fails_tries_are_ever_farther_apart_up_to_the_longest_pause(
    limit: int, first: float, factor: float, steps: list[float]
) -> None:
    circuit = Circuit(limit, first, first * factor)
    for _ in range(limit):
        assert circuit.admit(0.0)
        circuit.record(0.0, ok=False)
    now, last, pause = 0.0, 0.0, first
    for gap in steps:
        now += gap
        admitted = circuit.admit(now)
        assert admitted == (now >= last + pause)
        if admitted:
            last, pause = now, min(2 * pause, first * factor)
            assert not circuit.admit(now)  # one alone
            circuit.record(now, ok=False)


@given(limits, firsts)
def test_a_try_that_never_ends_does_not_keep_it_open(limit: int, first: float) -> None:
    circuit = Circuit(limit, first, 8 * first)
    for _ in range(limit):
        circuit.record(0.0, ok=False)
    assert circuit.admit(first)
    assert not circuit.admit(2.9 * first)
    assert circuit.admit(3.1 * first)
    assert circuit.record(3.2 * first, ok=True)
    assert circuit.admit(3.2 * first)


@given(limits, firsts)
def test_after_a_success_it_starts_with_the_first_pause_again(limit: int, first: float) -> None:
    circuit = Circuit(limit, first, 64 * first)
    for _ in range(limit):
        circuit.record(0.0, ok=False)
    now = 0.0
    for _ in range(5):
        now += 100 * first
        assert circuit.admit(now)
    circuit.record(now, ok=True)
    for _ in range(limit):
        circuit.record(now, ok=False)
    assert not circuit.admit(now + 0.9 * first)
    assert circuit.admit(now + 1.1 * first)
