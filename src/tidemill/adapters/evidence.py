"""Evidence from the servers' own counters, scraped per revision.

A server is believed only under the revision it reports itself. What cannot be read, is not a number
or belongs to another revision is absent from the reading: neither health nor harm.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import httpx

from tidemill.adapters.outcomes import Outcomes
from tidemill.adapters.pairing import PairReader
from tidemill.adapters.rehearsal import Rehearsal
from tidemill.domain.rollout.model import Counters, Now, Reading, State, Workload
from tidemill.domain.rollout.pairs import Pairs
from tidemill.domain.rollout.windows import total

__all__ = ["ServerEvidence", "parse"]

EVENTS = {"slow": "tidemill_slow_total", "invalid": "tidemill_invalid_total"}
FAILED = {"error", "overloaded"}
"""Outcomes of a request that are the server's failure: a canary too slow for its share of the load
refuses what the stable version would have answered."""

Tails = tuple[float, float]


class ServerEvidence:
    """Implements `ports.rollout.EvidenceSource`."""

    def __init__(self, outcomes: Outcomes, client: httpx.Client) -> None:
        """`client` has a short timeout: one silent server must not hold up a rollback."""
        self._outcomes = outcomes
        self._client = client
        self._rehearsal = Rehearsal(client)
        self._pairs = PairReader(client)

    def read(self, workloads: Mapping[str, Workload], state: State, now: Now) -> Reading:
        """Scrape every server and look for outcomes that have matured."""
        counters: dict[str, Counters] = {}
        problems: list[str] = []
        compared = state.arms[0] if state.arms else state.stable
        tails = compared.score_tails if compared else None
        reported = {r.revision: r.reported for r in (*(state.arms or ()), state.stable) if r}
        for revision, workload in workloads.items():
            try:
                counters[revision] = self._count(workload, reported.get(revision, revision), tails)
            except (httpx.HTTPError, ValueError, KeyError) as error:
                problems.append(f"{revision}: {error}")
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
        except (httpx.HTTPError, ValueError, KeyError) as error:
            problems.append(f"answers to compare: {error}")
            return None

    def _count(self, workload: Workload, revision: str, tails: Tails | None) -> Counters:
        """Read every server of a revision, or none: a part of them would look like a loss."""
        if not workload.servers:
            return self._scrape(revision, workload.address, tails)
        servers = {
            name: self._scrape(revision, address, tails)
            for name, address in workload.servers.items()
        }
        return replace(total(servers.values()), servers=servers)

    def _scrape(self, revision: str, address: str, tails: Tails | None) -> Counters:
        answer = self._client.get(f"http://{address}/metrics")
        answer.raise_for_status()
        return parse(answer.text, revision, tails)


def parse(exposition: str, revision: str, tails: Tails | None = None) -> Counters:
    """Read the counters of `revision` out of Prometheus' text format.

    Scores are counted as `low` at most at the first of `tails` and as `high` above the second.
    Raises ValueError when the counters are not all there or not numbers.
    """
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, float] = {}
    bins: dict[float, int] = {}
    errors = 0.0
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.labels.get("revision") != revision:
                continue
            if not math.isfinite(sample.value) and not sample.name.endswith("_bucket"):
                raise ValueError(f"{sample.name} is {sample.value}")
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
            if sample.name == "tidemill_requests_total" and sample.labels["outcome"] in FAILED:
                errors += sample.value
            if sample.name == "tidemill_score_bucket":
                bins[float(sample.labels["le"])] = int(sample.value)
    needed = ("tidemill_start_time_seconds", "tidemill_requests_total", *EVENTS.values())
    absent = [name for name in needed if name not in found]
    if absent:
        raise ValueError(f"its metrics lack {', '.join(absent)} of this revision")
    events = {event: int(found[name]) for event, name in EVENTS.items()}
    if tails:
        events |= _tail_counts(bins, tails)
    return Counters(
        started=found["tidemill_start_time_seconds"],
        requests=int(found["tidemill_requests_total"]),
        events={"error": int(errors), **events},
    )


def _tail_counts(bins: Mapping[float, int], tails: Tails) -> dict[str, int]:
    """Return the scores below and above the tails' bounds out of cumulative bins."""
    absent = [f"{bound:g}" for bound in (*tails, math.inf) if bound not in bins]
    if absent:
        raise ValueError(f"its tidemill_score lacks the bin {', '.join(absent)}")
    return {"low": bins[tails[0]], "high": bins[math.inf] - bins[tails[1]]}
