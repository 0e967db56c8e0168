"""Many rollouts at once with attempts in flight: each takes the decisions of one that is alone."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from threading import Event
from typing import Any

import httpx
import pytest
from tests.cluster.rollout_backends import SHORT, ResourceWorld, model
from tests.cluster.rollouts import client, manifest
from tests.unit.rollout_world import NAME

from tidemill.adapters.kubernetes.cache import Cache
from tidemill.adapters.kubernetes.client import DEPLOYMENTS, ROLLOUTS
from tidemill.adapters.kubernetes.owned import ROLLOUT
from tidemill.adapters.kubernetes.rollouts import ResourceRollouts

ROLLOUTS_AT_ONCE = 12
BAD = frozenset(range(0, ROLLOUTS_AT_ONCE, 5))
"""Numbers of those whose canary is harmful."""


class Named:
    """One of many rollouts, under the name that a world of one has for its own."""

    def __init__(self, objects: Any, namespace: str, name: str, world: ResourceWorld) -> None:
        self.log: list[Any] = []
        self._name = name
        self._rollouts = ResourceRollouts(
            objects, namespace, lambda: world.now, lambda _, decision: self.log.append(decision)
        )

    def __getattr__(self, verb: str) -> Any:
        return lambda _, *arguments: getattr(self._rollouts, verb)(self._name, *arguments)


def play(world: ResourceWorld, number: int, second: int) -> None:
    if second == 2:
        world.want("v2")
    if second == 8 and number in BAD:
        world.rates(v2=0.9)
    world.now += timedelta(seconds=1)
    world.traffic.send(200)
    world.settle()


@pytest.mark.slow
def test_a_dozen_in_flight_decide_as_each_would_alone(cluster, api, namespace):
    sent: Counter[str] = Counter()
    stop = Event()
    with client(cluster) as counted:
        counted._http.event_hooks["request"] = [lambda request: count(sent, request)]
        watched = {ROLLOUTS: {}, DEPLOYMENTS: {ROLLOUT: ""}}
        cache = Cache(counted, watched, namespace, lambda *_: None)
        worlds = []
        for number in range(ROLLOUTS_AT_ONCE):
            world = ResourceWorld(SHORT)
            name = f"{NAME}-{number}"
            api.create(ROLLOUTS, manifest(namespace, name, model=model(1), **SHORT))
            world.store = Named(cache, namespace, name, world)
            world.restart()
            worlds.append(world)
        cache.start(stop)
        try:
            assert cache.wait(30)
            sent.clear()
            for second in range(22):
                for number, world in enumerate(worlds):
                    play(world, number, second)
        finally:
            stop.set()
            cache.end()
    for number, world in enumerate(worlds):
        alone = ResourceWorld(SHORT)
        alone.want("v1")
        for second in range(22):
            play(alone, number, second)
        assert world.store.log == alone.store.log, number
        assert world.state.history[0].outcome == ("rolled_back" if number in BAD else "promoted"), (
            number
        )
        assert world.traffic.failed == 0
    written = sum(len(world.store.log) for world in worlds)
    looks = 22 * ROLLOUTS_AT_ONCE
    assert sent["GET"] <= 1, "reads cost nothing: the cache was listed before"
    assert sent["PUT"] <= looks + written + ROLLOUTS_AT_ONCE, "one write for a look, one a decision"


def count(sent: Counter[str], request: httpx.Request) -> None:
    """Count requests; a watch is none: it is open all the time."""
    if "watch" not in request.url.params:
        sent[request.method] += 1
