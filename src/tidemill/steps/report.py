"""report: the evidence of a window, drawn next to the reference sample of its bundle."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from tidemill.domain.incidents import Incident
from tidemill.errors import Conflict, DataError, NotFound
from tidemill.ports.monitoring import Bundles, Incidents, Renderer, Windows
from tidemill.ports.objects import ObjectStore
from tidemill.settings.monitoring import MonitoringSettings
from tidemill.steps.prediction_log import read_predictions

__all__ = ["Reporter"]

RACES = 5
"""How often an incident is written again because somebody else was faster."""


@dataclass(frozen=True, slots=True)
class Reporter:
    """Draws reports of one model and keeps them with the objects."""

    model: str
    objects: ObjectStore
    bundles: Bundles
    incidents: Incidents
    windows: Windows
    renderer: Renderer
    settings: MonitoringSettings

    def of_incident(self, incident: str) -> Incident:
        """Draw the last window that raised an incident, and link the report from it.

        A report that cannot be drawn leaves its reason in the incident: an alert never depends on
        it. Raises NotFound for an unknown incident.
        """
        known = self.incidents.get(incident)
        end = datetime.fromisoformat(known.last_seen)
        title = f"{known.id}: {known.cause} in {self.model} {known.revision}\n" + "\n".join(
            known.numbers
        )
        try:
            url = self._draw(known.revision, end, title, known.id)
        except (DataError, NotFound) as error:
            url = f"none: {error.message}"
        for _ in range(RACES):
            with suppress(Conflict):  # the monitor wrote it meanwhile
                return self.incidents.save(replace(self.incidents.get(incident), report=url))
        raise Conflict(
            f"incident {incident} changes faster than its report can be linked",
            hint=f"draw it again: tidemill monitor report {incident}",
        )

    def of_last_window(self) -> str:
        """Draw the newest judged window and return the report's URL; raises NotFound, DataError."""
        judged = [v for v in self.windows.last(self.model, 30) if v.status == "judged"]
        if not judged:
            raise NotFound(
                f"no window of {self.model} was judged yet",
                hint="judge those that are due: tidemill monitor run",
            )
        last = judged[-1]
        end = datetime.fromisoformat(last.end)
        return self._draw(last.revision, end, f"{self.model} until {last.end}", f"{end:%Y%m%dT%H}")

    def _draw(self, revision: str, end: datetime, title: str, name: str) -> str:
        start = end - timedelta(hours=self.settings.window_hours)
        log = read_predictions(self.objects, self.model, start, end).frame
        if log.is_empty():
            raise DataError(f"no predictions were logged from {start} to {end}")
        reference = self.bundles.folder(revision) / "reference.parquet"
        if not reference.is_file():
            raise DataError(
                f"the bundle of revision {revision} holds no reference.parquet",
                hint="train and release the model again: the sample is part of its bundle",
            )
        rows = log.filter(log["revision"] == revision) if "revision" in log.columns else log
        with tempfile.TemporaryDirectory() as folder:
            current = Path(folder) / "current.parquet"
            rows.sample(min(rows.height, self.settings.report_rows), seed=0).write_parquet(current)
            page = self.renderer.render(reference, current, Path(folder) / "report.html", title)
            return self.objects.put(f"reports/{self.model}/{name}.html", page)
