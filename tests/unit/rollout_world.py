"""A world of fakes around the real controller, on a virtual clock."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args

from tidemill.controller.loop import Controller, Hands
from tidemill.domain.evidence import TOTAL, Metric, Tolerance
from tidemill.domain.rollout.model import (
    Action,
    Command,
    Phase,
    Plan,
    Policy,
    Revision,
    Spec,
    State,
    Step,
)
from tidemill.testing.rollout import (
    FakeGateway,
    FakeReleases,
    FakeServers,
    FakeTraffic,
    MemoryRollouts,
)

START = datetime(2013, 4, 1, tzinfo=UTC)
NAME = "flight-delay"
IN_FLIGHT = [one for one in get_args(Phase) if one not in ("empty", "initializing", "stable")]
"""Phases that have an attempt; the last is the way back."""


def revision(name: str) -> Revision:
    return Revision(
        name, NAME, name.removeprefix("v"), f"sha256:{name}", f"/b/{name}", 0.25, (0.1, 0.3)
    )


def plan(**changes: object) -> Plan:
    base = Plan(
        steps=(
            Step("c5", 500, (), 300, 0, 3600, False),
            Step("c25", 2500, ("errors",), 600, 0, 7200, False),
            Step("c50", 5000, ("errors",), 600, 5, 7200, False),
        ),
        metrics=(
            Metric("errors", "error", 1.2, 2.0, 0.2, 0.006),
            Metric("slow", "slow", 1.2, 2.0, None, 0.002),
            Metric("wrong", "wrong", 1.1, 1.5, None, 0.002),
        ),
        tolerance=Tolerance(0.05, 0.0001, 5, 0.8),
        policy=Policy("rollback", "pause", "pause", "freeze", "supersede"),
        maturation_seconds=3600,
        settle_seconds=1,
        missing_after_seconds=30,
        max_gap=0.05,
        progress_deadline_seconds=60,
        scale_down_seconds=5,
        interval_seconds=1,
    )
    policy = {k: v for k, v in changes.items() if k in Policy.__dataclass_fields__}
    others = {k: v for k, v in changes.items() if k not in policy}
    return replace(base, policy=replace(base.policy, **policy), **others)


class World:
    """Everything a rollout touches; `run` lets seconds pass with traffic in each of them."""

    def __init__(self, the_plan: Plan | None = None, *, seed: int = 0) -> None:
        self.plan = the_plan or plan()
        self.store = MemoryRollouts(self.plan)
        self.servers = FakeServers()
        self.gateway = FakeGateway()
        self.traffic = FakeTraffic(self.servers, self.gateway, seed=seed)
        self.releases = FakeReleases()
        self.now = START
        self.commands = 0
        self.controller = self.restart()
        self.rates(v1=0.02, v2=0.02, v3=0.02)

    def restart(self) -> Controller:
        hands = Hands(self.servers, self.gateway, self.traffic, self.releases)
        self.controller = Controller(
            NAME, self.store, self.store, hands, self._Clock(self), lambda: self.now
        )
        return self.controller

    class _Clock:
        def __init__(self, world: World) -> None:
            self.world = world

        def now(self) -> datetime:
            return self.world.now

    def rates(self, **errors: float) -> None:
        for name, rate in errors.items():
            self.traffic.rates[name] = {"error": rate, "slow": 0.01}

    @property
    def state(self) -> State:
        return self.store.state(NAME)[0]

    @property
    def phase(self) -> str:
        return self.state.phase

    @property
    def log(self) -> list[tuple[str, str]]:
        return [(d.action, d.reason) for d in self.store.log]

    @property
    def actions(self) -> list[str]:
        return [d.action for d in self.store.log]

    def condition(self, kind: str) -> tuple[str, str]:
        found = next(c for c in self.state.conditions if c.type == kind)
        return found.status, found.reason

    def message(self, kind: str) -> str:
        """Return what the condition says to people."""
        return next(c.message for c in self.state.conditions if c.type == kind)

    def want(self, name: str, **changes: object) -> None:
        before = self.store.spec(NAME)
        generation = before.generation + 1 if before else 1
        spec = Spec(generation, revision(name), self.plan, **changes)
        self.store.propose(NAME, spec)

    def change(self, **changes: object) -> None:
        before = self.store.spec(NAME)
        assert before
        self.store.propose(NAME, replace(before, generation=before.generation + 1, **changes))

    def command(self, action: Action, name: str, step: str = "") -> None:
        self.commands += 1
        self.change(command=Command(str(self.commands), action, name, step))

    def settle(self) -> None:
        for _ in range(50):
            if self.controller.tick() != 0.0:
                return
        raise AssertionError("the controller never comes to rest")

    def run(self, seconds: int, requests: int = 200) -> None:
        for _ in range(seconds):
            self.now += timedelta(seconds=1)
            self.traffic.send(requests)
            self.settle()

    def run_until(self, phase: str, *, step: str = "", limit: int = 600) -> None:
        """Stop as soon as the phase (and step) is entered, even if it is left at once."""
        for _ in range(limit):
            self.now += timedelta(seconds=1)
            self.traffic.send(200)
            for _ in range(20):
                if self.phase == phase and step in ("", self.step):
                    return
                if self.controller.tick() != 0.0:
                    break
        raise AssertionError(f"{self.phase} after {limit} s, not {phase}: {self.log}")

    @property
    def step(self) -> str:
        attempt = self.state.attempt
        return attempt.plan.steps[attempt.step].name if attempt else ""

    def deploy(self) -> None:
        self.want("v1")
        self.settle()
        self.run(2)
        assert self.phase == "stable"

    def bring_to(self, phase: str) -> None:
        """Want v2; stop as soon as the phase is entered, which may take a pause or an abort."""
        self.want("v2")
        self.run_until("progressing" if phase in ("paused", "rolling_back") else phase)
        if phase == "paused":
            self.change(paused=True)
        if phase == "rolling_back":
            self.command("abort", "v2")
        if self.phase != phase:
            self.run_until(phase)

    def weight(self, name: str) -> int:
        return self.gateway.weights().get(name, 0)

    def total(self) -> int:
        return sum(self.gateway.weights().values())


__all__ = ["IN_FLIGHT", "NAME", "START", "TOTAL", "World", "plan", "revision"]
