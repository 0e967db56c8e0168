"""Rollout: its verbs and its controller, on this machine or on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tidemill.errors import UsageError
from tidemill.wiring.serving import ServingParts

if TYPE_CHECKING:
    import httpx

    from tidemill.controller.desk import Desk
    from tidemill.controller.loop import Controller
    from tidemill.domain.rollout.flight import Rollout
    from tidemill.wiring.kubernetes import RolloutFleet

__all__ = ["RolloutParts"]


class RolloutParts(ServingParts):
    """What people and pipelines do with the project's rollout."""

    @contextmanager
    def desk(self, on: str = "") -> Iterator[Desk]:
        """Lend the verbs of the project's rollout; `on` is by default `rollout.target`."""
        if self._rolls_out_on(on) == "kubernetes":
            from tidemill.adapters.kubernetes.access import connect

            with connect() as http:
                yield self._cluster_desk(http)
            return
        from tidemill.controller.desk import Desk

        yield Desk(
            self.settings.name,
            self.rollouts,
            self.revision,
            nobody="tidemill up starts the controller",
            look_seconds=0.2,
        )

    def deploy(self, reference: str, seconds: float) -> None:
        """Start a version's rollout and follow it for so long; 0 starts it alone.

        Raises Refused when it is given up, Timeout when it is undecided then.
        """
        from tidemill.controller.loop import tell

        with self.desk() as desk:
            wanted = desk.start(reference).desired
            if seconds:
                desk.follow(wanted.revision, seconds, tell)

    def survey(self) -> list[Rollout]:
        """Return the rollouts of the model, where `rollout.target` has them.

        Raises what reading them raises.
        """
        from tidemill.domain.rollout.flight import Rollout

        name = self.settings.name
        if self._rolls_out_on("") == "kubernetes":
            return self._cluster_survey()
        spec = self.rollouts.spec(name)
        state, _ = self.rollouts.state(name)
        if spec is None:
            return [Rollout(name, None, state)]
        return [Rollout(name, spec.desired, state, spec.paused)]

    def _cluster_survey(self) -> list[Rollout]:
        from tidemill.adapters.kubernetes.access import connect
        from tidemill.adapters.kubernetes.client import KubeClient
        from tidemill.adapters.kubernetes.survey import survey

        with connect() as http:
            return survey(KubeClient(http), self._namespace(), self.settings.registry.model)

    def _namespace(self) -> str:
        from tidemill.adapters.kubernetes.access import namespace

        return self.settings.rollout.kubernetes.namespace or namespace()

    def _cluster_desk(self, http: httpx.Client) -> Desk:
        from tidemill.adapters.kubernetes.client import KubeClient
        from tidemill.adapters.kubernetes.draft import Draft
        from tidemill.adapters.kubernetes.rollouts import ResourceRollouts
        from tidemill.controller.desk import Desk

        settings = self.settings
        return Desk(
            settings.name,
            ResourceRollouts(
                KubeClient(http),
                self._namespace(),
                lambda: datetime.now(UTC),
                draft=Draft(settings),
            ),
            self.revision,
            nobody="is the controller running? kubectl get pods --all-namespaces"
            " -l app.kubernetes.io/name=tidemill,app.kubernetes.io/component=controller",
            look_seconds=2.0,
        )

    def _rolls_out_on(self, place: str) -> str:
        place = place or self.settings.rollout.target
        if place not in ("local", "kubernetes"):
            raise UsageError(f"rollouts run on 'local' or 'kubernetes', not on '{place}'")
        return place

    def rollout_controller(
        self, on: str, namespace: str, address: tuple[str, int]
    ) -> Controller | RolloutFleet:
        """Return what brings rollouts forward: this project's, or all of a cluster.

        On a cluster those of `namespace`, of all if it is empty; the probes answer at `address`.
        """
        if self._rolls_out_on(on) == "kubernetes":
            return self.rollout_fleet(namespace, address)
        return self.controller
