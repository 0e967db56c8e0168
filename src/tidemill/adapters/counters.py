"""The servers' own counters, scraped from each of them.

A server is believed only under the revision it reports itself. What cannot be read, is not a number
or belongs to another revision is absent: neither health nor harm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime

import httpx

from tidemill.domain.rollout.model import Workload
from tidemill.domain.rollout.readings import Counters
from tidemill.domain.rollout.windows import total
from tidemill.errors import Unavailable
from tidemill.ports.rollout import Tails

__all__ = ["NAMES", "STARTED", "Sample", "ScrapedCounters", "parse", "servers", "tally"]

EVENTS = {"slow": "tidemill_slow_total", "invalid": "tidemill_invalid_total"}
FAILED = {"error", "overloaded"}
"""Outcomes of a request that are the server's failure: a canary too slow for its share of the load
refuses what the stable version would have answered."""
STARTED, REQUESTS, SCORES = (
    "tidemill_start_time_seconds", "tidemill_requests_total", "tidemill_score_bucket",
)  # fmt: skip
NAMES = (STARTED, REQUESTS, *EVENTS.values(), SCORES)
"""All that is read of a server's metrics."""

Sample = tuple[str, Mapping[str, str], float]
"""Name, labels and value."""


class ScrapedCounters:
    """Implements `ports.rollout.CounterSource`: every server's /metrics, now."""

    def __init__(self, client: httpx.Client) -> None:
        """`client` has a short timeout: one silent server must not hold up a rollback."""
        self._client = client

    def read(
        self,
        workloads: Mapping[str, Workload],
        reported: Mapping[str, str],
        tails: Tails | None,
        since: datetime,  # noqa: ARG002 - it is read now
    ) -> tuple[Mapping[str, Counters], list[str]]:
        """Scrape every server."""
        counters: dict[str, Counters] = {}
        problems: list[str] = []
        for name, workload in workloads.items():
            try:
                counters[name] = self._count(workload, reported.get(name, name), tails)
            except (httpx.HTTPError, ValueError, KeyError) as error:
                problems.append(f"{name}: {error}")
        return counters, problems

    def revisions(self, workload: Workload) -> set[str]:
        """Return what the servers call themselves."""
        try:
            scraped = [self._scrape(address) for address in servers(workload).values()]
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"{workload.address}: {error}") from error
        return {
            labels["revision"] for text in scraped for name, labels, _ in _samples(text)
            if name == STARTED
        }  # fmt: skip

    def _count(self, workload: Workload, revision: str, tails: Tails | None) -> Counters:
        """Read every server of a revision, or none: a part of them would look like a loss."""
        if not workload.servers:
            return parse(self._scrape(workload.address), revision, tails)
        parts = {
            name: parse(self._scrape(address), revision, tails)
            for name, address in workload.servers.items()
        }
        return replace(total(parts.values()), servers=parts)

    def _scrape(self, address: str) -> str:
        answer = self._client.get(f"http://{address}/metrics")
        answer.raise_for_status()
        return answer.text


def servers(workload: Workload) -> Mapping[str, str]:
    """Return where each server of a workload is reached, by name."""
    return workload.servers or {workload.address: workload.address}


def parse(exposition: str, revision: str, tails: Tails | None = None) -> Counters:
    """Read the counters of `revision` out of Prometheus' text format; see `tally`."""
    return tally(_samples(exposition), revision, tails)


def _samples(exposition: str) -> Iterator[Sample]:
    from prometheus_client.parser import text_string_to_metric_families

    # The parser takes most of a look at a server, and nine of ten lines are about something else.
    lines = (line for line in exposition.split("\n") if line.startswith(NAMES))
    for family in text_string_to_metric_families("\n".join(lines)):
        for sample in family.samples:
            if sample.name in NAMES:
                yield sample.name, sample.labels, sample.value


def tally(samples: Iterable[Sample], revision: str, tails: Tails | None = None) -> Counters:
    """Add up what one server counted for `revision`.

    Scores are counted as `low` at most at the first of `tails` and as `high` above the second.
    Raises ValueError when the counters are not all there or not numbers.
    """
    found: dict[str, float] = {}
    bins: dict[float, int] = {}
    errors = 0.0
    for name, labels, value in samples:
        if labels.get("revision") != revision:
            continue
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}")
        found[name] = found.get(name, 0.0) + value
        if name == REQUESTS and labels["outcome"] in FAILED:
            errors += value
        if name == SCORES:
            bins[float(labels["le"])] = int(value)
    absent = [name for name in (STARTED, REQUESTS, *EVENTS.values()) if name not in found]
    if absent:
        raise ValueError(f"its metrics lack {', '.join(absent)} of this revision")
    events = {event: int(found[name]) for event, name in EVENTS.items()}
    if tails:
        events |= _tail_counts(bins, tails)
    return Counters(
        started=found[STARTED],
        requests=int(found[REQUESTS]),
        events={"error": int(errors), **events},
    )


def _tail_counts(bins: Mapping[float, int], tails: Tails) -> dict[str, int]:
    """Return the scores below and above the tails' bounds out of cumulative bins."""
    absent = [f"{bound:g}" for bound in (*tails, math.inf) if bound not in bins]
    if absent:
        raise ValueError(f"its tidemill_score lacks the bin {', '.join(absent)}")
    return {"low": bins[tails[0]], "high": bins[math.inf] - bins[tails[1]]}
