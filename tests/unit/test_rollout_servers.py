"""Counters of several servers of one revision: added up, whichever of them come and go."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.rollout_world import START, World, plan, revision

from tidemill.adapters.counters import ScrapedCounters
from tidemill.adapters.evidence import ServerEvidence
from tidemill.domain.rollout.model import Now, State, Workload
from tidemill.domain.rollout.readings import Counters, Reading
from tidemill.domain.rollout.windows import total

NOW = START.timestamp()


def server(requests: int, errors: int = 0, *, started: float = NOW - 1000) -> Counters:
    return Counters(started, requests, {"error": errors, "slow": 0, "invalid": 0})


def together(**servers: Counters) -> Counters:
    return replace(total(servers.values()), servers=servers)


class Pods:
    """Evidence of canary and stable in two looks, the first of which is the baseline."""

    def __init__(self) -> None:
        self.world = World(plan(settle_seconds=0))
        self.world.deploy()
        self.world.want("v2")
        self.world.traffic.read = lambda *_: self.reading
        self.reading = self.looks(a=server(100), b=server(100))
        self.world.run_until("progressing")
        self.world.run(1, requests=0)

    def looks(self, **canary: Counters) -> Reading:
        return Reading({"v1": server(1000), "v2": together(**canary)}, rehearsal="")

    def look(self, **canary: Counters) -> tuple[int, float]:
        """Return the canary's requests that were counted, and the seconds that were lost."""
        self.reading = self.looks(**canary)
        self.world.run(1, requests=0)
        evidence = self.world.state.attempt.evidence
        series = evidence.series.get("requests", ())
        return sum(segment.requests[1] for segment in series), evidence.gap_seconds


def test_each_server_counts_from_where_it_was():
    assert Pods().look(a=server(130), b=server(170)) == (100, 0)


def test_a_server_that_ends_is_no_reset():
    assert Pods().look(a=server(130)) == (30, 0)


def test_a_server_that_began_since_counts_whole():
    pods = Pods()
    fresh = server(40, started=pods.world.now.timestamp() + 0.5)
    assert pods.look(a=server(130), c=fresh) == (70, 0)


def test_a_server_that_began_anew_counts_from_its_start():
    pods = Pods()
    again = server(40, started=pods.world.now.timestamp() + 0.5)
    assert pods.look(a=server(130), b=again) == (70, 0)


def test_a_server_that_ran_before_and_was_not_read_is_a_gap():
    requests, lost = Pods().look(a=server(130), b=server(170), c=server(500))
    assert (requests, lost) == (0, 1)


def test_counters_that_fell_without_a_restart_are_a_gap():
    assert Pods().look(a=server(130), b=server(90)) == (0, 1)


def test_one_server_that_began_anew_stays_a_gap():
    pods = Pods()
    pods.reading = Reading({"v1": server(1000), "v2": server(5)}, rehearsal="")
    pods.world.run(1, requests=0)
    pods.reading = Reading({"v1": server(1000), "v2": server(9, started=NOW)}, rehearsal="")
    pods.world.run(1, requests=0)
    assert pods.world.state.attempt.evidence.gap_seconds > 0


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 50), min_size=1), max_size=8)
)
def test_what_is_counted_is_never_more_than_what_was_answered(looks):
    """Servers come and go between looks; `looks` are the requests of each since the last one."""
    from tidemill.domain.rollout.windows import _gain

    running: dict[str, Counters] = {"a": server(7, started=NOW - 5)}
    before, counted, answered = together(**running), 0, 0
    for number, requests in enumerate(looks):
        since = START + timedelta(seconds=number)
        running = {
            name: replace(
                running.get(name) or server(0, started=since.timestamp() + 0.1),
                requests=running[name].requests + count if name in running else count,
            )
            for name, count in requests.items()
        }
        answered += sum(requests.values())
        after = together(**running)
        gain = _gain(before, after, since)
        assert gain is not None
        counted += gain.requests
        before = after
    assert counted == answered


METRICS = """
tidemill_requests_total{{model="m",version="1",revision="{revision}",outcome="ok"}} {ok}
tidemill_requests_total{{model="m",version="1",revision="{revision}",outcome="error"}} 2
tidemill_slow_total{{model="m",version="1",revision="{revision}"}} 1
tidemill_invalid_total{{model="m",version="1",revision="{revision}"}} 0
tidemill_start_time_seconds{{model="m",version="1",revision="{revision}"}} 17
tidemill_score_bucket{{model="m",version="1",revision="{revision}",le="0.1"}} 1
tidemill_score_bucket{{model="m",version="1",revision="{revision}",le="0.3"}} 3
tidemill_score_bucket{{model="m",version="1",revision="{revision}",le="+Inf"}} 4
"""


class NoOutcomes:
    def matured(self, *_: object) -> tuple[tuple[()], None]:
        return (), None


@pytest.fixture
def evidence():
    served = {"10.0.0.1": 8, "10.0.0.2": 28}

    def answer(request: httpx.Request) -> httpx.Response:
        count = served.get(request.url.host)
        if count is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, text=METRICS.format(revision="v1", ok=count))

    with httpx.Client(transport=httpx.MockTransport(answer)) as client:
        yield ServerEvidence(NoOutcomes(), ScrapedCounters(client), client)


def read(evidence: ServerEvidence, **servers: str) -> Reading:
    deployed = replace(revision("v1"), revision="0123456789")
    workloads = {"0123456789": Workload(2, 2, "m.ml.svc:8080", "", servers)}
    return evidence.read(workloads, State(stable=deployed), Now(START, START))


def test_every_server_is_read_under_the_name_that_it_reports(evidence):
    reading = read(evidence, one="10.0.0.1", two="10.0.0.2")
    counters = reading.counters["0123456789"]
    assert counters.requests == 8 + 2 + 28 + 2
    assert counters.events == {"error": 4, "slow": 2, "invalid": 0, "low": 2, "high": 2}
    assert counters.servers["one"].requests == 10


def test_a_silent_server_leaves_the_revision_unread(evidence):
    reading = read(evidence, one="10.0.0.1", two="10.0.0.9")
    assert reading.counters == {}
    assert "0123456789: refused" in reading.problem
