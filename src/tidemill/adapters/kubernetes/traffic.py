"""How requests reach the servers: a route of the rollout's own, or a rule of somebody else's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tidemill.adapters.kubernetes.fields import LongName, Name, Schema, Seconds, rules

__all__ = ["Traffic"]


class ParentRef(Schema):
    """A Gateway that the route attaches to."""

    name: LongName
    """Its name."""
    namespace: Name | None = None
    """Its namespace; by default the rollout's own."""
    section_name: LongName | None = None
    """One of its listeners; by default all that allow it."""


class Attachment(Schema):
    """A route that somebody else owns, and the rule in it whose backends the rollout weighs."""

    name: LongName
    """Name of the route."""
    rule: LongName
    """Name of the rule: rules have no other identity that survives an edit."""


class Traffic(Schema):
    """How requests reach the servers."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            (
                "(self.mode == 'Owned') == has(self.parentRefs)",
                "Owned needs parentRefs, Attach has none: the route is somebody else's",
            ),
            (
                "(self.mode == 'Attach') == has(self.routeRef)",
                "Attach needs routeRef, Owned has none: the route is made",
            ),
            ("self.mode == 'Owned' || !has(self.hostnames)", "hostnames are the attached route's"),
            (
                "self.mode == oldSelf.mode && self.kind == oldSelf.kind",
                "mode and kind are fixed: make another ModelRollout",
            ),
            (
                "!has(self.routeRef) || !has(oldSelf.routeRef) || "
                "self.routeRef == oldSelf.routeRef",
                "routeRef is fixed: make another ModelRollout",
            ),
        )
    )

    mode: Literal["Owned", "Attach"] = "Owned"
    """Owned: the rollout makes the route. Attach: it edits its own backends of one rule."""
    kind: Literal["HTTPRoute", "GRPCRoute"] = "HTTPRoute"
    """Kind of the route."""
    parent_refs: Annotated[list[ParentRef], Field(min_length=1, max_length=8)] | None = None
    """Gateways of an owned route."""
    hostnames: Annotated[list[LongName], Field(min_length=1, max_length=16)] | None = None
    """Host names of an owned route; by default the listeners'."""
    route_ref: Attachment | None = None
    """The route and the rule to attach to."""
    settle_seconds: Seconds = 15
    """Evidence of this time after a weight change is dropped: gateways take up routes late."""
