"""Who of several controllers acts: the holder of a Lease, as client-go elects it.

The Lease only spares work and noise: safety comes from compare-and-swap on every state. A holder is
believed gone when its Lease has not changed for `DURATION` on our own monotonic clock; no two
clocks are compared. In a pod the Lease is owned by the service account of its holder: it goes when
the account does, also if the last holder could not give it back.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from threading import Event

import structlog

from tidemill.adapters.kubernetes.client import LEASES, KubeClient, Manifest, Objects
from tidemill.errors import Conflict, NotFound, TidemillError

__all__ = ["Election", "account"]

log = structlog.get_logger(__name__)
DURATION = 15.0
RENEW = 10.0
"""A holder that could not renew for this long stops: before anybody may take its place."""
RETRY = 2.0


ACCOUNT = "system:serviceaccount"


def account(client: KubeClient, namespace: str) -> Manifest | None:
    """Return the reference to the service account that asks, as an owner of objects beside it.

    None when it is another identity, or of another namespace, or the API server does not say.
    """
    try:
        user = client.whoami()
    except TidemillError as error:
        log.warning("the Lease will outlive the service account", problem=error.message)
        return None
    kind, _, rest = user["username"].rpartition(f":{namespace}:")
    if kind != ACCOUNT:
        return None
    return {"apiVersion": "v1", "kind": "ServiceAccount", "name": rest, "uid": user["uid"]}


class Election:
    """Takes part in the election for one Lease."""

    def __init__(
        self,
        objects: Objects,
        namespace: str,
        name: str,
        identity: str,
        monotonic: Callable[[], float] = time.monotonic,
        owner: Manifest | None = None,
    ) -> None:
        """`owner` is the reference to an object with which the Lease ends; see `account`."""
        self._objects = objects
        self._namespace = namespace
        self._name = name
        self._identity = identity
        self._monotonic = monotonic
        self._owned = {"ownerReferences": [owner]} if owner else {}
        self._seen = ("", 0.0)
        """Version of another's Lease, and when it was first seen."""

    def wait(self, stop: Event) -> bool:
        """Return True once we hold the Lease, False when `stop` was set first."""
        while not stop.is_set():
            if self.attempt():
                log.info("elected", lease=self._name, identity=self._identity)
                return True
            stop.wait(RETRY)
        return False

    def keep(self, stop: Event) -> None:
        """Renew until `stop` is set, then give the Lease back; set `stop` when it is lost."""
        renewed = self._monotonic()
        while not stop.wait(RETRY):
            if self.attempt():
                renewed = self._monotonic()
            elif self._monotonic() - renewed > RENEW:
                log.error("the Lease was lost: stopping", lease=self._name)
                stop.set()
                return
        self._give_back()

    def attempt(self) -> bool:
        """Take or renew the Lease if that is possible now; return whether we hold it."""
        try:
            found = self._objects.get(LEASES, self._namespace, self._name)
        except NotFound:
            return self._write(self._objects.create, self._lease({}))
        except TidemillError as error:
            log.warning("the Lease cannot be read", problem=error.message)
            return False
        holder = found["spec"].get("holderIdentity", "")
        if holder not in ("", self._identity) and not self._expired(found):
            return False
        return self._write(self._objects.replace, self._lease(found))

    def _expired(self, found: Manifest) -> bool:
        version, since = found["metadata"]["resourceVersion"], self._monotonic()
        if self._seen[0] != version:
            self._seen = (version, since)
        return since - self._seen[1] > DURATION

    def _lease(self, found: Manifest) -> Manifest:
        before = found.get("spec", {})
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        taken = before.get("holderIdentity") != self._identity
        metadata = {"name": self._name, "namespace": self._namespace}
        return {
            "apiVersion": LEASES.api,
            "kind": LEASES.kind,
            "metadata": found.get("metadata", metadata) | self._owned,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": int(DURATION),
                "acquireTime": now if taken else before["acquireTime"],
                "renewTime": now,
                "leaseTransitions": before.get("leaseTransitions", 0) + int(taken and bool(before)),
            },
        }

    def _write(self, write: Callable[..., Manifest], lease: Manifest) -> bool:
        try:
            write(LEASES, lease)
        except Conflict:
            return False
        except TidemillError as error:
            log.warning("the Lease cannot be written", problem=error.message)
            return False
        return True

    def _give_back(self) -> None:
        """Let the next one begin at once."""
        try:
            found = self._objects.get(LEASES, self._namespace, self._name)
            if found["spec"].get("holderIdentity") == self._identity:
                released = {"spec": found["spec"] | {"holderIdentity": ""}}
                self._objects.replace(LEASES, found | released)
        except TidemillError as error:
            log.warning("the Lease was not given back", problem=error.message)
