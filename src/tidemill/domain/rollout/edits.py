"""What people change about the plan while an attempt keeps the one that it began with."""

from __future__ import annotations

from dataclasses import fields, replace

from tidemill.domain.rollout.model import Plan, Snapshot
from tidemill.domain.rollout.moves import Move

__all__ = ["kept_plan", "note_edits"]


def note_edits(snapshot: Snapshot) -> Move | None:
    """Say once that an attempt keeps its plan; None when everybody knows."""
    state, found = snapshot.state, _edits(snapshot)
    if state.attempt is None or state.phase == "rolling_back" or found == state.attempt.edited:
        return None
    noted = replace(state, attempt=replace(state.attempt, edited=found))
    return Move(noted, "ignore", kept_plan(found) or "the plan is that of this attempt again")


def kept_plan(edited: tuple[str, ...]) -> str:
    """Say what became of an edit of the plan; empty when there is none."""
    if not edited:
        return ""
    parts = ", ".join(edited)
    return (
        f"the plan was edited ({parts}): this attempt keeps its own, the next one has the new one"
    )


def _edits(snapshot: Snapshot) -> tuple[str, ...]:
    """Return the parts of the plan that an edit changed; freeze windows bind at once."""
    if snapshot.state.attempt is None:
        return ()
    kept, wanted = snapshot.state.attempt.plan, snapshot.spec.plan
    names = (part.name for part in fields(Plan) if part.name != "freeze")
    return tuple(name for name in names if getattr(kept, name) != getattr(wanted, name))
