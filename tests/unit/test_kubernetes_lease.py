"""The election on a store with compare-and-swap, on a clock of our own."""

from __future__ import annotations

import copy
import itertools
from threading import Event

import pytest

from tidemill.adapters.kubernetes import lease as module
from tidemill.adapters.kubernetes.client import Manifest, Resource
from tidemill.adapters.kubernetes.lease import DURATION, RENEW, Election, account
from tidemill.errors import Conflict, NotFound, Unavailable


class Leases:
    """One Lease with the API server's compare-and-swap."""

    def __init__(self) -> None:
        self.lease: Manifest | None = None
        self.versions = itertools.count(1)
        self.away = False
        self.meanwhile: list[Election] = []

    def get(self, _: Resource, __: str, ___: str) -> Manifest:
        if self.away:
            raise Unavailable("no answer")
        if self.lease is None:
            raise NotFound("no lease")
        found = copy.deepcopy(self.lease)
        for other in self.meanwhile[:1]:
            self.meanwhile = []
            assert other.attempt()
        return found

    def create(self, _: Resource, lease: Manifest) -> Manifest:
        if self.lease is not None:
            raise Conflict("exists")
        return self._write(lease)

    def replace(self, _: Resource, lease: Manifest) -> Manifest:
        if self.away:
            raise Unavailable("no answer")
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("modified")
        return self._write(lease)

    def _write(self, lease: Manifest) -> Manifest:
        self.lease = copy.deepcopy(lease)
        self.lease["metadata"]["resourceVersion"] = str(next(self.versions))
        return self.lease

    @property
    def holder(self) -> str:
        return self.lease["spec"]["holderIdentity"]


class World:
    def __init__(self) -> None:
        self.now = 0.0
        self.leases = Leases()

    def election(self, identity: str) -> Election:
        return Election(self.leases, "ml", "controller", identity, lambda: self.now)


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_holds_it_and_the_second_waits(world):
    one, two = world.election("one"), world.election("two")
    assert one.attempt()
    for _ in range(20):
        world.now += 2
        assert one.attempt()
        assert not two.attempt()
    assert world.leases.lease["spec"]["leaseTransitions"] == 0


def test_a_holder_that_is_silent_is_replaced_after_the_duration(world):
    one, two = world.election("one"), world.election("two")
    assert one.attempt()
    assert not two.attempt()
    world.now += DURATION
    assert not two.attempt()
    world.now += 1
    assert two.attempt()
    assert world.leases.holder == "two"
    assert world.leases.lease["spec"]["leaseTransitions"] == 1
    assert not one.attempt()


def test_of_two_that_see_it_expired_one_gets_it(world):
    gone, one, two = (world.election(name) for name in ("gone", "one", "two"))
    gone.attempt()
    assert not one.attempt()
    assert not two.attempt()
    world.now += DURATION + 1
    world.leases.meanwhile = [two]
    assert not one.attempt()
    assert world.leases.holder == "two"


class Steps(Event):
    """A stop whose waiting moves the clock instead."""

    def __init__(self, world: World, until: float) -> None:
        super().__init__()
        self.world, self.until = world, until

    def wait(self, timeout: float | None = None) -> bool:
        self.world.now += timeout or 0
        return self.is_set() or self.world.now >= self.until


def test_a_holder_that_cannot_renew_stops_before_another_may_begin(world):
    one = world.election("one")
    assert one.wait(Steps(world, 1))
    world.leases.away = True
    stop = Steps(world, 1000)
    one.keep(stop)
    assert stop.is_set()
    assert RENEW < world.now < DURATION


def test_it_is_given_back_at_the_end(world):
    one, two = world.election("one"), world.election("two")
    assert one.attempt()
    one.keep(Steps(world, 30))
    assert world.leases.holder == ""
    assert two.attempt(), "at once"


OWNER = {"apiVersion": "v1", "kind": "ServiceAccount", "name": "controller", "uid": "u-1"}


def test_it_ends_with_the_account_of_who_holds_it(world):
    """One that an older release made is taken into the account's keeping; its labels stay."""
    world.election("old").attempt()
    world.leases.lease["metadata"]["labels"] = {"kept": "yes"}
    world.now += DURATION
    new = Election(world.leases, "ml", "controller", "new", lambda: world.now, OWNER)
    assert not new.attempt()
    world.now += DURATION + 1
    assert new.attempt()
    metadata = world.leases.lease["metadata"]
    assert metadata["ownerReferences"] == [OWNER]
    assert metadata["labels"] == {"kept": "yes"}


class Asked:
    """An API server that says who asks, or refuses to."""

    def __init__(self, username: str) -> None:
        self.username = username

    def whoami(self) -> Manifest:
        if not self.username:
            raise Unavailable("no answer")
        return {"username": self.username, "uid": "u-1"}


@pytest.mark.parametrize(
    ("username", "owner"),
    [
        ("system:serviceaccount:ml:controller", OWNER),
        ("system:serviceaccount:other:controller", None),
        ("system:serviceaccount:other:ml:controller", None),
        ("kubernetes-admin", None),
        ("", None),
    ],
)
def test_only_an_account_of_the_namespace_owns_it(username, owner):
    assert account(Asked(username), "ml") == owner


def test_an_election_that_is_stopped_elects_nobody(world):
    world.election("one").attempt()
    stop = Event()
    stop.set()
    assert not world.election("two").wait(stop)


def test_the_times_leave_room(world):
    assert module.RETRY < RENEW < DURATION
