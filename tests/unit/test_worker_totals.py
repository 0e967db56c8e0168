"""The counters of many workers as one: sums that no death, reload or eviction turns back."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from tidemill.workers.totals import Family, Sample, Totals

V1, V2 = {"version": "1"}, {"version": "2"}


def told(
    requests: float,
    labels: dict[str, str] = V1,
    *,
    started: float = 100.0,
    held: float = 0,
    lost: float = 0,
    memory: float = 10.0,
) -> list[Family]:
    """What one worker tells that serves one version."""
    return [
        _family("tidemill_requests", "counter", "tidemill_requests_total", requests, labels),
        _family("tidemill_log_lost", "counter", "tidemill_log_lost_total", lost, labels),
        _family("tidemill_log_held_rows", "gauge", "tidemill_log_held_rows", held, labels),
        _family("tidemill_start_time_seconds", "gauge", "", started, labels),
        _family("process_resident_memory_bytes", "gauge", "", memory, {}),
        _family("tidemill_build_info", "gauge", "", 1, {}),
    ]


def _family(name: str, kind: str, sample: str, value: float, labels: dict[str, str]) -> Family:
    return Family(name, kind, f"{name}.", [Sample(sample or name, labels, value)])


def shown(totals: Totals, name: str, labels: dict[str, str] | None = None) -> float | None:
    found = [
        sample.value
        for family in totals.merged()
        for sample in family.samples
        if sample.name == name and (labels is None or sample.labels == labels)
    ]
    assert len(found) <= 1
    return found[0] if found else None


def test_counters_and_sizes_are_sums_and_starts_the_earliest() -> None:
    totals = Totals()
    totals.take(0, told(3, started=100))
    totals.take(1, told(4, started=90))
    assert shown(totals, "tidemill_requests_total") == 7
    assert shown(totals, "process_resident_memory_bytes") == 20
    assert shown(totals, "tidemill_build_info") == 1
    assert shown(totals, "tidemill_start_time_seconds") == 90


def test_what_a_dead_worker_counted_stays_and_its_memory_goes() -> None:
    totals = Totals()
    totals.take(0, told(3, started=90))
    totals.take(1, told(4))
    totals.retire(0)
    assert shown(totals, "tidemill_requests_total") == 7
    assert shown(totals, "tidemill_start_time_seconds") == 90
    assert shown(totals, "process_resident_memory_bytes") == 10
    totals.take(0, told(2, started=200))
    assert shown(totals, "tidemill_requests_total") == 9
    assert shown(totals, "tidemill_start_time_seconds") == 90


def test_when_all_have_died_the_first_that_returns_goes_on() -> None:
    totals = Totals()
    totals.take(0, told(3))
    totals.retire(0)
    assert shown(totals, "tidemill_requests_total") == 3
    totals.take(0, told(1))
    assert shown(totals, "tidemill_requests_total") == 4


def test_rows_that_a_killed_worker_held_for_the_log_are_counted_as_lost() -> None:
    totals = Totals()
    totals.take(0, told(9, held=5, lost=1))
    totals.take(1, told(9, held=2))
    totals.retire(0)
    assert shown(totals, "tidemill_log_lost_total") == 6
    assert shown(totals, "tidemill_log_held_rows") == 2


def test_a_version_that_one_worker_evicts_and_loads_again_loses_nothing() -> None:
    totals = Totals()
    totals.take(0, told(5, V1))
    totals.take(1, told(6, V1))
    totals.take(0, told(1, V2))
    assert shown(totals, "tidemill_requests_total", V1) == 11
    totals.take(0, told(2, V1))
    assert shown(totals, "tidemill_requests_total", V1) == 13


def test_a_version_that_no_worker_has_is_forgotten_and_begins_anew() -> None:
    totals = Totals()
    totals.take(0, told(5, V1, started=90))
    totals.take(1, told(6, V1))
    totals.take(0, told(1, V2))
    totals.take(1, told(1, V2))
    assert shown(totals, "tidemill_requests_total", V1) is None
    totals.take(0, told(2, V1, started=300))
    assert shown(totals, "tidemill_requests_total", V1) == 2
    assert shown(totals, "tidemill_start_time_seconds", V1) == 300


actions = st.lists(
    st.tuples(st.integers(0, 2), st.sampled_from(["count", "count", "tell", "kill"])), max_size=60
)


@given(actions)
def test_the_sum_never_goes_back_and_misses_only_what_was_never_told(
    steps: list[tuple[int, str]],
) -> None:
    totals = Totals()
    living: Counter[int] = Counter({0: 0, 1: 0, 2: 0})
    told_of: Counter[int] = Counter()
    kept = 0
    totals.take(3, told(0))  # one that never dies, so that the version is never forgotten
    before = 0.0
    for worker, action in steps:
        if action == "count":
            living[worker] += 1
        elif action == "tell":
            totals.take(worker, told(living[worker]))
            told_of[worker] = living[worker]
        else:
            totals.retire(worker)
            kept += told_of[worker]
            living[worker] = told_of[worker] = 0
        now = shown(totals, "tidemill_requests_total")
        assert now == kept + told_of.total()
        assert now >= before
        before = now
