"""Specification and state of one ModelRollout: the resource's `spec` and `status`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pydantic import ValidationError

from tidemill.adapters.kubernetes.analysis import AnalysisSpec
from tidemill.adapters.kubernetes.client import POLICIES, ROLLOUTS, Manifest, Objects
from tidemill.adapters.kubernetes.mirroring import Mirroring
from tidemill.adapters.kubernetes.resources import (
    ModelRolloutSpec,
    make_command,
    make_plan,
    make_revision,
)
from tidemill.adapters.kubernetes.status import make_status, read_decisions, read_state
from tidemill.domain.rollout.model import Condition, Decision, Spec, State
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
    ) -> None:
        """`heard` is told each decision after it was written, with the object that it is about."""
        self._objects = objects
        self._namespace = namespace
        self._wall = wall
        self._heard = heard
        self._mirroring = Mirroring(objects, namespace)
        self._read_at = 0
        """Generation of the last specification that was given out and could run."""

    def spec(self, name: str) -> Spec | None:
        """Return the specification; of a broken one what an attempt in flight began with.

        None when there is no such rollout, or one that is broken and has no attempt.
        """
        try:
            found = self._object(name)
        except NotFound:
            return None
        attempt = read_state(found.get("status", {})).attempt
        spec, _ = self._read(found)
        if spec is not None:
            self._read_at = spec.generation
        elif attempt is not None:
            paused = bool(found["spec"].get("paused"))
            generation = found["metadata"]["generation"]
            return Spec(generation, attempt.canary, attempt.plan, paused=paused)
        return spec

    def acknowledge(self, name: str) -> None:
        """Say about the newest specification what the status does not say yet.

        For after a look that changed nothing: its generation was observed, and whether it can run.
        """
        found = self._object(name)
        _, said = self._read(found)
        status = found.get("status", {})
        known = {c["type"]: c for c in status.get("conditions", [])}
        same = known.get("SpecValid", {}).get("message") == said.message
        behind = min((c["observedGeneration"] for c in known.values()), default=0)
        wanted = found["metadata"]["generation"] if said.status == "False" else self._read_at
        current = status.get("observedGeneration", 0) >= wanted
        if not (same and current and (said.status == "False" or behind >= wanted)):
            self._write(found, read_state(status), None)

    def propose(self, name: str, spec: Spec) -> None:
        """Want another model, a pause or a command; raises Conflict, NotFound, Refused.

        Plan and runtime are the resource's own: they are edited there, with the people who own it.
        """
        found = self._object(name)
        before, problem = self._read(found)
        if found["metadata"]["generation"] != spec.generation - 1:
            raise Conflict(
                f"rollout {name}: somebody else was first", hint="look again, then repeat"
            )
        if before is None:
            raise Refused(
                f"rollout {name}: {problem.message}", hint=f"kubectl edit modelrollout {name}"
            )
        if spec.plan != before.plan:
            raise Refused(
                f"the plan of rollout {name} is its resource's own",
                hint=f"kubectl edit modelrollout {name}",
            )
        self._objects.replace(ROLLOUTS, found | {"spec": _changed(found["spec"], before, spec)})

    def state(self, name: str) -> tuple[State, int]:
        """Return the state and its version."""
        try:
            found = self._object(name)
        except NotFound:
            return State(), 0
        return read_state(found.get("status", {})), int(found["metadata"]["resourceVersion"])

    def commit(self, name: str, state: State, decision: Decision | None, expected: int) -> int:
        """Write state and decision at the version that they were made from; raises Conflict."""
        try:
            found = self._object(name)
        except NotFound as error:
            raise Conflict(f"rollout {name} is gone", hint="look again") from error
        if int(found["metadata"]["resourceVersion"]) != expected:
            raise Conflict(f"rollout {name} was changed since", hint="look again, then repeat")
        return self._write(found, state, decision)

    def decisions(self, name: str) -> list[Decision]:
        """Return the last decisions, oldest first, without their evidence."""
        try:
            return read_decisions(self._object(name).get("status", {}))
        except NotFound:
            return []

    def _object(self, name: str) -> Manifest:
        return self._objects.get(ROLLOUTS, self._namespace, name)

    def _read(self, found: Manifest) -> tuple[Spec | None, Condition]:
        """Return the specification, None when it cannot run, and what is to be said about it."""
        try:
            wanted = ModelRolloutSpec.model_validate(found["spec"])
            plan = make_plan(wanted, self._analysis(wanted))
            self._mirroring.check(wanted)
            spec = Spec(
                generation=found["metadata"]["generation"],
                desired=make_revision(wanted),
                plan=plan,
                paused=wanted.paused,
                command=make_command(wanted.control),
            )
        except ValidationError as error:
            return None, Condition("SpecValid", "False", "UnsupportedField", _brief(error))
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

    def _write(self, found: Manifest, state: State, decision: Decision | None) -> int:
        metadata = found["metadata"]
        _, said = self._read(found)
        status = make_status(
            found.get("status", {}),
            state,
            decision,
            said,
            (metadata["generation"], self._read_at),
            self._wall(),
        )
        written = self._objects.replace(ROLLOUTS, found | {"status": status}, "status")
        if decision is not None:
            self._heard(written, decision)
        return int(written["metadata"]["resourceVersion"])


def _changed(body: Manifest, before: Spec, wanted: Spec) -> Manifest:
    """Return the resource's specification with what differs in `wanted`."""
    changed = body | {"paused": wanted.paused}
    desired, command = wanted.desired, wanted.command
    if desired != before.desired:
        low, high = desired.score_tails
        changed["model"] = {
            "name": desired.model,
            "version": desired.version,
            "digest": desired.digest,
            "threshold": _decimal(desired.threshold),
            "scoreTails": {"low": _decimal(low), "high": _decimal(high)},
        }
    if command is None:
        changed.pop("control", None)
    elif command != before.command:
        control = {
            "id": command.id,
            "action": command.action.title(),
            "forRevision": command.revision,
        }
        changed["control"] = control | ({"step": command.step} if command.step else {})
    return changed


def _decimal(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


def _brief(error: ValidationError) -> str:
    """Name each field that is wrong, and how."""
    return "; ".join(
        f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"
        for found in error.errors()
    )
