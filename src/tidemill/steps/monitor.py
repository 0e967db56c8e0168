"""monitor: judge every window that is due, open and close incidents, ask for retraining."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import polars as pl

from tidemill.domain.diagnosis import CAUSES, FAULTS
from tidemill.domain.incidents import Incident, observe
from tidemill.domain.verdicts import Cause, Status, WindowVerdict
from tidemill.errors import Conflict, IntegrityError, NotFound
from tidemill.ports.clock import Clock
from tidemill.ports.monitoring import Bundles, Incidents, Windows
from tidemill.ports.objects import ObjectStore
from tidemill.steps.judge import Judge, Reference, Window
from tidemill.steps.pool import Period, matured_pool
from tidemill.steps.prediction_log import Read, read_predictions

__all__ = ["Judged", "Monitor"]

MEMORY = 30
"""Earlier verdicts that a window may need: volumes, persistence, faulty days in the pool."""
RACES = 5
"""How often an incident is written again because somebody else was faster."""
MOST_EXTENSIONS = 7
"""Windows that an extended one may span before it is given up as not evaluable."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One window's outcome."""

    verdict: WindowVerdict
    incidents: tuple[Incident, ...]
    """Incidents that this window opened, confirmed or ended."""


class Monitor:
    """Monitors one model. Every call is safe to repeat: a window counts once."""

    def __init__(
        self,
        judge: Judge,
        *,
        objects: ObjectStore,
        bundles: Bundles,
        windows: Windows,
        incidents: Incidents,
        clock: Clock,
        horizon: timedelta,
    ) -> None:
        self._judge = judge
        self._objects = objects
        self._bundles = bundles
        self._windows = windows
        self._incidents = incidents
        self._clock = clock
        self._horizon = horizon
        self._references: dict[str, Reference] = {}

    def run(self, seen: Callable[[Judged], None] = lambda _: None) -> list[Judged]:
        """Judge every window that ended by now; `seen` is told each one.

        Raises NotFound when there is no prediction log, Unavailable when a platform does not
        answer: the window is judged by a later call then.
        """
        done = []
        while (window := self.due()) is not None:
            judged = self.step(window)
            seen(judged)
            done.append(judged)
        return done

    def due(self) -> Window | None:
        """Return the next window to judge, or None if none has ended (and settled) yet."""
        settings = self._judge.settings
        length = timedelta(hours=settings.window_hours)
        last = self._windows.last(self._judge.model, 1)
        if last:
            end = datetime.fromisoformat(last[0].end)
            again = last[0].status == "extended"
            start = datetime.fromisoformat(last[0].start) if again else end
        else:
            start = end = self._first(length)
        ready = end + length + timedelta(hours=settings.settle_hours)
        return Window(start, end + length) if ready <= self._clock.now() else None

    def step(self, window: Window) -> Judged:
        """Judge one window and bring the incidents up to it."""
        past = self._windows.last(self._judge.model, MEMORY)
        verdict = self._verdict(window, past)
        changed = self._settle(verdict)
        self._windows.save(verdict)
        return Judged(verdict, changed)

    def _first(self, length: timedelta) -> datetime:
        prefix = f"predictions/{self._judge.model}/dt="
        keys = self._objects.list(prefix)
        if not keys:
            raise NotFound(
                f"there is no prediction log of {self._judge.model}",
                hint="send requests through the gateway first: tidemill up, tidemill status",
            )
        day = datetime.fromisoformat(keys[0].removeprefix(prefix)[:10]).replace(tzinfo=UTC)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        return epoch + (day - epoch) // length * length

    def _verdict(self, window: Window, past: Sequence[WindowVerdict]) -> WindowVerdict:
        judge = self._judge
        log = read_predictions(self._objects, judge.model, window.start, window.end)
        problem = _unusable(log.frame)
        if problem:
            return judge.unjudged(window, log, past, status="not_evaluable", reason=problem)
        revision = self._revision(log.frame, past)
        rows = log.frame.filter(pl.col("revision") == revision).height if revision else 0
        if rows < judge.settings.min_rows:
            status, reason = self._too_few(window, rows)
            return judge.unjudged(window, log, past, status=status, reason=reason)
        try:
            return self._judged(window, log, revision, past)
        except (NotFound, IntegrityError) as error:
            reason = f"the bundle of revision {revision}: {error.message}"
            return judge.unjudged(
                window, log, past, status="not_evaluable", reason=reason, revision=revision
            )

    def _revision(self, frame: pl.DataFrame, past: Sequence[WindowVerdict]) -> str:
        """Return the revision to judge: the last one while it serves enough, else the largest.

        So a canary is not judged before it is promoted: until then it is the rollout's matter.
        """
        if frame.is_empty():
            return ""
        counts = frame["revision"].drop_nulls().cast(pl.String).value_counts(sort=True)
        rows = dict(counts.iter_rows())
        last = past[-1].revision if past else ""
        if rows.get(last, 0) >= self._judge.settings.min_rows:
            return last
        return next(iter(rows), "")

    def _judged(
        self, window: Window, log: Read, revision: str, past: Sequence[WindowVerdict]
    ) -> WindowVerdict:
        judge = self._judge
        if revision not in self._references:
            self._references[revision] = Reference(revision, self._bundles.folder(revision))
        pool = matured_pool(
            self._objects,
            judge.model,
            revision,
            window.end,
            judge.settings,
            horizon=self._horizon,
            faulty=_faulty(past),
        )
        levels = {} if self._accepted(revision) or not past else past[-1].levels
        return judge.judge(window, log, self._references[revision], pool, past, levels=levels)

    def _accepted(self, revision: str) -> bool:
        """Whether a person acknowledged the data as it is now: its levels count as normal."""
        standing = self._incidents.all(self._judge.model, unresolved=True)
        return any(
            i.cause == "data_quality" and i.revision == revision and i.state == "acknowledged"
            for i in standing
        )

    def _too_few(self, window: Window, rows: int) -> tuple[Status, str]:
        settings = self._judge.settings
        spanned = (window.end - window.start) / timedelta(hours=settings.window_hours)
        reason = f"{rows} of {settings.min_rows} rows"
        if spanned < MOST_EXTENSIONS:
            return "extended", f"{reason}; the next window begins where this one did"
        return "not_evaluable", f"{reason} in {spanned:g} windows"

    def _settle(self, verdict: WindowVerdict) -> tuple[Incident, ...]:
        standing = self._incidents.all(self._judge.model, unresolved=True)
        known: dict[tuple[str, Cause], Incident | None] = {
            (i.revision, i.cause): i for i in standing
        }
        for cause in CAUSES:
            known.setdefault((verdict.revision, cause), None)
        found = [self._observe(before, verdict, cause) for (_, cause), before in known.items()]
        return tuple(incident for incident in found if incident is not None)

    def _observe(
        self, before: Incident | None, verdict: WindowVerdict, cause: Cause
    ) -> Incident | None:
        """Bring one incident up to a window; return it if that changed it.

        A person may acknowledge it, or its report be linked, at the same moment: then look again.
        """
        for _ in range(RACES):
            after = observe(before, verdict, cause, self._clock.now())
            if after is None or after == before:
                return None
            try:
                return self._incidents.save(after)
            except Conflict:
                before = self._incidents.get(after.id)
        raise Conflict(
            f"incidents of {self._judge.model} change faster than they can be written",
            hint="run the command again",
        )


def _unusable(frame: pl.DataFrame) -> str:
    """Return why a log cannot be judged at all; an empty one merely has too few rows."""
    missing = [c for c in ("at", "row_id", "revision", "score") if c not in frame.columns]
    return (
        f"the prediction log has no column {', '.join(missing)}" if missing and frame.width else ""
    )


def _faulty(past: Sequence[WindowVerdict]) -> list[Period]:
    """Return the periods whose rows say nothing about the world: faults, and what hid behind."""
    return [
        (datetime.fromisoformat(v.start), datetime.fromisoformat(v.end))
        for v in past
        if v.cause in FAULTS
    ]
