"""The work queue, the workers around it, and what their probes say."""

from __future__ import annotations

from collections import Counter
from threading import Event, Lock, Thread

import httpx
import pytest
from prometheus_client import CollectorRegistry

from tidemill.controller.fleet import MAX_RETRY, STUCK_SECONDS, Fleet
from tidemill.controller.gauges import Gauges
from tidemill.controller.listening import HttpServer
from tidemill.controller.probes import Probes
from tidemill.controller.queue import WorkQueue
from tidemill.errors import Conflict, Unavailable


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def queue(time) -> WorkQueue:
    return WorkQueue(time)


def test_keys_come_in_the_order_in_which_they_are_due(queue, time):
    queue.add("late", 2)
    queue.add("soon", 1)
    queue.add("now")
    time.now = 5
    assert [queue.take() for _ in range(3)] == ["now", "soon", "late"]


def test_a_key_that_is_added_twice_is_taken_once_at_the_earlier_time(queue, time):
    queue.add("a", 100)
    queue.add("a", 1)
    queue.add("a", 50)
    time.now = 1
    assert queue.take() == "a"
    queue.done("a")
    assert len(queue) == 0


def test_a_key_in_work_is_given_to_nobody_else_and_is_due_again_afterwards(queue):
    queue.add("a")
    assert queue.take() == "a"
    queue.add("a")
    queue.add("b")
    assert queue.take() == "b", "a is in work"
    queue.done("a")
    assert queue.take() == "a"


def test_a_closed_queue_lets_its_workers_go(queue):
    taken: list[str | None] = []
    thread = Thread(target=lambda: taken.append(queue.take()))
    thread.start()
    queue.close()
    thread.join(5)
    assert taken == [None]


def test_overdue_is_what_nobody_takes_and_what_never_ends(queue, time):
    queue.add("a", 10)
    time.now = 5
    assert queue.overdue() == 0
    time.now = 40
    assert queue.overdue() == 30
    assert queue.take() == "a"
    assert queue.overdue() == 0
    time.now = 100
    assert queue.overdue() == 60
    queue.done("a")
    assert queue.overdue() == 0


def test_one_who_waited_to_be_elected_is_not_overdue(queue, time):
    queue.add("a")
    queue.add("b")
    time.now = 3600
    queue.take()
    assert queue.overdue() == 0


class Looks:
    """Counts looks, and how many of them are at the same key at once."""

    def __init__(self, until: int) -> None:
        self.lock = Lock()
        self.now: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.most = 0
        self.until = until
        self.enough = Event()

    def __call__(self, key: str) -> float | None:
        with self.lock:
            self.now[key] += 1
            self.most = max(self.most, self.now[key])
        with self.lock:
            self.now[key] -= 1
            self.done[key] += 1
            if self.done.total() >= self.until:
                self.enough.set()
        return 0.0


def run(fleet: Fleet, enough: Event, workers: int = 4) -> None:
    stop = Event()
    thread = Thread(target=fleet.run, args=(stop, workers))
    thread.start()
    assert enough.wait(10)
    stop.set()
    thread.join(10)
    assert not thread.is_alive()


def test_many_workers_look_at_a_key_one_at_a_time():
    queue, looks = WorkQueue(), Looks(until=2000)
    for key in "abc":
        queue.add(key)
    run(Fleet(looks, queue), looks.enough)
    assert looks.most == 1
    assert set(looks.done) == set("abc")


def test_what_breaks_is_tried_again_later_and_holds_up_nobody():
    queue, enough = WorkQueue(), Event()
    ended: Counter[str] = Counter()

    def look(key: str) -> float | None:
        if key == "broken":
            raise ZeroDivisionError
        if key == "failed":
            raise Unavailable("no answer")
        return None

    def observed(_: float, result: str) -> None:
        ended[result] += 1
        if len(ended) == 3:
            enough.set()

    for key in ("broken", "failed", "fine"):
        queue.add(key)
    fleet = Fleet(look, queue, observed)
    run(fleet, enough)
    assert ended["done"] == 1
    assert ended.keys() == {"broken", "failed", "done"}
    waits = [fleet._later("failed") for _ in range(12)]
    assert waits[-1] <= MAX_RETRY
    assert waits[-1] > waits[0]


def test_a_conflict_is_looked_at_again_later_each_time_unless_something_changes(queue, time):
    ended: list[str] = []

    def look(_: str) -> float | None:
        if len(ended) < 3:
            raise Conflict("rollout a was changed since")
        return None

    fleet = Fleet(look, queue, lambda _, result: ended.append(result))
    waits = [fleet._once("a") for _ in range(3)]
    assert ended == ["conflict"] * 3
    for wait, longest in zip(waits, (1, 2, 4), strict=True):
        assert longest / 2 <= wait <= longest, "doubled, and spread"
    queue.add("a", waits[2])
    assert queue._next() > 0, "not at once"
    queue.add("a")  # as its watch does
    assert queue.take() == "a"
    assert fleet._once("a") is None


def test_a_worker_that_hangs_is_a_problem(queue, time):
    fleet = Fleet(lambda _: None, queue)
    queue.add("a")
    queue.take()
    time.now = STUCK_SECONDS + 1
    assert "waits since 121 s" in fleet.problem()


def test_probes_and_metrics_are_served():
    said = {"healthy": "", "ready": "not listed yet"}
    registry = CollectorRegistry()
    phases, stalled = Counter(stable=2), Counter(Harm=1)
    gauges = Gauges(registry, lambda: phases, lambda: stalled, lambda: 3, lambda: True)
    gauges.decisions.labels("rollback").inc()
    gauges.looks.labels("done").observe(0.02)
    probes = Probes(lambda: said["healthy"], lambda: said["ready"], registry)
    with HttpServer(("127.0.0.1", 0), probes.respond, "probes") as server:
        page = f"http://127.0.0.1:{server.port}"
        with httpx.Client(base_url=page, trust_env=False) as http:
            assert (http.get("/healthz").status_code, http.get("/healthz").text) == (200, "ok")
            answer = http.get("/readyz")
            assert (answer.status_code, answer.text) == (503, "not listed yet")
            said["healthy"] = "nobody watches pods any more"
            assert http.get("/healthz").status_code == 503
            metrics = http.get("/metrics").text
            assert http.get("/v1/judge").status_code == http.post("/metrics").status_code == 404
    assert 'tidemill_rollouts{phase="stable"} 2.0' in metrics
    assert 'tidemill_rollouts_stalled{reason="Harm"} 1.0' in metrics
    assert "tidemill_rollout_queue 3.0" in metrics
    assert 'tidemill_rollout_decisions_total{action="rollback"} 1.0' in metrics
