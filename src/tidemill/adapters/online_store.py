"""What Feast's online stores have in common when they are read without Feast.

Feast does not enforce a view's ttl online; these readers do, so that online equals offline at the
same instant. Beside Feast's values each store keeps one record of ours: the instant up to which it
was filled and the digests of the services it was filled for.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

from tidemill.adapters.feast_wire import decode, entity_key
from tidemill.bundle import FeatureService, FeatureView
from tidemill.errors import Mismatch, Unavailable
from tidemill.ports.features import OnlineBatch, Value

__all__ = ["NEVER_FILLED", "Filled", "OnlineStore", "Row"]

Keys: TypeAlias = Mapping[str, Sequence[str | int | None]]
Row: TypeAlias = tuple[float, dict[str, bytes | None]]
"""A stored row: event timestamp in epoch seconds, encoded values by feature."""
NEVER_FILLED = "tidemill features materialize"


@dataclass(frozen=True, slots=True)
class Filled:
    """What a store was filled with."""

    as_of: datetime
    """The instant up to which it holds what was known."""
    services: dict[str, str] = field(default_factory=dict)
    """Service → digest of its definition at that time."""

    def to_json(self) -> str:
        """Return the record as text."""
        return json.dumps({"as_of": self.as_of.isoformat(), "services": self.services})

    @classmethod
    def from_json(cls, text: str | bytes) -> Filled:
        """Read what `to_json` wrote."""
        body = json.loads(text)
        return cls(datetime.fromisoformat(body["as_of"]).astimezone(UTC), body["services"])


class OnlineStore(ABC):
    """What both stores share: rows of keys in, columns of values out."""

    def __init__(self, project: str) -> None:
        self._project = project

    def read(self, views: Sequence[FeatureView], keys: Keys, moment: datetime) -> OnlineBatch:
        """Look up N rows at once; see `ports.features.OnlineReader`."""
        wanted = [(view, _identities(view, keys)) for view in views]
        filled, stored = self._fetch([(v, [k for k in ids if k]) for v, ids in wanted])
        at = moment.timestamp()
        columns: dict[str, list[Value]] = {}
        stale: dict[str, list[bool]] = {}
        for (view, identities), rows in zip(wanted, stored, strict=True):
            fresh = {
                key: {name: decode(content) for name, content in values.items() if content}
                for key, (stamp, values) in rows.items()
                if not view.ttl_seconds or stamp + view.ttl_seconds >= at
            }
            found = [fresh.get(key, {}) if key else {} for key in identities]
            if expired := rows.keys() - fresh.keys():
                stale[view.name] = [key in expired for key in identities]
            for column in view.fields:
                columns[column.name] = [values.get(column.name) for values in found]
        return OnlineBatch(columns, filled.as_of if filled else None, stale)

    def verify(self, service: FeatureService) -> None:
        """Raise Mismatch unless the store was filled for exactly this definition.

        Raises Unavailable when the store does not answer or was never filled.
        """
        filled = self.filled()
        if filled is None:
            raise Unavailable("the online store was never filled", hint=NEVER_FILLED)
        held = filled.services.get(service.name)
        if held != service.digest:
            raise Mismatch(
                f"the model is pinned to {service.name}@{service.digest[:17]}, the online store "
                f"holds {f'{service.name}@{held[:17]}' if held else 'no such service'}",
                hint="serve a model trained with that definition, or materialise the pinned one",
            )

    def filled(self) -> Filled | None:
        """Return what the store was filled with; None if it never was."""
        return self._fetch([])[0]

    @abstractmethod
    def advance(self, filled: Filled) -> None:
        """Record what the store is filled with now."""

    @abstractmethod
    def _fetch(
        self, wanted: Sequence[tuple[FeatureView, list[bytes]]]
    ) -> tuple[Filled | None, list[dict[bytes, Row]]]:
        """Return the store's record and, per view, the stored rows by entity key."""


def _identities(view: FeatureView, keys: Keys) -> list[bytes | None]:
    """Serialise each row's entity key; None when a part of it is null."""
    parts = zip(*(keys[name] for name in view.join_keys), strict=True)
    return [
        None
        if any(part is None for part in row)
        else entity_key(dict(zip(view.join_keys, row, strict=True)))
        for row in parts
    ]
