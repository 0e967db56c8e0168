"""What stands, as metrics: true at each scrape, or said to be unknown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event
from threading import enumerate as enumerate_threads
from typing import get_args

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, create_engine, update
from sqlalchemy.exc import TimeoutError as PoolTimeout
from structlog.testing import capture_logs

from tidemill.adapters.store.incidents import StoredIncidents
from tidemill.adapters.store.requests import StoredRequests
from tidemill.adapters.store.standings import StoredStandings
from tidemill.adapters.store.tables import incident as incident_table
from tidemill.adapters.store.windows import StoredWindows
from tidemill.controller.listening import HttpServer
from tidemill.controller.probes import Probes
from tidemill.controller.standing import StandingGauges
from tidemill.domain.governor import Decision, Request, RequestState
from tidemill.domain.incidents import Incident, acknowledge, resolve
from tidemill.domain.verdicts import TIERS, WindowVerdict
from tidemill.errors import PermanentError, Unavailable
from tidemill.ports.monitoring import Standing
from tidemill.testing.monitoring import MemoryStandings

NOW = datetime(2013, 5, 4, 1, tzinfo=UTC)
MARK = "tidemill_"
Series = dict[tuple[str, ...], float]


def day(number: int, **changes: object) -> WindowVerdict:
    """Return the verdict on a day of May 2013."""
    start, end = (datetime(2013, 5, n, tzinfo=UTC).isoformat() for n in (number, number + 1))
    return replace(WindowVerdict("churn", "rev", start, end, 900, 900, "judged"), **changes)


def incident(number: int, **changes: object) -> Incident:
    seen = day(number)
    raised = Incident(
        *(f"inc-{number}", "churn", "rev", "skew", (), "open"),
        *(NOW.isoformat(), seen.start, seen.end, seen.end, (), (), False),
    )
    return replace(raised, **changes)


def request(number: int, **changes: object) -> Request:
    wish = Request(f"req-{number}", "churn", "rev", "manual", "me", "so", NOW.isoformat(), "c")
    return replace(wish, **changes)


def parse(text: str) -> Callable[..., Series]:
    """Return what finds a metric's samples by the values of labels."""
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]

    def find(name: str, *labels: str) -> Series:
        return {
            tuple(s.labels[label] for label in labels): s.value
            for s in samples if s.name == MARK + name
        }  # fmt: skip

    find.names = {s.name for s in samples}  # type: ignore[attr-defined]
    return find


def scrape(*gauges: StandingGauges) -> Callable[..., Series]:
    """Ask the real server once, as Prometheus does."""
    registry = CollectorRegistry()
    for one in gauges:
        registry.register(one)
    probes = Probes(lambda: "", lambda: "", registry)
    with HttpServer(("127.0.0.1", 0), probes.respond, "probes") as server:
        answer = httpx.get(f"http://127.0.0.1:{server.port}/metrics", trust_env=False)
    assert answer.status_code == 200
    return parse(answer.text)


def told(**standing: object) -> Callable[..., Series]:
    nothing = Standing({}, (), {}, {})
    return scrape(StandingGauges(MemoryStandings(replace(nothing, **standing))))


def test_a_window_tells_its_end_its_length_and_how_it_ended():
    found = told(windows={"churn": (day(2), day(3, status="not_evaluable"))})
    assert found("monitor_last_window_timestamp_seconds", "model") == {
        ("churn",): datetime(2013, 5, 4, tzinfo=UTC).timestamp()
    }
    assert found("monitor_window_length_seconds") == {(): 86_400}
    assert found("monitor_last_window_rows") == {(): 900}
    assert found("monitor_last_window_status", "status") == {
        ("judged",): 0, ("extended",): 0, ("not_evaluable",): 1
    }  # fmt: skip


def test_the_first_window_is_as_long_as_it_is_and_an_extended_one_only_adds():
    assert told(windows={"churn": (day(2),)})("monitor_window_length_seconds") == {(): 86_400}
    longer = day(3, start=day(2).start)
    found = told(windows={"churn": (day(2, status="extended"), longer)})
    assert found("monitor_window_length_seconds") == {(): 86_400}


def test_a_tier_that_was_not_judged_is_not_silent_but_absent():
    unknown = {"T3": "no source", "T4": "3 of 7 days"}
    verdict = day(3, fired=("T1",), unevaluated=unknown)
    found = told(windows={"churn": (verdict,)})
    judged = found("monitor_tier_judged", "model", "tier")
    assert judged == {("churn", tier): int(tier not in unknown) for tier in TIERS}
    assert found("monitor_tier_fired", "tier") == {
        ("T0",): 0, ("T1",): 1, ("T2",): 0, ("T5",): 0
    }  # fmt: skip


def test_the_volume_of_an_unjudged_window_still_fires():
    verdict = day(3, status="extended", fired=("T0",), unevaluated=dict.fromkeys(TIERS, "few"))
    assert told(windows={"churn": (verdict,)})("monitor_tier_fired", "tier") == {("T0",): 1}


def test_numbers_of_drift_and_performance():
    numbers = {"labels": 5000.0, "auc_gap": -0.02, "auc_z": -3.4, "rate_z": 0.5}
    verdict = day(3, psi={"temp": 0.31, "score": 0.02}, performance=numbers)
    found = told(windows={"churn": (verdict,), "late": (day(3, model="late"),)})
    assert found("monitor_psi", "model", "column") == {
        ("churn", "temp"): 0.31, ("churn", "score"): 0.02
    }  # fmt: skip
    assert found("monitor_performance_z", "model", "metric") == {
        ("churn", "auc"): -3.4, ("churn", "rate"): 0.5
    }  # fmt: skip


def test_requests_and_the_last_answer_of_each_kind():
    found = told(
        requests={"churn": {"escalated": 2, "pending": 1}},
        decisions={"churn": {"RUN": NOW, "ESCALATE": NOW.replace(hour=2)}},
    )
    states = found("retrain_requests", "state")
    assert states == {
        (state,): {"escalated": 2, "pending": 1}.get(state, 0) for state in get_args(RequestState)
    }
    assert found("retrain_last_decision_timestamp_seconds", "verb") == {
        ("RUN",): NOW.timestamp(), ("ESCALATE",): NOW.timestamp() + 3600
    }  # fmt: skip


def broken() -> None:
    raise Unavailable("the store does not answer")


def unknown() -> None:
    raise PermanentError("a verdict of a newer tidemill")


@pytest.mark.parametrize("fault", [broken, unknown])
def test_what_cannot_be_read_is_said_and_what_was_read_before_is_forgotten(fault):
    source = MemoryStandings(Standing({"churn": (day(3),)}, (incident(3),), {}, {}))
    gauges = StandingGauges(source)
    assert scrape(gauges)("monitor_store_up") == {(): 1}
    source.before = fault
    found = scrape(gauges)
    assert found.names == {"tidemill_monitor_store_up"}
    assert found("monitor_store_up") == {(): 0}
    source.before = lambda: None
    assert scrape(gauges)("incident_first_seen_timestamp_seconds")
    assert source.looks == 3, "once for each scrape"


def crowded() -> None:
    raise PoolTimeout("QueuePool limit of size 5 overflow 10 reached")


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (MemoryStandings(before=crowded), "TimeoutError: QueuePool limit of size 5"),
        (MemoryStandings(Standing({"churn": (day(3, end="noon"),)}, (), {}, {})), "ValueError"),
    ],
    ids=["no error of the database's driver", "an instant that is none"],
)
def test_what_nobody_foresaw_is_unknown_too_and_the_log_names_it(source, problem):
    with capture_logs() as logs:
        found = scrape(StandingGauges(source))
    assert found.names == {"tidemill_monitor_store_up"}
    assert found("monitor_store_up") == {(): 0}
    (said,) = logs
    assert said["event"] == "what stands is unknown"
    assert said["problem"].startswith(problem)


def test_a_store_that_hangs_holds_no_scrape_up_and_is_not_asked_again():
    free = Event()
    source = MemoryStandings(before=lambda: (free.wait(60), None)[1])
    gauges = StandingGauges(source, patience=0.5)
    assert scrape(gauges)("monitor_store_up") == scrape(gauges)("monitor_store_up") == {(): 0}
    assert source.looks == 1
    (hangs,) = (thread for thread in enumerate_threads() if thread.name == "standing")
    free.set()
    hangs.join()
    assert scrape(gauges)("monitor_store_up") == {(): 1}


def fill(store: Engine) -> None:
    """Write what two models' monitors and governors would."""
    windows, incidents, requests = (
        kept(store) for kept in (StoredWindows, StoredIncidents, StoredRequests)
    )
    for number in range(1, 6):
        windows.save(day(number))
    windows.save(day(2, model="late"))
    incidents.save(incident(2))
    drift = incidents.save(incident(3, cause="concept_drift", revision="old"))
    incidents.save(acknowledge(drift, "me", "seen"))
    over = incidents.save(incident(4, cause="code_bug"))
    incidents.save(resolve(over, "me", "deployed", NOW))
    run, give_up = (
        Decision(verb, "all", "so", at=NOW.replace(hour=hour).isoformat())
        for verb, hour in (("RUN", 2), ("ESCALATE", 4))
    )
    requests.save(request(1, state="succeeded"), run)
    requests.save(request(2, state="succeeded"), replace(run, at=NOW.isoformat()))
    requests.save(request(3, state="escalated"), give_up)
    requests.save(request(4, model="late"))


def test_the_store_tells_what_stands_of_every_model(store):
    fill(store)
    standing = StoredStandings(store).read()
    assert standing.windows == {"churn": (day(4), day(5)), "late": (day(2, model="late"),)}
    assert {(i.id, i.state) for i in standing.incidents} == {
        ("inc-2", "open"), ("inc-3", "acknowledged")
    }  # fmt: skip
    assert standing.requests == {"churn": {"succeeded": 2, "escalated": 1}, "late": {"waiting": 1}}
    assert standing.decisions == {
        "churn": {"RUN": NOW.replace(hour=2), "ESCALATE": NOW.replace(hour=4)}
    }
    found = scrape(StandingGauges(StoredStandings(store)))
    first = datetime(2013, 5, 2, tzinfo=UTC).timestamp()
    labels = ("model", "revision", "cause", "incident", "state")
    assert found("incident_first_seen_timestamp_seconds", *labels) == {
        ("churn", "rev", "skew", "inc-2", "open"): first,
        ("churn", "old", "concept_drift", "inc-3", "acknowledged"): first + 86_400,
    }


def test_an_incident_that_is_over_is_gone_at_the_next_scrape(store):
    incidents = StoredIncidents(store)
    stands = incidents.save(incident(2))
    gauges = StandingGauges(StoredStandings(store))
    assert scrape(gauges)("incident_first_seen_timestamp_seconds", "incident").keys() == {
        ("inc-2",)
    }
    incidents.save(resolve(stands, "me", "mended", NOW))
    assert scrape(gauges)("incident_first_seen_timestamp_seconds") == {}
    assert scrape(gauges)("monitor_store_up") == {(): 1}


def test_what_a_newer_tidemill_wrote_is_not_left_out(store):
    StoredIncidents(store).save(incident(2))
    with store.begin() as connection:
        body = '{"id": "inc-2", "cause": "gremlins"}'
        connection.execute(update(incident_table).values(body=body))
    with pytest.raises(PermanentError, match="does not know"):
        StoredStandings(store).read()
    assert scrape(StandingGauges(StoredStandings(store)))("monitor_store_up") == {(): 0}


def test_a_database_that_went_away_is_said():
    away = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    assert scrape(StandingGauges(StoredStandings(away)))("monitor_store_up") == {(): 0}
