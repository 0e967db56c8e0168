"""What servers and controller export, by the code that does it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import ClassVar

from prometheus_client import CollectorRegistry

from tidemill.controller.gauges import Gauges
from tidemill.controller.standing import StandingGauges
from tidemill.domain.incidents import Incident
from tidemill.domain.verdicts import WindowVerdict
from tidemill.ports.monitoring import Standing
from tidemill.server.metrics import Counters, Metrics
from tidemill.testing.monitoring import MemoryStandings

__all__ = ["exported"]

DAY = ("2013-05-01T00:00:00+00:00", "2013-05-02T00:00:00+00:00")
VERDICT = WindowVerdict(
    *("churn", "rev", *DAY, 900, 900, "judged"), psi={"temp": 0.3}, performance={"auc_z": -3.4}
)
INCIDENT = Incident(
    *("inc-1", "churn", "rev", "skew", (), "open", DAY[1], *DAY, DAY[1]), (), (), retraining=False
)
STANDING = Standing(
    {"churn": (VERDICT,)},
    (INCIDENT,),
    {"churn": {"pending": 1}},
    {"churn": {"ESCALATE": datetime(2013, 5, 2, tzinfo=UTC)}},
)


class Served:
    """One model version, and its counters."""

    counters = Counters(
        ("churn", "1", "abcdef0123"),
        slow_seconds=0.25,
        views=("plane",),
        logged=lambda: (0, 0),
        held=lambda: 0,
        trained=0.0,
    )


class Loaded(list[Served]):
    """The versions that a server has loaded."""

    stood_in: ClassVar = Counter({"churn": 1})
    rows_lost: ClassVar = Counter({"churn": 1})


def exported() -> dict[str, set[str]]:
    """Return the labels of every series that servers and controller export, by its name."""
    registry = CollectorRegistry()
    gauges = Gauges(
        registry, lambda: Counter(["stable"]), lambda: Counter(["Harm"]), lambda: 0, lambda: True
    )
    gauges.looks.labels("done").observe(1)
    gauges.decisions.labels("promote").inc()
    registry.register(StandingGauges(MemoryStandings(STANDING)))
    of_the_controller = [sample for family in registry.collect() for sample in family.samples]
    of_a_server = [s for family in Metrics(Loaded([Served()])).families() for s in family.samples]
    found: dict[str, set[str]] = {}
    for sample in (*of_the_controller, *of_a_server):
        found.setdefault(sample.name, set()).update(sample.labels)
    return found
