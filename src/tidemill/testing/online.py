"""An online store in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from tidemill.bundle import FeatureService, FeatureView
from tidemill.errors import Mismatch
from tidemill.ports.features import OnlineBatch, Value

__all__ = ["MemoryOnline"]


@dataclass
class MemoryOnline:
    """Holds values that expire when told so; `failure` is raised by every call while it is set."""

    digest: str
    """Digest of the definition it was filled for."""
    as_of: datetime | None = None
    values: dict[str, dict[tuple[str | int, ...], dict[str, Value]]] = field(default_factory=dict)
    """View → join keys' values → feature → value."""
    expired: set[tuple[str, tuple[str | int, ...]]] = field(default_factory=set)
    """Views and join keys' values that are older than the view's ttl."""
    failure: Exception | None = None

    def read(
        self,
        views: Sequence[FeatureView],
        keys: Mapping[str, Sequence[str | int | None]],
        moment: datetime,  # noqa: ARG002 - `expired` says what is too old
    ) -> OnlineBatch:
        """Look up the features of `views`."""
        self._fail()
        columns: dict[str, list[Value]] = {}
        stale: dict[str, list[bool]] = {}
        for view in views:
            rows = list(zip(*(keys[name] for name in view.join_keys), strict=True))
            too_old = {row for name, row in self.expired if name == view.name}
            held = {k: v for k, v in self.values.get(view.name, {}).items() if k not in too_old}
            if any(old := [row in too_old for row in rows]):
                stale[view.name] = old
            found = [held.get(row, {}) for row in rows]
            for column in view.fields:
                columns[column.name] = [values.get(column.name) for values in found]
        return OnlineBatch(columns, self.as_of, stale)

    def verify(self, service: FeatureService) -> None:
        """Raise Mismatch unless the digests are equal."""
        self._fail()
        if service.digest != self.digest:
            raise Mismatch(f"pinned to {service.digest}, the store holds {self.digest}")

    def _fail(self) -> None:
        if self.failure:
            raise self.failure
