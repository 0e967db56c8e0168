"""What each process of a race does; light, because sixteen of them import it."""

from __future__ import annotations

from datetime import UTC, datetime

from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.incidents import StoredIncidents
from tidemill.adapters.store.requests import StoredRequests
from tidemill.settings.monitoring import RetrainingSettings
from tidemill.steps.retrain import Governor
from tidemill.testing.objects import MemoryObjects

NOW = datetime(2013, 4, 20, tzinfo=UTC)


class Noon:
    """A clock that does not move."""

    def now(self) -> datetime:
        return NOW


def ask(url: str, number: int, key: str) -> str:
    """Ask for a retraining; return the state of the request."""
    engine = open_store(url)
    requests = StoredRequests(engine)
    governor = Governor(
        "m",
        requests=requests,
        decisions=requests,
        incidents=StoredIncidents(engine),
        objects=MemoryObjects(),
        champion=lambda: None,
        rollouts=tuple,
        clock=Noon(),
        settings=RetrainingSettings(),
    )
    try:
        return governor.request("ci", actor=f"process {number}", reason="race", key=key).state
    finally:
        engine.dispose()
