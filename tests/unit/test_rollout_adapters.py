"""Store, outcomes, metrics, servers, orders and releases of the rollout."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from tests.unit.rollout_world import NAME, START, World, plan, revision

from tidemill.adapters.counters import parse
from tidemill.adapters.objects import open_objects
from tidemill.adapters.outcomes import Outcomes, costs
from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.rollouts import StoredRollouts
from tidemill.adapters.workloads import ProcessWorkloads
from tidemill.controller.orders import Orders
from tidemill.controller.plan import make_plan
from tidemill.domain.rollout.forecast import events_to_harm, events_to_pass
from tidemill.domain.rollout.model import Attempt, Release, Spec, State
from tidemill.domain.rollout.readings import Evidence, Span
from tidemill.errors import Conflict, NotFound, Refused, Unavailable
from tidemill.ports.processes import ProcessStatus
from tidemill.steps.release import RegistryReleases
from tidemill.testing.ledger import MemoryLedger
from tidemill.testing.registry import MemoryRegistry

# store --------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    engine = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    yield StoredRollouts(engine, plan)
    engine.dispose()


def test_everything_a_rollout_knows_survives_the_store(store):
    world = World()
    world.deploy()
    world.want("v2")
    world.run(12)
    state, _ = world.store.state(NAME)
    assert state.attempt
    assert state.attempt.assessments
    store.propose(NAME, world.store.spec(NAME).__class__(1, revision("v1"), plan()))
    assert store.spec(NAME) == Spec(1, revision("v1"), plan())
    version = 0
    for decision in world.store.log:
        version = store.commit(NAME, state, decision, version)
    assert store.state(NAME) == (state, version)
    assert store.decisions(NAME) == world.store.log


def test_a_controller_on_the_store_decides_as_one_in_memory(store):
    worlds = World(), World()
    worlds[1].store = store
    worlds[1].restart()
    for world in worlds:
        world.want("v1")
        world.settle()
        world.run(2)
        world.want("v2")
        world.run(30)
    assert store.decisions(NAME) == worlds[0].store.log


def test_the_store_takes_one_of_two_writers(store):
    assert store.state(NAME) == (State(), 0)
    assert store.commit(NAME, State(seq=0), None, 0) == 1
    for stale in (0, 5):
        with pytest.raises(Conflict):
            store.commit(NAME, State(seq=9), None, stale)
    store.propose(NAME, Spec(1, revision("v1"), plan()))
    with pytest.raises(Conflict):
        store.propose(NAME, Spec(1, revision("v2"), plan()))
    with pytest.raises(Conflict):
        store.propose(NAME, Spec(3, revision("v2"), plan()))
    assert store.state(NAME)[0].seq == 0


def test_a_decision_and_its_state_are_written_together(store):
    world = World()
    world.deploy()
    (first, second) = world.store.log
    store.commit(NAME, State(seq=1), first, 0)
    with pytest.raises(Conflict):
        store.commit(NAME, State(seq=2), first, 1)
    assert store.state(NAME) == (State(seq=1), 1), "the decision's number was taken: no new state"
    store.commit(NAME, State(seq=2), second, 1)


# outcomes -----------------------------------------------------------------------------------------

HOUR = timedelta(hours=1)


def write(objects, prefix: str, rows: list[dict[str, object]], name: str = "a") -> None:
    buffer = io.BytesIO()
    pl.DataFrame(rows).write_parquet(buffer)
    objects.put(f"{prefix}/{name}.parquet", buffer.getvalue())


def prediction(number: int, name: str, at: datetime, score: float) -> dict[str, object]:
    row = {"request_id": f"q{number}", "row_id": f"r{number}", "at": at}
    return {**row, "revision": name, "score": score, "model": NAME, "extra": 1}


def watched(since: datetime = START) -> State:
    attempt = Attempt(
        number=1,
        canary=revision("v2"),
        plan=plan(maturation_seconds=3600.0),
        generation=1,
        started_at=START,
        evidence=Evidence(spans=(Span(3, 5000, since),)),
    )
    return State(phase="progressing", stable=revision("v1"), attempt=attempt)


@pytest.fixture
def objects(tmp_path):
    return open_objects(str(tmp_path / "objects"))


def fill(objects, *, hours: int = 6, scores=lambda n: 0.9 if n % 2 else 0.1) -> None:
    """Every 10 minutes one request per arm; each second row is an event."""
    predictions, labels = [], []
    for n in range(hours * 6):
        at = START + timedelta(minutes=10 * n + 1)
        for arm in ("v1", "v2"):
            number = 2 * n + (arm == "v2")
            predictions.append(prediction(number, arm, at, scores(n)))
            labels.append(
                {"row_id": f"r{number}", "label": n % 2, "label_at": at + timedelta(minutes=30)}
            )
    write(objects, f"predictions/{NAME}/dt=2013-04-01", predictions)
    frame = pl.DataFrame(labels).with_columns(pl.col("label").cast(pl.Int8)).to_dicts()
    write(objects, f"labels/{NAME}/dt=2013-04-01", frame)


def test_only_whole_matured_hours_count_and_each_once(objects):
    fill(objects)
    outcomes, state = Outcomes(objects), watched()
    cohorts, until = outcomes.matured(state, START + 3 * HOUR + timedelta(minutes=20))
    assert until == START + 2 * HOUR
    assert cohorts[0].requests == cohorts[0].labelled == (12, 12)
    assert cohorts[0].epoch == 3
    evidence = replace(state.attempt.evidence, matured_until=until)
    later = replace(state, attempt=replace(state.attempt, evidence=evidence))
    assert outcomes.matured(later, START + 3 * HOUR + timedelta(minutes=40)) == ((), None)
    cohorts, until = outcomes.matured(later, START + 4 * HOUR)
    assert (cohorts[0].requests, until) == ((6, 6), START + 3 * HOUR)


def test_a_log_or_label_feed_that_lags_delays_evidence(objects):
    fill(objects, hours=2)
    cohorts, until = Outcomes(objects).matured(watched(), START + 10 * HOUR)
    assert until == START + HOUR, "the log ends within the second hour"
    assert cohorts[0].requests == (6, 6)


def test_late_labels_and_doubled_requests_do_not_count(objects):
    fill(objects)
    early = [prediction(1000 + n, "v2", START + timedelta(minutes=5), 0.9) for n in range(3)]
    write(objects, f"predictions/{NAME}/dt=2013-04-01", early + early[:1], "b")
    late = START + timedelta(hours=3)
    labels = [{"row_id": f"r{1000 + n}", "label": 0, "label_at": late} for n in range(3)]
    frame = pl.DataFrame(labels).with_columns(pl.col("label").cast(pl.Int8)).to_dicts()
    write(objects, f"labels/{NAME}/dt=2013-04-01", frame, "b")
    (cohort,), _ = Outcomes(objects).matured(watched(), START + 2 * HOUR)
    assert cohort.requests == (6, 9)
    assert cohort.labelled == (6, 6)


def test_requests_that_a_rule_alone_keeps_in_the_log_are_no_evidence(objects):
    fill(objects)
    at = START + timedelta(minutes=5)
    rare = [prediction(1000 + n, "v1", at, 0.9) | {"sampled": n == 0} for n in range(4)]
    write(objects, f"predictions/{NAME}/dt=2013-04-01", rare, "b")
    (cohort,), _ = Outcomes(objects).matured(watched(), START + 2 * HOUR)
    assert cohort.requests == (7, 6), "the sampled one of four, beside files without the mark"


def test_wrong_costs_a_blind_model_the_same_whichever_way_it_leans(objects, tmp_path):
    missed, alarm = costs(0.25)
    assert (missed, round(alarm, 4)) == (1.0, 0.3333)
    assert costs(0.75)[0] == pytest.approx(1 / 3)
    losses = []
    for index, score in enumerate((0.1, 0.9)):
        place = open_objects(str(tmp_path / str(index)))
        fill(place, scores=lambda _, s=score: s)
        (cohort,), _ = Outcomes(place).matured(watched(), START + 3 * HOUR)
        losses.append(cohort.losses)
    assert losses == [((20, 6, 6),), ((7, 6, 6),)], "events missed, or false alarms at 7/20"


def test_requests_at_the_edge_of_a_weight_belong_to_neither(objects):
    fill(objects)
    since = START + timedelta(minutes=31)
    (cohort,), _ = Outcomes(objects).matured(watched(since), START + 2 * HOUR)
    assert cohort.requests == (2, 2), "31 min is the edge itself; 41 and 51 min count"


def test_two_revisions_of_one_bundle_have_no_outcomes(objects):
    fill(objects)
    state = watched()
    image = replace(revision("v1"), revision="0123456789", runtime={"image": "another"})
    same = replace(state, attempt=replace(state.attempt, canary=image))
    assert Outcomes(objects).matured(same, START + 3 * HOUR) == ((), None)


def test_an_unreadable_file_is_missing_evidence(objects):
    fill(objects)
    objects.put(f"predictions/{NAME}/dt=2013-04-01/zz.parquet", b"half a file")
    cohorts, _ = Outcomes(objects).matured(watched(), START + 2 * HOUR)
    assert cohorts[0].requests == (6, 6)


# metrics ------------------------------------------------------------------------------------------

LABELS = 'model="m",version="2",revision="abc"'
EXPOSITION = f"""\
# TYPE tidemill_requests_total counter
tidemill_requests_total{{{LABELS},outcome="ok"}} 90
tidemill_requests_total{{{LABELS},outcome="error"}} 5
tidemill_requests_total{{{LABELS},outcome="overloaded"}} 2
tidemill_requests_total{{{LABELS},outcome="rejected"}} 3
tidemill_requests_total{{model="m",version="1",revision="old",outcome="error"}} 1000
tidemill_slow_total{{{LABELS}}} 5
tidemill_invalid_total{{{LABELS}}} 1
tidemill_start_time_seconds{{{LABELS}}} 1.7e9
# TYPE tidemill_score histogram
tidemill_score_bucket{{{LABELS},le="0.12"}} 20
tidemill_score_bucket{{{LABELS},le="0.28"}} 60
tidemill_score_bucket{{{LABELS},le="+Inf"}} 89
tidemill_score_count{{{LABELS}}} 89
tidemill_score_sum{{{LABELS}}} 20.5
"""


def test_counters_are_read_under_their_own_revision_only():
    counters = parse(EXPOSITION, "abc")
    assert counters.requests == 100
    assert counters.events == {"error": 7, "slow": 5, "invalid": 1}
    assert counters.started == 1.7e9


def test_scores_are_counted_in_the_tails_of_stable():
    events = parse(EXPOSITION, "abc", (0.12, 0.28)).events
    assert (events["low"], events["high"]) == (20, 29)
    with pytest.raises(ValueError, match=re.escape("lacks the bin 0.13")):
        parse(EXPOSITION, "abc", (0.13, 0.28))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (EXPOSITION.replace('revision="abc"', 'revision="xyz"'), "lack"),
        ("\n".join(line for line in EXPOSITION.splitlines() if "slow" not in line), "slow_total"),
        (EXPOSITION.replace("} 5", "} NaN"), "nan"),
        ("", "lack"),
    ],
)
def test_what_is_no_number_of_this_revision_is_missing(text, why):
    with pytest.raises(ValueError, match=why):
        parse(text, "abc")


# servers ------------------------------------------------------------------------------------------


class FakeProcesses:
    def __init__(self) -> None:
        self.specs = {}
        self.states = {}
        self.exit_code = None

    def declare(self, spec) -> None:
        self.specs[spec.name] = spec

    def withdraw(self, name: str) -> None:
        self.specs.pop(name, None)

    def statuses(self):
        names = {**dict.fromkeys(self.specs, "ready"), **self.states}
        return {
            n: ProcessStatus(n, s, 1, 0, "", "why", 0, self.exit_code) for n, s in names.items()
        }


def test_a_server_per_revision_on_a_port_of_its_own():
    processes = FakeProcesses()
    servers = ProcessWorkloads(processes, lambda r, p, s: (r.revision, str(p), str(s)), (0, 0))
    servers._ports = (18100, 18103)
    for name in ("v1", "v1", "v2"):
        servers.ensure(revision(name))
    assert sorted(processes.specs) == ["model-v1-18100-18101", "model-v2-18102-18103"]
    assert processes.specs["model-v2-18102-18103"].argv == ("v2", "18102", "18103")
    with pytest.raises(Unavailable, match="18100-18103"):
        servers.ensure(revision("v3"))
    servers.remove("v1")
    processes.states = {"model-v1-18100-18101": "stopping", "gateway": "ready"}
    assert set(servers.observe()) == {"v2"}
    assert servers.observe()["v2"].address == "127.0.0.1:18102"
    assert list(servers.observe()["v2"].shadows.values()) == ["127.0.0.1:18103"]


@pytest.mark.parametrize(
    ("exit_code", "refused"), [(None, False), (1, False), (-9, False), (3, True)]
)
def test_a_server_that_a_rule_keeps_from_starting_refused(exit_code, refused):
    processes = FakeProcesses()
    processes.states, processes.exit_code = {"model-v1-18100-18101": "backoff"}, exit_code
    servers = ProcessWorkloads(processes, lambda r, p, s: (r.revision, str(p), str(s)), (0, 0))
    seen = servers.observe()["v1"]
    assert (seen.refused, seen.detail) == (refused, "why")


def test_a_server_that_an_older_release_declared_takes_no_shadows():
    processes = FakeProcesses()
    processes.states = {"model-v1-18100": "ready"}
    servers = ProcessWorkloads(processes, lambda r, p, s: (r.revision, str(p), str(s)), (0, 0))
    servers.ensure(revision("v1"))
    assert processes.specs == {}
    assert servers.observe()["v1"].address == "127.0.0.1:18100"
    assert servers.observe()["v1"].shadows == {}


# orders -------------------------------------------------------------------------------------------


def test_orders_become_the_specification():
    world = World()
    orders = Orders(NAME, world.store, world.store)
    with pytest.raises(NotFound, match="no rollout"):
        orders.pause()
    orders.start(revision("v1"))
    world.run(3)
    with pytest.raises(Refused, match="nothing to abort"):
        orders.command("abort")
    orders.start(revision("v2"))
    world.run_until("progressing")
    orders.pause()
    world.run(2)
    assert world.phase == "paused"
    orders.resume()
    world.run(2)
    assert world.phase == "progressing"
    orders.command("abort")
    world.run(4)
    with pytest.raises(Refused, match="abort was asked for"):
        orders.start(revision("v2"))
    orders.command("retry")
    world.run_until("progressing")
    assert world.state.attempts == 2


def test_an_order_that_meets_another_is_repeated():
    world = World()
    world.want("v1")
    propose, beaten = world.store.propose, []

    def slow(name, spec, **options):
        if not beaten:
            beaten.append(1)
            world.change(paused=True)
        propose(name, spec, **options)

    world.store.propose = slow
    Orders(NAME, world.store, world.store).start(revision("v2"))
    spec = world.store.spec(NAME)
    assert (spec.generation, spec.desired.revision, spec.paused) == (3, "v2", True)


# releases -----------------------------------------------------------------------------------------


class Stopped:
    def now(self) -> datetime:
        return datetime(2013, 4, 1, tzinfo=UTC)


def test_the_champion_follows_the_traffic_and_the_ledger_says_why(tmp_path):
    registry, ledger = MemoryRegistry(tmp_path), MemoryLedger()
    releases = RegistryReleases(registry, ledger, Stopped())
    v1, v2 = revision("v1"), revision("v2")
    first = Release("promoted", v1, v1, "flight-delay-0", "first deployment")
    lost = Release("rolled_back", v1, v2, "flight-delay-1", "harm in wrong")
    won = Release("promoted", v2, v2, "flight-delay-2", "all gates passed")
    back = Release("rolled_back", v1, v2, "flight-delay-2", "abort was asked for")
    champions = []
    for release in (first, first, lost, lost, won, back, back):
        releases.record(release)
        champions.append(registry.aliases(NAME)["champion"])
    assert champions == ["1", "1", "1", "1", "2", "1", "1"]
    told = [(e.action, e.version, e.why) for e in ledger.entries() if e.action != "moving"]
    assert told == [
        ("moved", "1", "promoted: first deployment"),
        ("rejected", "2", "rolled back: harm in wrong"),
        ("moved", "2", "promoted: all gates passed"),
        ("moved", "1", "rolled back: abort was asked for"),
    ]


# plan ---------------------------------------------------------------------------------------------


def test_the_plan_is_the_settings(tmp_path):
    from tidemill.settings import load

    made = make_plan(load(None, assignments=["rollout.on_harm=freeze"]).settings)
    assert [s.weight for s in made.steps] == [500, 2500, 5000]
    assert made.policy.on_harm == "freeze"
    assert sum(m.alpha for m in made.metrics) == pytest.approx(0.01)
    wrong = made.metrics[-1]
    assert wrong.delayed
    assert events_to_pass(wrong, made.tolerance, 5000) < events_to_pass(wrong, made.tolerance, 500)
    assert events_to_harm(wrong, 5000, 2.0) < events_to_harm(wrong, 5000, 1.4)
