"""What the governor is told of a rollout, through a whole attempt of the real machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.rollout_world import NAME, World, plan, revision

from tidemill.adapters.kubernetes.draft import Draft
from tidemill.adapters.kubernetes.survey import survey
from tidemill.domain.rollout.flight import Rollout
from tidemill.domain.rollout.freeze import make_freeze
from tidemill.errors import DataError
from tidemill.settings import Settings, load


def seen(world: World) -> Rollout:
    spec = world.store.spec(NAME)
    return Rollout(NAME, spec and spec.desired, world.state, bool(spec and spec.paused))


def said(world: World) -> str:
    return seen(world).in_flight


def story(world: World, until: str = "stable", limit: int = 600) -> list[str]:
    """Let seconds pass until a phase is reached; return what was said on the way, once each."""
    told: list[str] = []
    for _ in range(limit):
        if (what := said(world)) not in told[-1:]:
            told.append(what)
        if world.phase == until and world.state.attempts:
            return told
        world.run(1)
    raise AssertionError(world.log)


def released() -> World:
    world = World()
    assert said(world) == "", "nothing was ever wanted"
    world.want("v1")
    assert said(world) == "version 1 is wanted and has not begun"
    world.run(3)
    assert said(world) == "", "the first version serves"
    assert seen(world).serving == "v1"
    return world


def test_a_promotion_is_in_flight_from_the_order_to_the_end() -> None:
    world = released()
    world.want("v2")
    told = story(world)
    assert told[0] == "version 2 is wanted and has not begun"
    assert "version 2 is progressing at step c25" in told
    assert "version 2 is finalizing at step c50" in told
    assert told[-1] == ""
    assert seen(world).serving == "v2"
    assert (seen(world).replaced("v1"), seen(world).replaced("v9")) == ("v2", "")
    assert "" not in told[:-1], "no gap on the way"
    assert len(told) < 10, "nothing that is counted"


def test_a_rollback_ends_it_and_what_failed_is_not_waited_for() -> None:
    world = released()
    world.rates(v2=0.5)
    world.want("v2")
    told = story(world)
    assert any(what.startswith("version 2 is rolling back") for what in told)
    assert told[-1] == ""
    assert (world.state.closed, seen(world).serving) == ("v2", "v1")
    assert seen(world).replaced("v2") == "", "it never had all traffic"


def test_what_came_back_is_not_replaced() -> None:
    world = released()
    world.want("v2")
    world.run(1)
    world.run_until("stable")
    assert seen(world).replaced("v1") == "v2"
    world.want("v1")
    assert seen(world).replaced("v1") == "", "it is on its way"
    world.run(1)
    world.run_until("stable")
    assert (seen(world).replaced("v1"), seen(world).replaced("v2")) == ("", "v1")


def test_servers_are_known_by_what_they_report_not_by_their_objects() -> None:
    """On a cluster a revision is of digest and runtime; logs and incidents have the digest."""
    world = released()
    for name, served in (("v2", "v2"), ("v1", "v1")):
        other = replace(revision(name), revision=f"{name}-image")
        spec = world.store.spec(NAME)
        world.traffic.rates[other.revision] = world.traffic.rates[name]
        world.store.propose(NAME, replace(spec, generation=spec.generation + 1, desired=other))
        world.run(1)
        world.run_until("stable")
        assert seen(world).serving == served
    assert (seen(world).replaced("v1"), seen(world).replaced("v2")) == ("", "v1")


def test_the_first_deployment_is_in_flight() -> None:
    world = World()
    world.servers.broken.add("v1")
    world.want("v1")
    world.run(3)
    assert said(world) == "version 1 is initializing"


def test_why_it_does_not_go_on_is_said() -> None:
    steps = (replace(plan().steps[0], approval=True), *plan().steps[1:])
    world = World(plan(steps=steps))
    world.want("v1")
    world.run(3)
    world.want("v2")
    world.run(20)
    assert said(world) == "version 2 is progressing at step c5 (waits for approval)"
    world.change(paused=True)
    world.run(1)
    assert said(world) == "version 2 is paused at step c5 (user)"
    world.change(paused=False, command=None)
    world.command("resume", "v2")
    world.run(2)
    world.command("abort", "v2")
    assert story(world)[-1] == ""


def test_a_pause_or_a_freeze_before_the_first_step_is_said() -> None:
    world = released()
    world.want("v2", paused=True)
    world.run(3)
    assert said(world) == "version 2 is wanted and has not begun (user)"
    mornings = make_freeze(["mon"], "00:00", "12:00", "UTC")
    world.plan = plan(freeze=(mornings,))
    world.want("v2")
    world.run(10)
    assert said(world) == "version 2 is preparing at step c5 (frozen until 2013-04-01 12:00 UTC)"


def test_what_is_queued_behind_an_attempt_leaves_no_gap() -> None:
    world = World(plan(on_new_revision="queue"))
    world.want("v1")
    world.run(3)
    world.want("v2")
    world.run(3)
    world.want("v3")
    world.run_until("stable")
    assert said(world) == "version 3 is wanted and has not begun"
    assert seen(world).serving == "", "not for long"


def cluster() -> Settings:
    image = f"r.test/serve@sha256:{'1' * 64}"
    images = f"execution.images={{serve: '{image}', registry: '{image}'}}"
    return load(None, assignments=[images, "rollout.kubernetes.gateway=public"]).settings


class Listed:
    """An API server that knows these ModelRollouts."""

    def __init__(self, *found: dict[str, Any]) -> None:
        self.found = found

    def select(self, *_: object) -> tuple[dict[str, Any], ...]:
        return self.found


def test_a_resource_that_cannot_be_read_is_no_rollout_at_rest() -> None:
    broken = {"metadata": {"name": "churn"}, "spec": {"model": {"name": NAME}}}
    with pytest.raises(DataError, match=r"ModelRollout churn cannot be read: .*model\.version"):
        survey(Listed(broken), "ml", NAME)
    assert survey(Listed(broken), "ml", "another") == []


def test_a_paused_resource_that_has_not_begun_says_so() -> None:
    wanted = replace(revision("v2"), digest="sha256:" + "2" * 64)
    spec = Draft(cluster()).spec(wanted)
    for paused, end in ((True, "not begun (user)"), (False, "not begun")):
        found = {"metadata": {"name": "churn"}, "spec": spec | {"paused": paused}}
        (one,) = survey(Listed(found), "ml", spec["model"]["name"])
        assert one.in_flight.endswith(end)
