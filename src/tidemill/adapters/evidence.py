"""Evidence of an attempt: the servers' counters, matured outcomes, the canary's rehearsal."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import httpx

from tidemill.adapters.outcomes import Outcomes
from tidemill.adapters.pairing import PairReader
from tidemill.adapters.rehearsal import Rehearsal
from tidemill.domain.rollout.model import Now, State, Workload
from tidemill.domain.rollout.pairs import Pairs
from tidemill.domain.rollout.readings import Reading
from tidemill.ports.rollout import CounterSource

__all__ = ["ServerEvidence"]

EVER = datetime.fromtimestamp(0, UTC)


class ServerEvidence:
    """Implements `ports.rollout.EvidenceSource`."""

    def __init__(self, outcomes: Outcomes, counters: CounterSource, client: httpx.Client) -> None:
        """`client` rehearses the canary; its timeout is short."""
        self._outcomes = outcomes
        self._counters = counters
        self._rehearsal = Rehearsal(client)
        self._pairs = PairReader(client)

    def read(self, workloads: Mapping[str, Workload], state: State, now: Now) -> Reading:
        """Read every server's counters and look for outcomes that have matured."""
        compared = state.arms[0] if state.arms else state.stable
        tails = compared.score_tails if compared else None
        reported = {r.revision: r.reported for r in (*(state.arms or ()), state.stable) if r}
        counters, problems = self._counters.read(workloads, reported, tails, _settled(state))
        cohorts, until = self._outcomes.matured(state, now.clock)
        rehearsal = self._rehearsal.verdict(state, workloads)
        pairs = self._compared(workloads, state, problems)
        return Reading(counters, cohorts, until, "; ".join(problems), rehearsal, pairs)

    def _compared(
        self, workloads: Mapping[str, Workload], state: State, problems: list[str]
    ) -> Pairs | None:
        """Return what a shadow step has compared; None, with the problem, if that is unknown."""
        if not state.mirror:
            return None
        try:
            return self._pairs.read(workloads, state)
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            problems.append(f"answers to compare: {error}")
            return None


def _settled(state: State) -> datetime:
    """Return since when the weight in force has settled: older counters may be another weight's."""
    if state.attempt is None or state.applied_at is None:
        return EVER
    return state.applied_at + timedelta(seconds=state.attempt.plan.settle_seconds)
