"""The cache behind a real API server: a version that is too old, and bookmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import httpx
import pytest
from tests.cluster.rollouts import client, eventually, manifest

from tidemill.adapters.kubernetes.cache import Cache
from tidemill.adapters.kubernetes.client import ROLLOUTS, Expired, KubeClient, Manifest

NAME = "flight-delay"


@contextmanager
def following(api: Any, namespace: str) -> Iterator[Cache]:
    """Run a cache of rollouts."""
    stop = Event()
    cache = Cache(api, {ROLLOUTS: {}}, namespace, lambda *_: None)
    cache.start(stop)
    try:
        assert cache.wait(30)
        yield cache
    finally:
        stop.set()
        cache.end()


class Old:
    """A client whose first list is older than anything that the API server still knows."""

    def __init__(self, api: KubeClient) -> None:
        self._api = api
        self.lists = 0
        self.expired: list[str] = []

    def page(self, *arguments: Any) -> tuple[list[Manifest], str]:
        self.lists += 1
        return ([], "1") if self.lists == 1 else self._api.page(*arguments)

    def watch(self, *arguments: Any) -> Iterator[tuple[str, Manifest]]:
        try:
            yield from self._api.watch(*arguments)
        except Expired as error:
            self.expired.append(error.message)
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)


def test_what_the_api_server_calls_gone_is_listed_again(api, namespace):
    api.create(ROLLOUTS, manifest(namespace))
    old = Old(api)
    with following(old, namespace) as cache:
        eventually(lambda: cache.all(ROLLOUTS))
        assert old.expired
        assert "too old resource version" in old.expired[0]
        assert old.lists == 2, "and watches from there"


@pytest.mark.slow
def test_a_watch_goes_on_from_the_bookmark_that_it_got(cluster, api, namespace, elsewhere):
    """The API server sends one shortly before a watch's time is over: here after six seconds."""
    asked: list[int] = []

    def shorten(request: httpx.Request) -> None:
        if "watch" in request.url.params:
            asked.append(int(request.url.params["resourceVersion"]))
            request.url = request.url.copy_set_param("timeoutSeconds", "6")

    api.create(ROLLOUTS, manifest(namespace))
    with client(cluster) as short:
        short._http.event_hooks["request"] = [shorten]
        with following(short, namespace) as cache:
            made = api.create(ROLLOUTS, manifest(elsewhere, "other"))
            eventually(lambda: len(asked) > 1)
            version = int(made["metadata"]["resourceVersion"])
            assert asked[1] >= version > asked[0], "nothing of this namespace had changed"
            assert [one["metadata"]["name"] for one in cache.all(ROLLOUTS)] == [NAME]


def test_a_write_of_what_was_read_keeps_who_set_which_field(api, namespace):
    made = api.create(ROLLOUTS, manifest(namespace))
    with following(api, namespace) as cache:
        (found,) = eventually(lambda: cache.all(ROLLOUTS))
        assert "managedFields" not in found["metadata"]
        cache.replace(ROLLOUTS, found | {"spec": found["spec"] | {"paused": True}})
    after = api.get(ROLLOUTS, namespace, NAME)
    assert after["spec"]["paused"]
    assert made["metadata"]["managedFields"][0]["manager"] in {
        entry["manager"] for entry in after["metadata"]["managedFields"]
    }
