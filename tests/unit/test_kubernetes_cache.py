"""The cache against a scripted API server: late, doubled and lost events, 410, restarts."""

from __future__ import annotations

import copy
import queue
from collections.abc import Iterator, Mapping
from threading import Event
from typing import Any

import pytest

from tidemill.adapters.kubernetes import cache as module
from tidemill.adapters.kubernetes.cache import Cache
from tidemill.adapters.kubernetes.client import (
    DEPLOYMENTS,
    HTTP_ROUTES,
    POLICIES,
    ROLLOUTS,
    Expired,
    Manifest,
    Resource,
)
from tidemill.adapters.kubernetes.keys import concerned
from tidemill.adapters.kubernetes.owned import ROLLOUT
from tidemill.errors import Conflict, NotFound, Unavailable


def thing(name: str, version: int, uid: str = "", **labels: str) -> Manifest:
    metadata = {
        "name": name,
        "namespace": "ml",
        "uid": uid or name,
        "resourceVersion": str(version),
        "labels": labels,
        "generation": 1,
    }
    return {"metadata": metadata}


class ScriptedServer:
    """Lists what it has; a watch tells what is put into `events`, an exception ends it."""

    def __init__(self, *objects: Manifest) -> None:
        self.objects = list(objects)
        self.events: queue.Queue[Any] = queue.Queue()
        self.lists = 0
        self.watched_from: list[str] = []
        self.version = 100

    def page(self, *_: object) -> tuple[list[Manifest], str]:
        self.lists += 1
        if isinstance(self.objects[0] if self.objects else None, Exception):
            raise self.objects.pop(0)
        return copy.deepcopy(self.objects), str(self.version)

    def watch(
        self, _: Resource, __: str, ___: Mapping[str, str], version: str
    ) -> Iterator[tuple[str, Manifest]]:
        self.watched_from.append(version)
        while True:
            event = self.events.get()
            if event is None:
                return
            if isinstance(event, Exception):
                raise event
            yield event

    def replace(self, _: Resource, manifest: Manifest, __: str = "") -> Manifest:
        return manifest

    def get(self, _: Resource, __: str, name: str) -> Manifest:
        raise NotFound(f"the server has no {name}")

    def interrupt(self) -> None:
        self.events.put(None)


class Watching:
    """A cache of Deployments that follows a scripted server."""

    def __init__(self, *objects: Any) -> None:
        self.server = ScriptedServer(*objects)
        self.stop = Event()
        self.heard: queue.Queue[str] = queue.Queue()
        self.cache = Cache(self.server, {DEPLOYMENTS: {}}, "ml", self._hear)

    def _hear(self, _: Resource, found: Manifest, before: Manifest | None) -> None:
        self.heard.put(found["metadata"]["name"])

    def __enter__(self) -> Watching:
        self.cache.start(self.stop)
        assert self.cache.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.cache.end()
        assert self.cache.dead() == ["deployments"]

    def tell(self, kind: str, found: Manifest) -> None:
        self.server.events.put((kind, found))

    def seen_until(self, name: str) -> list[str]:
        """Return the names that were heard, up to `name`."""
        heard = [self.heard.get(timeout=5)]
        while heard[-1] != name:
            heard.append(self.heard.get(timeout=5))
        return heard

    def version(self, name: str) -> str:
        return self.cache.get(DEPLOYMENTS, "ml", name)["metadata"]["resourceVersion"]


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(module, "MAX_RETRY_SECONDS", 0.05)


def test_events_that_come_late_or_twice_change_nothing():
    with Watching(thing("a", 5)) as watching:
        watching.tell("MODIFIED", thing("a", 7))
        watching.tell("MODIFIED", thing("a", 7))
        watching.tell("MODIFIED", thing("a", 6))
        watching.tell("ADDED", thing("end", 8))
        assert watching.seen_until("end") == ["a", "a", "end"]
        assert watching.version("a") == "7"


def test_what_was_written_is_read_before_its_event_comes():
    with Watching(thing("a", 5)) as watching:
        watching.cache.replace(DEPLOYMENTS, thing("a", 9))
        assert watching.version("a") == "9"
        watching.tell("MODIFIED", thing("a", 8))
        watching.tell("ADDED", thing("end", 10))
        watching.seen_until("end")
        assert watching.version("a") == "9"


def test_what_is_gone_stays_gone():
    with Watching(thing("a", 5)) as watching:
        watching.tell("DELETED", thing("a", 6))
        watching.tell("ADDED", thing("end", 7))
        watching.seen_until("end")
        watching.cache.replace(DEPLOYMENTS, thing("a", 6))
        with pytest.raises(NotFound):
            watching.version("a")
        watching.tell("ADDED", thing("a", 8, uid="another"))
        assert watching.seen_until("a") == ["a"]


def test_after_410_it_lists_again_and_notices_what_it_missed():
    with Watching(thing("a", 5), thing("b", 5)) as watching:
        watching.seen_until("b")
        watching.server.objects = [thing("b", 9), thing("c", 9)]
        watching.server.events.put(Expired("too old"))
        assert watching.seen_until("c") == ["a", "b", "c"]
        with pytest.raises(NotFound):
            watching.version("a")
        assert watching.server.lists == 2


def test_a_broken_watch_goes_on_where_it_ended():
    with Watching(thing("a", 5)) as watching:
        watching.tell("BOOKMARK", thing("", 150))
        watching.server.events.put(Unavailable("silence"))
        watching.tell("ADDED", thing("end", 151))
        watching.seen_until("end")
        assert watching.server.lists == 1
        assert watching.server.watched_from[:2] == ["100", "150"]


def test_a_kind_that_is_not_installed_does_not_hold_up_the_rest():
    with Watching(NotFound("no such CRD")) as watching:
        watching.server.objects = [thing("late", 5)]
        assert watching.seen_until("late") == ["late"]


def test_members_are_found_by_their_rollout():
    mine = {ROLLOUT: "churn"}
    with Watching(thing("a", 1, **mine), thing("b", 1), thing("c", 1, **mine)) as watching:
        cache = watching.cache
        names = [d["metadata"]["name"] for d in cache.select(DEPLOYMENTS, "ml", mine)]
        assert names == ["a", "c"]
        assert cache.select(DEPLOYMENTS, "other", mine) == []
        assert len(cache.select(DEPLOYMENTS, "ml", {})) == 3
        watching.tell("MODIFIED", thing("a", 2))
        watching.tell("ADDED", thing("end", 3))
        watching.seen_until("end")
        assert len(cache.select(DEPLOYMENTS, "ml", mine)) == 1


def test_kinds_that_are_not_watched_are_asked_for():
    with Watching() as watching, pytest.raises(NotFound, match="the server has no x"):
        watching.cache.get(POLICIES, "ml", "x")


def rollout(name: str, **spec: Any) -> Manifest:
    body = thing(name, 1)
    body["spec"] = {"analysis": {}, "traffic": {}} | spec
    return body


@pytest.mark.parametrize(
    ("resource", "found", "before", "keys"),
    [
        (ROLLOUTS, thing("churn", 2), None, ["ml/churn"]),
        (ROLLOUTS, thing("churn", 2), thing("churn", 1), []),
        (ROLLOUTS, thing("churn", 2, uid="other"), thing("churn", 1), ["ml/churn"]),
        (DEPLOYMENTS, thing("churn-1", 2, **{ROLLOUT: "churn"}), None, ["ml/churn"]),
        (HTTP_ROUTES, thing("api", 2), None, ["ml/attached"]),
        (HTTP_ROUTES, thing("foreign", 2), None, []),
        (POLICIES, thing("default", 2), None, ["ml/reader"]),
    ],
)
def test_who_is_woken(resource, found, before, keys):
    rollouts = [
        rollout("attached", traffic={"routeRef": {"name": "api", "rule": "r"}}),
        rollout("reader", analysis={"policyRef": {"name": "default"}}),
    ]
    assert concerned(resource, found, before, lambda: rollouts) == keys


def test_a_rollout_that_was_deleted_wakes_its_key():
    gone = thing("churn", 2)
    assert concerned(ROLLOUTS, gone, gone, list) == ["ml/churn"]


def test_a_conflict_is_the_callers(monkeypatch):
    with Watching(thing("a", 5)) as watching:

        def refuse(*_: object) -> Manifest:
            raise Conflict("somebody else")

        monkeypatch.setattr(watching.server, "replace", refuse)
        with pytest.raises(Conflict):
            watching.cache.replace(DEPLOYMENTS, thing("a", 9))
        assert watching.version("a") == "5"
