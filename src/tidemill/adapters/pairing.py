"""Pairs of answers to the same request, read from the servers of both arms and joined here.

A mirrored copy is known by the digests of its id and its content. Each shadow that the canary
answered is one pair, if stable answered a request with the same digests; a shadow without one is no
evidence. What was answered less than GRACE_SECONDS ago waits for its other half until the next
look, so that how looks are cut does not matter. Ages are each server's own; no clocks are compared.

Where the gateway gives no ids, requests of equal content are taken for each other. They ask the
same, so that is no error; neither is a client that repeats an id with the same content.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any, NamedTuple

import httpx

from tidemill.domain.paired import Answered, PairedRate, Tally, compare
from tidemill.domain.rollout.model import Revision, State, Workload
from tidemill.domain.rollout.pairs import Cursor, Pairs

__all__ = ["GRACE_SECONDS", "PairReader"]

GRACE_SECONDS = 5.0
"""The slower arm's answer may come this much later; then the pair is lost."""
REMEMBERED = 65_536
"""Stable's answers in memory; older ones are forgotten."""

Key = tuple[str, str]
"""Digests of a request's id and content."""


class _Told(NamedTuple):
    number: int
    age: float
    key: Key
    answered: Answered


class _Pages(NamedTuple):
    """What one server said."""

    start: str
    last: int
    told: list[_Told]


class PairReader:
    """Reads and joins; it remembers only what can be read again."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self._subject: tuple[int, str] | None = None
        self._read: dict[str, int] = {}
        self._known: dict[Key, Answered] = {}
        self._ids: dict[str, None] = {}

    def read(self, workloads: Mapping[str, Workload], state: State) -> Pairs:
        """Return what has been compared since the state's cursor.

        All servers of both arms are read or none: raises httpx.HTTPError, ValueError or KeyError
        for one that cannot be read, or that answers as another revision.
        """
        attempt, arms = state.attempt, state.arms
        assert attempt is not None
        assert arms is not None
        stable, canary = arms
        before = attempt.evidence.pairing.cursor
        self._turn_to((attempt.number, stable.revision))
        shadows, cursor = self._arm(workloads, canary, "shadows", before)
        clients, stables = self._arm(workloads, stable, "clients", before)
        self._remember(clients)
        cursor |= stables
        if not before:
            return Pairs(cursor=cursor)
        answered = sum(at - _position(before, name, start) for name, (start, at) in stables.items())
        thresholds = stable.threshold, canary.threshold
        return self._join(shadows, answered, attempt.plan.paired, thresholds, cursor)

    def _arm(
        self,
        workloads: Mapping[str, Workload],
        arm: Revision,
        side: str,
        before: Mapping[str, Cursor],
    ) -> tuple[list[_Told], dict[str, Cursor]]:
        """Return what the servers of an arm answered, and the cursor after what may be consumed.

        Shadows are those that may be consumed; clients' answers are all that were not known.
        """
        servers = workloads[arm.revision].shadows
        if not servers:
            raise ValueError(f"the servers of {arm.revision} take no mirrored requests")
        found: list[_Told] = []
        cursor: dict[str, Cursor] = {}
        for name, address in servers.items():
            known = before.get(name, ("", 0))
            pages = self._pages(address, arm, side, known)
            at = _position(before, name, pages.start)
            due = [t for t in pages.told if t.number > at and t.age > GRACE_SECONDS]
            last = pages.last if not before else max((t.number for t in due), default=at)
            cursor[name] = pages.start, last
            found += due if side == "shadows" else pages.told
        return found, cursor

    def _pages(self, address: str, arm: Revision, side: str, known: Cursor) -> _Pages:
        """Read a server's answers from where they are not known, if its numbers began anew all."""
        start, after = known
        if side == "clients":
            after = min(after, self._read.get(start, 0))
        told: list[_Told] = []
        while True:
            page = self._page(address, arm, side, after)
            if page["start"] != start and after:
                start, after, told = page["start"], 0, []
                continue
            start = page["start"]
            told += [_told(entry) for entry in page["answers"]]
            if not page["answers"] or told[-1].number >= page["count"]:
                self._read[start] = page["count"]
                return _Pages(start, page["count"], told)
            after = told[-1].number

    def _page(self, address: str, arm: Revision, side: str, after: int) -> Any:
        where = f"/v2/models/{arm.model}/versions/{arm.version}/answers/{side}/{after}"
        answer = self._client.get(f"http://{address}{where}")
        answer.raise_for_status()
        page = answer.json()
        if page["revision"] != arm.reported:
            raise ValueError(f"{address} answers as {page['revision']}, not {arm.reported}")
        return page

    def _turn_to(self, subject: tuple[int, str]) -> None:
        """Forget what was answered to another attempt."""
        if subject != self._subject:
            self._subject = subject
            for remembered in (self._read, self._known, self._ids):
                remembered.clear()

    def _remember(self, clients: list[_Told]) -> None:
        for told in clients:
            self._known.pop(told.key, None)
            self._known[told.key] = told.answered
            self._ids.pop(told.key[0], None)
            self._ids[told.key[0]] = None
        _trim(self._known)
        _trim(self._ids)

    def _join(
        self,
        shadows: list[_Told],
        answered: int,
        metrics: tuple[PairedRate, ...],
        thresholds: tuple[float, float],
        cursor: Mapping[str, Cursor],
    ) -> Pairs:
        tallies: dict[str, Tally] = {metric.name: (0, 0) for metric in metrics}
        matched = altered = 0
        for shadow in shadows:
            partner = self._known.get(shadow.key)
            if partner is None:
                altered += bool(shadow.key[0]) and shadow.key[0] in self._ids
                continue
            matched += 1
            for metric in metrics:
                pairs, events = compare(metric, (partner, shadow.answered), thresholds)
                known = tallies[metric.name]
                tallies[metric.name] = known[0] + pairs, known[1] + events
        return Pairs(answered, matched, altered, tallies, cursor)


def _trim(remembered: dict[Any, Any]) -> None:
    for oldest in list(islice(remembered, max(0, len(remembered) - REMEMBERED))):
        del remembered[oldest]


def _position(cursor: Mapping[str, Cursor], name: str, start: str) -> int:
    """Return how many answers of a server are consumed; none of one that has begun anew."""
    known, at = cursor.get(name, ("", 0))
    return at if known == start else 0


def _told(entry: list[Any]) -> _Told:
    number, age, request, content, outcome, slow, scores = entry
    return _Told(number, age, (request, content), Answered(outcome == "ok", slow, tuple(scores)))
