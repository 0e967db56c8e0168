"""The servers' own counters as Prometheus has scraped them.

Two arms are compared by counts of the same time, and Prometheus scrapes each server at an instant
of its own. So one query reads the raw samples of all servers, and all are cut at one instant: the
newest scrape of one server, the first by address, after which every other one was scraped too.
Between two cuts each server's window then has the same length. While one is not scraped, the cut
stands still and nothing is counted of anybody.

Raw samples, not rate(): whether counters began anew is decided by `tidemill_start_time_seconds`,
which came with the same scrape.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import Any

import httpx

from tidemill.adapters.counters import NAMES, STARTED, Sample, servers, tally
from tidemill.domain.rollout.model import Workload
from tidemill.domain.rollout.readings import Counters
from tidemill.domain.rollout.windows import total
from tidemill.errors import Unavailable
from tidemill.ports.rollout import Tails

__all__ = ["PrometheusCounters"]

RANGE_SECONDS = 300
"""Samples that are read back; Prometheus' own limit for what it still shows as current."""
STALE_SCRAPES = 3
"""A cut that is older than this many intervals means that a server is no longer scraped."""


@dataclass(slots=True)
class _Target:
    """Scrapes of one server by one job, by their instant in seconds."""

    up: dict[float, bool] = field(default_factory=dict)
    scrapes: dict[float, list[Sample]] = field(default_factory=lambda: defaultdict(list))


class PrometheusCounters:
    """Implements `ports.rollout.CounterSource`; a server is the target of its address."""

    def __init__(
        self,
        url: str,
        client: httpx.Client,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`url` is that of Prometheus, as `http://prometheus.monitoring:9090`."""
        self._url = url.rstrip("/")
        self._client = client
        self._now = now

    def read(
        self,
        workloads: Mapping[str, Workload],
        reported: Mapping[str, str],
        tails: Tails | None,
        since: datetime,
    ) -> tuple[Mapping[str, Counters], list[str]]:
        """Cut the scrapes of all servers at one instant; without it there is nothing."""
        addresses = {a for workload in workloads.values() for a in servers(workload).values()}
        try:
            targets = self._targets(addresses)
            instant = _cut(targets, since.timestamp(), self._now().timestamp())
        except (Unavailable, ValueError) as error:
            return {}, [str(error)]
        counters: dict[str, Counters] = {}
        problems: list[str] = []
        for name, workload in workloads.items():
            try:
                counters[name] = _count(workload, targets, instant, reported.get(name, name), tails)
            except (ValueError, KeyError) as error:
                problems.append(f"{name}: {error}")
        return counters, problems

    def revisions(self, workload: Workload) -> set[str]:
        """Return what the servers called themselves in their last scrape."""
        try:
            targets = self._targets(set(servers(workload).values()))
        except ValueError as error:
            raise Unavailable(str(error)) from error
        return {
            labels["revision"] for target in targets.values()
            for name, labels, _ in target.scrapes[max(target.scrapes)] if name == STARTED
        }  # fmt: skip

    def _targets(self, addresses: set[str]) -> dict[str, _Target]:
        """Return the scrapes of every address; raises ValueError when one has none."""
        names = "|".join(("up", *NAMES))
        instances = "|".join(re.escape(address) for address in sorted(addresses))
        query = f'{{__name__=~"{names}",instance=~{_quote(instances)}}}[{RANGE_SECONDS}s]'
        jobs: dict[str, dict[str, _Target]] = defaultdict(lambda: defaultdict(_Target))
        for series in self._query(query):
            labels = series["metric"]
            target = jobs[labels["instance"]][labels.get("job", "")]
            for instant, value in series["values"]:
                if labels["__name__"] == "up":
                    target.up[instant] = float(value) == 1
                else:
                    target.scrapes[instant].append((labels["__name__"], labels, float(value)))
        # A server that two jobs scrape would count twice.
        targets = {}
        for address in sorted(addresses):
            found = jobs.get(address)
            targets[address] = _check(address, found[min(found)] if found else _Target())
        return targets

    def _query(self, query: str) -> list[dict[str, Any]]:
        try:
            answer = self._client.post(f"{self._url}/api/v1/query", data={"query": query})
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"Prometheus at {self._url} does not answer: {error}") from error
        if body.get("status") != "success":
            raise Unavailable(f"Prometheus at {self._url}: {body.get('error', answer.status_code)}")
        if body.get("warnings"):
            raise Unavailable(f"Prometheus at {self._url} knows a part: {body['warnings'][0]}")
        found: list[dict[str, Any]] = body["data"]["result"]
        return found


def _quote(text: str) -> str:
    """Write a text as PromQL does."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check(address: str, target: _Target) -> _Target:
    """Return a server whose last scrape is there; raises ValueError otherwise."""
    if not target.up:
        raise ValueError(f"Prometheus has no target with instance='{address}'")
    last = max(target.up)
    if not target.up[last]:
        raise ValueError(f"Prometheus could not scrape {address}")
    if last not in target.scrapes:
        raise ValueError(f"the last scrape of {address} has none of its counters")
    return target


def _cut(targets: Mapping[str, _Target], since: float, now: float) -> float:
    """Return the instant that all are cut at; raises ValueError when there is none."""
    oldest = min(max(target.scrapes) for target in targets.values())
    scrapes = sorted(next(iter(targets.values())).scrapes)
    cut = max((instant for instant in scrapes if instant <= oldest), default=None)
    if cut is None or cut < since:
        raise ValueError("Prometheus has not scraped every server since the weight settled")
    if now - cut > STALE_SCRAPES * _interval(targets):
        raise ValueError(f"Prometheus scraped a server {now - cut:.0f} s ago for the last time")
    return cut


def _interval(targets: Mapping[str, _Target]) -> float:
    """Return the usual seconds between two scrapes, failed ones too, whatever an outage was."""
    gaps = [b - a for target in targets.values() for a, b in pairwise(sorted(target.up))]
    return median(gaps) if gaps else RANGE_SECONDS / STALE_SCRAPES


def _count(
    workload: Workload,
    targets: Mapping[str, _Target],
    cut: float,
    revision: str,
    tails: Tails | None,
) -> Counters:
    parts = {}
    for name, address in servers(workload).items():
        scrapes = targets[address].scrapes
        parts[name] = tally(scrapes[min(i for i in scrapes if i >= cut)], revision, tails)
    return replace(total(parts.values()), servers=parts)
