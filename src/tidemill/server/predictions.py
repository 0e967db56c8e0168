"""The prediction log: a bounded buffer, written in the background.

Inference only appends. A thread makes row groups of what came, soon after it came and in small
portions, so that no answer waits long for it, and stores them as a Parquet object after so many
rows or seconds. A file that cannot be stored is kept and tried again; while it waits its rows count
as buffered, and when the buffer is full new rows are dropped and counted. So a slow or full store
never slows an answer, and a short outage loses nothing. A crash loses what was not yet written: at
most one interval, whose rows the next process counts by the tally.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import structlog

from tidemill.errors import RetryableError
from tidemill.ports.objects import ObjectStore
from tidemill.server.encoding import Encoder, Prediction
from tidemill.server.parquet import File
from tidemill.server.sampling import Sampler
from tidemill.server.unstored import Tally
from tidemill.settings.serving import PredictionLogSettings

__all__ = ["PredictionLog"]

log = structlog.get_logger(__name__)

RETRY_SECONDS = 0.5
"""Between two attempts to store a file."""
GROUP_REQUESTS = 1000
"""Requests of a row group, unless its file is due. It takes some 2 ms; smaller ones take more in
all, as each has a head for every column."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A Parquet object of one day that still grows."""

    key: str
    file: File


@dataclass(frozen=True, slots=True)
class _Whole:
    """A Parquet object that waits to be stored."""

    key: str
    content: bytes
    rows: int


class PredictionLog:
    """Keeps every prediction that its sampler chooses, or counts it as lost."""

    def __init__(
        self,
        objects: ObjectStore,
        encoder: Encoder,
        sampler: Sampler,
        *,
        prefix: str,
        settings: PredictionLogSettings,
        open_tally: Callable[[], Tally | None] | None = None,
    ) -> None:
        """`open_tally` is called at the start, for the number of rows that a crash would lose."""
        self._objects = objects
        self._encoder = encoder
        self._sampler = sampler
        self._prefix = prefix
        self._settings = settings
        self._flush_rows = min(settings.flush_rows, settings.buffer_rows)
        self._boot = uuid.uuid4().hex[:12]
        self._files = 0
        self._buffer: deque[Prediction] = deque()
        self._open: dict[date, _Open] = {}
        self._unwritten: deque[_Whole] = deque()
        self._due = time.monotonic() + settings.flush_seconds
        self._held = 0
        self._open_tally = open_tally
        self._tally: Tally | None = None
        self._stored = 0
        self._lost = 0
        self._last = False
        self._left = 0
        """Lost where nobody will ask this process any more: the tally's, and not in `_lost`."""
        self._changed = threading.Condition()
        self._told = ""
        """Why the store last took no file; said once, not at every attempt."""
        self._closing = False
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)

    def start(self) -> None:
        """Start writing in the background."""
        self._tally = self._open_tally() if self._open_tally else None
        self._thread.start()

    def append(self, prediction: Prediction) -> None:
        """Take one answered request; never waits for the store."""
        if not self._sampler.choose(prediction):
            return
        with self._changed:
            if self._closing or self._held + prediction.rows > self._settings.buffer_rows:
                self._lose(prediction.rows)
                return
            self._buffer.append(prediction)
            self._hold(prediction.rows)
            if len(self._buffer) >= GROUP_REQUESTS or self._held >= self._flush_rows:
                self._changed.notify()

    def counts(self) -> tuple[int, int]:
        """Return how many rows were stored and how many were lost."""
        with self._changed:
            return self._stored, self._lost

    def held(self) -> int:
        """Return how many rows have still to be stored."""
        with self._changed:
            return self._held

    def close(self, timeout: float) -> int:
        """Write what is left, for at most `timeout` seconds; return the rows that were lost.

        After that nothing more is written; a second call returns 0.
        """
        self.begin_close()
        self._thread.join(timeout)
        with self._changed:
            self._abandoned = True
            lost = self._held
            self._lose(lost)
            self._hold(-lost)
            if self._tally is not None:
                if self._left:
                    self._tally.leave()
                else:
                    self._tally.close()
                self._tally = None
        return lost

    def begin_close(self, *, last: bool = False) -> None:
        """Take nothing more, and begin to write what is left.

        With `last` the process ends, and nobody reads its counters any more: what is lost from now
        on the tally leaves to the next one, and `counts` does not tell it.
        """
        with self._changed:
            self._closing = True
            self._last = self._last or last
            self._changed.notify()

    def _hold(self, rows: int) -> None:
        """Count rows that have still to be stored, or no more."""
        self._held += rows
        if self._tally is not None:
            self._tally.rows = self._held + self._left

    def _lose(self, rows: int) -> None:
        """Count rows as lost."""
        if self._last and self._tally is not None:
            self._left += rows
            self._tally.rows = self._held + self._left
        else:
            self._lost += rows

    def _run(self) -> None:
        while not self._abandoned and self._wait():
            if not self._unwritten:
                self._encode()
            while self._unwritten and not self._abandoned and self._store(self._unwritten[0]):
                self._unwritten.popleft()

    def _wait(self) -> bool:
        """Wait until there is something to do; return False when all was written at the end."""
        if self._unwritten:
            time.sleep(RETRY_SECONDS)
            return True
        with self._changed:
            self._changed.wait_for(
                lambda: self._is_due() or len(self._buffer) >= GROUP_REQUESTS,
                max(0.0, self._due - time.monotonic()),
            )
            return not self._closing or self._held > 0

    def _is_due(self) -> bool:
        """Return whether what is held should be stored now."""
        return self._closing or self._held >= self._flush_rows or time.monotonic() >= self._due

    def _encode(self) -> None:
        """Make row groups of what came, and whole files if they are due."""
        with self._changed:
            taken, self._buffer = self._buffer, deque()
            due = self._is_due()
        days: defaultdict[date, list[Prediction]] = defaultdict(list)
        while taken:
            prediction = taken.popleft()
            days[prediction.day].append(prediction)
        for day, predictions in days.items():
            if refused := self._pack(day, predictions):
                rows = sum(rows for rows, _ in refused)
                why = refused[0][1]
                log.error(
                    "predictions cannot be encoded, their rows are lost", rows=rows, exc_info=why
                )
                self._settle(rows, stored=False)
            while predictions:  # one by one: to drop thousands at once would hold answers up
                predictions.pop()
        if due:
            self._finish()

    def _pack(self, day: date, predictions: Sequence[Prediction]) -> list[tuple[int, Exception]]:
        """Encode predictions; return the rows of each request that cannot be, and why.

        Where one spoils the others they are encoded in halves, until it is alone.
        """
        try:
            chunks = self._encoder.encode(predictions)
            growing = self._open.get(day) or _Open(
                self._key(day, predictions), self._encoder.open()
            )
            growing.file.add(chunks)
        except Exception as error:  # noqa: BLE001 - what is not as it must be fails anywhere
            if len(predictions) == 1:
                return [(predictions[0].rows, error)]
            half = len(predictions) // 2
            return self._pack(day, predictions[:half]) + self._pack(day, predictions[half:])
        self._open[day] = growing
        return []

    def _finish(self) -> None:
        """End the files that are open."""
        for key, file in ((growing.key, growing.file) for growing in self._open.values()):
            self._unwritten.append(_Whole(key, file.finish(), file.rows))
        self._open.clear()
        self._due = time.monotonic() + self._settings.flush_seconds

    def _key(self, day: date, predictions: Sequence[Prediction]) -> str:
        """Name a file: by the clock for people, by start and number to be unique."""
        self._files += 1
        first = predictions[0].at
        return f"{self._prefix}/dt={day}/{first:%H%M%S}-{self._boot}-{self._files:06d}.parquet"

    def _store(self, file: _Whole) -> bool:
        """Store one file; return False when it should be tried again."""
        try:
            self._objects.put(file.key, file.content)
        except RetryableError as error:
            if error.message != self._told:
                self._told = error.message
                log.warning("the prediction log cannot be stored, will retry", reason=error.message)
            return False
        except Exception:  # of any store: the thread goes on with the next file
            log.exception("the prediction log was refused, its rows are lost", rows=file.rows)
            self._settle(file.rows, stored=False)
        else:
            self._told = ""
            self._settle(file.rows, stored=True)
        return True

    def _settle(self, rows: int, *, stored: bool) -> None:
        with self._changed:
            if self._abandoned:
                return  # they were counted as lost
            self._hold(-rows)
            if stored:
                self._stored += rows
            else:
                self._lose(rows)
