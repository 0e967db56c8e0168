"""Specification and state of one ModelRollout: the resource's `spec` and `status`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pydantic import ValidationError

from tidemill.adapters.kubernetes.analysis import AnalysisSpec
from tidemill.adapters.kubernetes.client import (
    DEPLOYMENTS,
    POLICIES,
    ROLLOUTS,
    Manifest,
    NoKind,
    Objects,
)
from tidemill.adapters.kubernetes.draft import MANAGED, Draft, make_model
from tidemill.adapters.kubernetes.fields import brief
from tidemill.adapters.kubernetes.mirroring import Mirroring
from tidemill.adapters.kubernetes.owned import ROLLOUT
from tidemill.adapters.kubernetes.resources import (
    Control,
    ModelRolloutSpec,
    make_command,
    make_control,
    make_plan,
    make_revision,
)
from tidemill.adapters.kubernetes.scale import Scale, make_scale, said_scale, scaled
from tidemill.adapters.kubernetes.status import make_status, read_decisions, read_state
from tidemill.domain.rollout.model import Condition, Decision, Plan, Revision, Spec, State
from tidemill.errors import Conflict, DataError, NotFound, Refused

__all__ = ["ResourceRollouts"]


class ResourceRollouts:
    """Implements `ports.rollout.Specs` and `States`; a rollout's name is that of its resource.

    The version of a state is the object's resourceVersion, so a write also fails when the
    specification has changed since it was read. It is a decimal number (KEP-5504).
    """

    def __init__(
        self,
        objects: Objects,
        namespace: str,
        wall: Callable[[], datetime],
        heard: Callable[[Manifest, Decision], None] = lambda _object, _decision: None,
        draft: Draft | None = None,
    ) -> None:
        """`heard` is told each decision after it was written, with the object that it is about.

        `draft` is what the settings make; the controller has none.
        """
        self._objects = objects
        self._namespace = namespace
        self._wall = wall
        self._heard = heard
        self._draft = draft
        # The controller asks: who orders may not read Gateways, and needs not.
        self._mirroring = Mirroring(objects, namespace) if draft is None else None
        self._read_at = 0
        """Generation of the last specification that was given out and could run."""

    def spec(self, name: str) -> Spec | None:
        """Return the specification; of a broken one what an attempt in flight began with.

        None when there is no such rollout, or one that is broken and has no attempt.
        """
        found = self._find(name)
        if found is None:
            return None
        attempt = read_state(found.get("status", {})).attempt
        spec, _ = self._read(found)
        if spec is not None:
            self._read_at = spec.generation
        elif attempt is not None:
            body = found["spec"]
            generation, paused = found["metadata"]["generation"], bool(body.get("paused"))
            ordered = _control(body)
            return Spec(generation, attempt.canary, attempt.plan, paused, make_command(ordered))
        return spec

    def problem(self, name: str) -> str:
        """Say why the resource cannot run; empty when it can, as far as one may know."""
        found = self._find(name)
        if found is None:
            return ""
        return self._read(found)[1].message or ("" if self._mirroring else _refused(found))

    def wish(self, name: str, registered: Revision) -> Spec:
        """Return the specification that wants a version: of the settings, or of the resource.

        A resource without the label `app.kubernetes.io/managed-by: tidemill` is somebody's own:
        only its model becomes another.
        """
        found = self._find(name)
        return self._valid(name, self._body(found, registered))

    def acknowledge(self, name: str) -> None:
        """Say about the newest specification what the status does not say yet.

        For after a look that changed nothing: its generation was observed, whether it can run, and
        what an autoscaler reads.
        """
        found = self._object(name)
        _, said = self._read(found)
        status = found.get("status", {})
        known = {c["type"]: c for c in status.get("conditions", [])}
        state = read_state(status)
        same = known.get("SpecValid", {}).get("message") == said.message
        same = same and said_scale(status) == self._scale(name, state)
        behind = min((c["observedGeneration"] for c in known.values()), default=0)
        wanted = found["metadata"]["generation"] if said.status == "False" else self._read_at
        current = status.get("observedGeneration", 0) >= wanted
        if not (same and current and (said.status == "False" or behind >= wanted)):
            self._write(found, state, None)

    def plan(self, name: str) -> Plan:
        """Return the plan that an attempt begins with: the resource's, if it is somebody's own."""
        found = self._find(name)
        if self._draft is None or (found is not None and not _managed(found)):
            return self._valid(name, found["spec"] if found else {}).plan
        return self._draft.plan()

    def propose(self, name: str, spec: Spec, *, anew: bool = False) -> None:
        """Want another version, a pause or a command; raises Conflict, Refused.

        A resource that is not there is made. A pause or a command is taken by a resource that
        cannot run, too: what is in flight must be kept in hand.
        """
        found = self._find(name)
        if (found["metadata"]["generation"] if found else 0) != spec.generation - 1:
            raise Conflict(
                f"rollout {name}: somebody else was first", hint="look again, then repeat"
            )
        before = self.spec(name)
        body = found["spec"] if found else {}
        kept = before and (before.desired, before.plan) == (spec.desired, spec.plan)
        if anew or not kept:
            body = self._body(found, spec.desired)
            if self._valid(name, body).plan != spec.plan:
                raise Refused(
                    f"the plan of rollout {name} is its resource's own",
                    hint=f"kubectl edit modelrollout {name}",
                )
        if found is None:
            self._objects.create(ROLLOUTS, self._new(name, body))
        else:
            self._objects.replace(ROLLOUTS, found | {"spec": _ordered(body, before, spec)})

    def state(self, name: str) -> tuple[State, int]:
        """Return the state and its version."""
        found = self._find(name)
        if found is None:
            return State(), 0
        return read_state(found.get("status", {})), int(found["metadata"]["resourceVersion"])

    def commit(self, name: str, state: State, decision: Decision | None, expected: int) -> int:
        """Write state and decision at the version that they were made from; raises Conflict."""
        found = self._find(name)
        if found is None:
            raise Conflict(f"rollout {name} is gone", hint="look again")
        if int(found["metadata"]["resourceVersion"]) != expected:
            raise Conflict(f"rollout {name} was changed since", hint="look again, then repeat")
        return self._write(found, state, decision)

    def decisions(self, name: str) -> list[Decision]:
        """Return the last decisions, oldest first, without their evidence."""
        found = self._find(name)
        return read_decisions(found.get("status", {})) if found else []

    def _object(self, name: str) -> Manifest:
        return self._objects.get(ROLLOUTS, self._namespace, name)

    def _find(self, name: str) -> Manifest | None:
        """Return the object, None when there is none; raises NoKind when there can be none."""
        try:
            return self._object(name)
        except NoKind:
            raise
        except NotFound:
            return None

    def _body(self, found: Manifest | None, wanted: Revision) -> Manifest:
        """Return the `spec` that wants a version, of the settings unless the resource is owned."""
        if found is None or _managed(found):
            if self._draft is not None:
                return scaled(found, self._draft.spec(wanted))
            if found is None:
                raise NotFound(f"there is no ModelRollout in {self._namespace} to change")
        return {**found["spec"], "model": make_model(wanted)}

    def _new(self, name: str, body: Manifest) -> Manifest:
        metadata = {"name": name, "namespace": self._namespace, "labels": MANAGED}
        return {"apiVersion": ROLLOUTS.api, "kind": ROLLOUTS.kind, "metadata": metadata} | {
            "spec": body
        }

    def _valid(self, name: str, body: Manifest) -> Spec:
        """Read a specification that is to be written; raises Refused."""
        try:
            return self._spec(body, 0)
        except ValidationError as error:
            why = brief(error)
        except DataError as error:
            why = error.message
        raise Refused(f"rollout {name}: {why}", hint=f"kubectl edit modelrollout {name}")

    def _spec(self, body: Manifest, generation: int) -> Spec:
        """Read a specification; raises ValidationError, DataError."""
        wanted = ModelRolloutSpec.model_validate(body)
        if self._mirroring is not None:
            self._mirroring.check(wanted)
        return Spec(
            generation=generation,
            desired=make_revision(wanted),
            plan=make_plan(wanted.strategy, self._analysis(wanted), wanted.traffic.settle_seconds),
            paused=wanted.paused,
            command=make_command(wanted.control),
        )

    def _read(self, found: Manifest) -> tuple[Spec | None, Condition]:
        """Return the specification, None when it cannot run, and what is to be said about it."""
        try:
            spec = self._spec(found["spec"], found["metadata"]["generation"])
        except ValidationError as error:
            return None, Condition("SpecValid", "False", "UnsupportedField", brief(error))
        except DataError as error:
            return None, Condition("SpecValid", "False", "InvalidPlan", error.message)
        return spec, Condition("SpecValid", "True", "Valid")

    def _analysis(self, spec: ModelRolloutSpec) -> AnalysisSpec:
        analysis = spec.analysis
        if analysis.inline is not None:
            return analysis.inline
        assert analysis.policy_ref, "the schema demands one of the two"
        name = analysis.policy_ref.name
        try:
            found = self._objects.get(POLICIES, self._namespace, name)
        except NotFound as error:
            raise DataError(f"there is no AnalysisPolicy {name} in {self._namespace}") from error
        policy = AnalysisSpec.model_validate(found["spec"])
        for step in spec.strategy.steps:
            part, known = (
                ("paired", {metric.name for metric in policy.paired})
                if step.shadow
                else ("metrics", {metric.name for metric in policy.metrics})
            )
            if absent := sorted(set(step.gate) - known):
                raise DataError(
                    f"the gate of step {step.name} names {', '.join(absent)}, the {part} of "
                    f"AnalysisPolicy {name} are {', '.join(sorted(known)) or 'none'}"
                )
        return policy

    def _scale(self, name: str, state: State) -> Scale | None:
        found = self._objects.select(DEPLOYMENTS, self._namespace, {ROLLOUT: name})
        return make_scale(name, state, found)

    def _write(self, found: Manifest, state: State, decision: Decision | None) -> int:
        metadata = found["metadata"]
        _, said = self._read(found)
        status = make_status(
            found.get("status", {}),
            state,
            decision,
            said,
            (metadata["generation"], self._read_at),
            self._scale(metadata["name"], state),
            self._wall(),
        )
        written = self._objects.replace(ROLLOUTS, found | {"status": status}, "status")
        if decision is not None:
            self._heard(written, decision)
        return int(written["metadata"]["resourceVersion"])


def _refused(found: Manifest) -> str:
    """Return why the controller, which may read more, does not run this very specification."""
    generation = found["metadata"]["generation"]
    for said in found.get("status", {}).get("conditions", []):
        if said["type"] == "SpecValid" and said["observedGeneration"] == generation:
            return "" if said["status"] == "True" else str(said["message"])
    return ""


def _managed(found: Manifest) -> bool:
    """Whether a resource was written of the settings."""
    labels: dict[str, str] = found["metadata"].get("labels", {})
    return MANAGED.items() <= labels.items()


def _ordered(body: Manifest, before: Spec | None, wanted: Spec) -> Manifest:
    """Return a `spec` with the pause and the command that are wanted."""
    changed = body | {"paused": wanted.paused}
    command = wanted.command
    if command is None:
        changed.pop("control", None)
    elif before is None or command != before.command:
        changed["control"] = make_control(command)
    return changed


def _control(body: Manifest) -> Control | None:
    """Return the command of a specification that is broken elsewhere, if that is readable."""
    try:
        return Control.model_validate(body["control"])
    except (KeyError, ValidationError):
        return None
