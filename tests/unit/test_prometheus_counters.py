"""Counters as Prometheus tells them: cut at one instant, whole, or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.adapters.prometheus import PrometheusCounters
from tidemill.domain.rollout.model import Workload
from tidemill.domain.rollout.readings import Counters
from tidemill.errors import Unavailable

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEVER = datetime(2020, 1, 1, tzinfo=UTC)
OURS, THEIRS = "aaaaaaaaaa", "bbbbbbbbbb"


def series(name: str, instance: str, values: dict[float, float | str], **labels: str) -> Any:
    """Return a series of samples, by seconds before NOW."""
    metric = {"__name__": name, "instance": instance, "job": "tidemill", **labels}
    samples = [[NOW.timestamp() - ago, str(v)] for ago, v in sorted(values.items(), reverse=True)]
    return {"metric": metric, "values": samples}


def server(
    instance: str, counted: dict[float, int], revision: str = OURS, **labels: str
) -> list[dict[str, Any]]:
    """Return all series of a server that was scraped when `counted` says, seconds ago."""
    same = dict.fromkeys(counted, 0)
    labels = {"model": "m", "version": "1", "revision": revision, **labels}
    return [
        series("up", instance, dict.fromkeys(counted, 1), **labels),
        series("tidemill_start_time_seconds", instance, dict.fromkeys(counted, 9), **labels),
        series("tidemill_requests_total", instance, counted, outcome="ok", **labels),
        series("tidemill_requests_total", instance, same, outcome="error", **labels),
        series("tidemill_slow_total", instance, same, **labels),
        series("tidemill_invalid_total", instance, same, **labels),
    ]


def asked(*found: Any, **body: Any) -> PrometheusCounters:
    """Return the adapter in front of a Prometheus that answers so."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/v1/query"
        data = {"resultType": "matrix", "result": [one for part in found for one in part]}
        return httpx.Response(200, json={"status": "success", "data": data, **body})

    return adapter(answer)


def adapter(answer: Callable[[httpx.Request], httpx.Response]) -> PrometheusCounters:
    client = httpx.Client(transport=httpx.MockTransport(answer))
    return PrometheusCounters("http://prometheus:9090/", client, lambda: NOW)


ARMS = {
    "stable": Workload(1, 1, "a:1"),
    "canary": Workload(2, 2, "svc", servers={"p": "b:1", "q": "c:1"}),
}
REPORTED = {"stable": OURS, "canary": THEIRS}


def read(source: PrometheusCounters, since: datetime = NEVER) -> tuple[dict[str, Counters], str]:
    counters, problems = source.read(ARMS, REPORTED, None, since)
    return dict(counters), "; ".join(problems)


def three(**changes: Any) -> list[Any]:
    """Return the three servers, all scraped every 10 s, in good order."""
    made = {
        "a": server("a:1", {25: 100, 15: 110, 5: 120}),
        "b": server("b:1", {22: 10, 12: 20, 2: 30}, THEIRS),
        "c": server("c:1", {28: 1, 18: 2, 8: 3}, THEIRS),
    }
    return list((made | changes).values())


def test_all_servers_are_cut_at_one_scrape_of_the_first():
    counters, problem = read(asked(*three()))
    assert not problem
    # a:1's scrape 15 s ago is the newest after which all were scraped: b 12 s, c 8 s ago.
    assert counters["stable"].requests == 110
    assert {k: c.requests for k, c in counters["canary"].servers.items()} == {"p": 20, "q": 3}
    assert counters["canary"].requests == 23
    assert counters["stable"].started == 9


@given(
    offsets=st.tuples(*[st.integers(0, 9)] * 3),
    looks=st.lists(st.integers(30, 400), min_size=2, max_size=6, unique=True),
)
def test_between_two_cuts_every_window_is_as_long(offsets, looks):
    """Servers count one request a second each and are scraped every 10 s, each at its own offset.

    So what a window counts is how long it is.
    """
    totals = []
    for look in sorted(looks):
        found = [
            server(f"{name}:1", {float(look - at): at for at in range(offset, look + 1, 10)},
                   OURS if name == "a" else THEIRS)
            for name, offset in zip("abc", offsets, strict=True)
        ]  # fmt: skip
        counters, problem = read(asked(*found))
        assert not problem
        servers = counters["canary"].servers
        totals.append((counters["stable"].requests, servers["p"].requests, servers["q"].requests))
    for before, after in pairwise(totals):
        assert len({late - early for early, late in zip(before, after, strict=True)}) == 1


def test_a_server_that_two_jobs_scrape_counts_once():
    twice = server("a:1", {25: 100, 15: 110, 5: 120}, job="another")
    counters, _ = read(asked(*three(), twice))
    assert counters["stable"].requests == 110


def test_the_query_names_the_servers_and_nothing_more():
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(dict(httpx.QueryParams(request.content.decode()))["query"])
        return httpx.Response(200, json={"status": "error", "error": "no"})

    read(adapter(answer))
    assert seen[0].endswith(r'instance=~"a:1|b:1|c:1"}[300s]')


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (asked(), "no target with instance='a:1'"),
        (asked(*three(b=[])), "no target with instance='b:1'"),
        (asked(*three(b=[series("up", "b:1", {12: 1, 2: 0})])), "could not scrape b:1"),
        (asked(*three(b=[series("up", "b:1", {12: 1, 2: 1})])), "has none of its counters"),
        (
            asked(
                *three(
                    a=server("a:1", {float(ago): 100 - ago for ago in range(5, 100, 10)}),
                    c=server("c:1", {68: 1, 58: 2, 48: 3}, THEIRS),
                )
            ),
            "scraped a server 55 s ago for the last time",
        ),
        (
            asked(
                *three(
                    a=server("a:1", {250: 1, 170: 2, 160: 3, 150: 4}),
                    b=server("b:1", {250: 1, 170: 2, 160: 3, 150: 4}, THEIRS),
                    c=server("c:1", {250: 1, 170: 2, 160: 3, 150: 4}, THEIRS),
                )
            ),
            "scraped a server 150 s ago for the last time",
        ),
        (asked(*three(), warnings=["a store did not answer"]), "a store did not answer"),
        (asked(status="error", error="query timed out"), "query timed out"),
        (adapter(lambda _: httpx.Response(502, text="<html>")), "does not answer"),
    ],
    ids=[
        "empty",
        "partial",
        "down",
        "no metrics",
        "stale",
        "outage",
        "warning",
        "error",
        "gateway",
    ],
)
def test_what_is_not_whole_is_nothing_of_anybody(source, why):
    counters, problem = read(source)
    assert not counters
    assert why in problem


def test_a_scrape_from_before_the_weight_is_no_beginning():
    settled = NOW - timedelta(seconds=10)
    counters, problem = read(asked(*three()), since=settled)
    assert not counters
    assert "not scraped every server since the weight settled" in problem


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf"])
def test_what_is_no_number_is_missing(value):
    stable = server("a:1", {25: 100, 15: 110, 5: 120})
    stable[4]["values"] = [[at, value] for at, _ in stable[4]["values"]]
    counters, problem = read(asked(*three(a=stable)))
    assert counters.keys() == {"canary"}
    assert problem == f"stable: tidemill_slow_total is {float(value)}"


def test_counters_of_another_revision_are_not_theirs():
    counters, problem = read(asked(*three(a=server("a:1", {25: 1, 15: 2, 5: 3}, THEIRS))))
    assert counters.keys() == {"canary"}
    assert "of this revision" in problem


def test_what_servers_call_themselves_is_asked_of_their_last_scrape():
    source = asked(*three())
    assert source.revisions(ARMS["canary"]) == {THEIRS}
    with pytest.raises(Unavailable, match="no target"):
        asked().revisions(ARMS["canary"])


def test_an_address_is_no_pattern_and_ends_no_text():
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(dict(httpx.QueryParams(request.content.decode()))["query"])
        return httpx.Response(200, json=json.loads('{"status": "error"}'))

    adapter(answer).read({"x": Workload(1, 1, '10.0.0.1:8080"}')}, {}, None, NEVER)
    assert r'instance=~"10\\.0\\.0\\.1:8080\"\\}"' in seen[0]
