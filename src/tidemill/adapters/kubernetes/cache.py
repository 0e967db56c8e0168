"""What the API server says of some kinds of object, kept current by watches.

A read costs no request; a write goes to the server, and its answer is in memory before the next
read. An object is replaced only by a newer version of itself, so an event that comes late or twice
changes nothing. Versions are decimal numbers (KEP-5504). Nobody may change what a read returns. Who
set which field (`managedFields`) is not kept: it is half of many an object, and a write without it
leaves it be.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from threading import Event, Lock, Thread

import structlog

from tidemill.adapters.kubernetes.client import Expired, KubeClient, Manifest, Resource
from tidemill.adapters.kubernetes.owned import ROLLOUT
from tidemill.errors import NotFound, TidemillError

__all__ = ["Cache"]

log = structlog.get_logger(__name__)
RETRY_SECONDS = 1.0
MAX_RETRY_SECONDS = 30.0
Changed = Callable[[Resource, Manifest, Manifest | None], None]
"""Told of the object and what it was before."""


class _Store:
    """Objects of one kind, by name and by the rollout that they belong to."""

    def __init__(self) -> None:
        self.synced = Event()
        self._lock = Lock()
        self._objects: dict[tuple[str, str], Manifest] = {}
        self._members: dict[tuple[str, str], dict[str, Manifest]] = {}
        self._gone: deque[str] = deque(maxlen=1000)

    def get(self, namespace: str, name: str) -> Manifest | None:
        return self._objects.get((namespace, name))

    def select(self, namespace: str, labels: Mapping[str, str]) -> list[Manifest]:
        with self._lock:
            rollout = labels.get(ROLLOUT)
            members = self._members.get((namespace, rollout), {}) if rollout else self._objects
            found = list(members.values())
        return [
            entry
            for entry in found
            if entry["metadata"].get("namespace") == namespace
            and labels.items() <= entry["metadata"].get("labels", {}).items()
        ]

    def put(self, found: Manifest) -> tuple[bool, Manifest | None]:
        """Take in an object; return whether it was news, and what it was before."""
        key = _key(found)
        with self._lock:
            before = self._objects.get(key)
            known = found["metadata"]["uid"] in self._gone
            if known or (before is not None and _version(before) >= _version(found)):
                return False, before
            self._forget(key)
            self._objects[key] = found
            if rollout := found["metadata"].get("labels", {}).get(ROLLOUT):
                self._members.setdefault((key[0], rollout), {})[key[1]] = found
        return True, before

    def drop(self, found: Manifest) -> bool:
        """Forget an object that was deleted; return whether it was known."""
        with self._lock:
            self._gone.append(found["metadata"]["uid"])
            before = self._objects.get(_key(found))
            if before is None or before["metadata"]["uid"] != found["metadata"]["uid"]:
                return False
            self._forget(_key(found))
        return True

    def absent(self, present: Iterable[Manifest]) -> list[Manifest]:
        """Return what is known here and not in a complete list."""
        uids = {found["metadata"]["uid"] for found in present}
        with self._lock:
            return [e for e in self._objects.values() if e["metadata"]["uid"] not in uids]

    def _forget(self, key: tuple[str, str]) -> None:
        before = self._objects.pop(key, None)
        if before is not None:
            owner = key[0], before["metadata"].get("labels", {}).get(ROLLOUT, "")
            members = self._members.get(owner, {})
            members.pop(key[1], None)
            if not members:
                self._members.pop(owner, None)


class Cache:
    """Implements `client.Objects` in front of a client; kinds that are not watched pass through."""

    def __init__(
        self,
        client: KubeClient,
        watched: Mapping[Resource, Mapping[str, str]],
        namespace: str,
        changed: Changed,
    ) -> None:
        """Watch the kinds with their labels, in `namespace` or, if it is empty, in all."""
        self._client = client
        self._watched = watched
        self._namespace = namespace
        self._changed = changed
        self._stores = {resource: _Store() for resource in watched}
        self._threads: list[Thread] = []

    def start(self, stop: Event) -> None:
        """Begin to watch, until `stop` is set."""
        for resource in self._watched:
            thread = Thread(
                target=self._follow, args=(resource, stop), name=resource.plural, daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def end(self) -> None:
        """Wait for the watches to end; `stop` is set."""
        for thread in self._threads:
            while thread.is_alive():
                self._client.interrupt()
                thread.join(0.2)

    def wait(self, seconds: float) -> bool:
        """Return whether every kind was listed once within `seconds` each."""
        return all(store.synced.wait(seconds) for store in self._stores.values())

    def dead(self) -> list[str]:
        """Return the kinds that nobody watches any more."""
        return [thread.name for thread in self._threads if not thread.is_alive()]

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest:
        """Return one object as it was last seen."""
        store = self._stores.get(resource)
        if store is None:
            return self._client.get(resource, namespace, name)
        found = store.get(namespace, name)
        if found is None:
            raise NotFound(f"{resource.kind} {namespace}/{name} is not found")
        return found

    def select(
        self, resource: Resource, namespace: str, labels: Mapping[str, str]
    ) -> list[Manifest]:
        """Return the objects of a namespace that carry `labels`, as they were last seen."""
        store = self._stores.get(resource)
        if store is None:
            return self._client.select(resource, namespace, labels)
        return store.select(namespace, labels)

    def all(self, resource: Resource) -> list[Manifest]:
        """Return every object of a watched kind."""
        return self._stores[resource].absent(())

    def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Make an object."""
        return self._seen(resource, self._client.create(resource, manifest))

    def apply(self, resource: Resource, manifest: Manifest, *, force: bool) -> Manifest:
        """Apply on the server."""
        return self._seen(resource, self._client.apply(resource, manifest, force=force))

    def replace(self, resource: Resource, manifest: Manifest, sub: str = "") -> Manifest:
        """Write a whole object at the version that it names."""
        return self._seen(resource, self._client.replace(resource, manifest, sub))

    def merge(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Change the given fields."""
        return self._seen(resource, self._client.merge(resource, manifest))

    def delete(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete an object unless it is known to be gone."""
        store = self._stores.get(resource)
        if store is None or store.get(namespace, name) is not None:
            self._client.delete(resource, namespace, name)

    def _seen(self, resource: Resource, found: Manifest) -> Manifest:
        if resource in self._stores:
            self._stores[resource].put(_slim(found))
        return found

    def _follow(self, resource: Resource, stop: Event) -> None:
        """List, then watch from there; after an error wait and go on where the watch ended."""
        version, failures = "", 0
        while not stop.is_set():
            try:
                if not version:
                    version = self._list(resource)
                for kind, found in self._client.watch(
                    resource, self._namespace, self._watched[resource], version
                ):
                    version, failures = found["metadata"]["resourceVersion"], 0
                    self._take(resource, kind, found)
                    if stop.is_set():
                        return
            except Expired:
                log.info("listing again: the watch is too old", kind=resource.kind)
                version = ""
            except NotFound:
                self._stores[resource].synced.set()  # the CRD is not installed; it may come
                version = ""
                stop.wait(MAX_RETRY_SECONDS)
            except TidemillError as error:
                if stop.is_set():
                    return
                failures += 1
                wait = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2.0**failures)
                log.warning("watch broke off", kind=resource.kind, problem=error.message)
                stop.wait(wait * random.uniform(0.5, 1.0))  # noqa: S311 - spreads retries

    def _list(self, resource: Resource) -> str:
        found, version = self._client.page(resource, self._namespace, self._watched[resource])
        store = self._stores[resource]
        for gone in store.absent(found):
            self._take(resource, "DELETED", gone)
        for entry in found:
            self._take(resource, "ADDED", entry)
        store.synced.set()
        return version

    def _take(self, resource: Resource, kind: str, found: Manifest) -> None:
        store = self._stores[resource]
        _slim(found)
        if kind == "DELETED":
            if store.drop(found):
                self._changed(resource, found, found)
        elif kind != "BOOKMARK":
            news, before = store.put(found)
            if news:
                self._changed(resource, found, before)


def _slim(found: Manifest) -> Manifest:
    found["metadata"].pop("managedFields", None)
    return found


def _key(found: Manifest) -> tuple[str, str]:
    return found["metadata"].get("namespace", ""), found["metadata"]["name"]


def _version(found: Manifest) -> int:
    return int(found["metadata"]["resourceVersion"])
