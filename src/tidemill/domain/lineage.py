"""Where a model version came from and where it went, told from its tags and the ledger."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidemill.domain.ledger import Entry

__all__ = ["REVISION", "SEARCHABLE", "Link", "deployments", "provenance", "tags_like"]


@dataclass(frozen=True, slots=True)
class Link:
    """One station of a model's way."""

    kind: str
    """`data`, `features`, `run`, `code`, `evidence`, `model`, `onnx`; `registered`, `deployed`,
    `replaced`, `rejected`."""
    id: str
    note: str = ""


DIRTY = "-dirty"
"""Ends the commit of a tree that was changed since."""
SEARCHABLE: dict[str, str] = {
    "data_version": r"[0-9a-f]{32}\.dir",
    "run_id": r"[0-9a-f]{32}",
    "correlation": r"(inc|req)-[0-9a-f]{8}|[\w-]+-\d{8}-\d{6}-[0-9a-f]{4}",
    "git_commit": rf"[0-9a-f]{{40}}({DIRTY})?",
    "feature_digest": r"sha256:[0-9a-f]{64}",
    "onnx": r"sha256:[0-9a-f]{64}",
    "digest": r"sha256:[0-9a-f]{64}",
    "evidence": r"sha256:[0-9a-f]{64}",
}
"""Tag → the form of its values: what `tidemill lineage` accepts to look back from. The
correlation is an incident, a request to retrain, or a run that a person started."""
REVISION = r"[0-9a-f]{10}"
"""The form of a bundle's revision, which is no tag: its digest's first digits."""


def tags_like(identifier: str) -> list[tuple[str, str]]:
    """Return the tags, with their values, that `identifier` may mean; empty if it is no such id.

    A commit also means what was trained on a changed tree of it.
    """
    tags = [tag for tag, form in SEARCHABLE.items() if re.fullmatch(form, identifier)]
    found = [(tag, identifier) for tag in tags]
    if "git_commit" in tags and not identifier.endswith(DIRTY):
        found.append(("git_commit", identifier + DIRTY))
    return found


def provenance(name: str, version: str, digest: str, tags: Mapping[str, str]) -> list[Link]:
    """Return the way of a version from the data to the bytes that are served."""
    window = _between(tags.get("window_start"), tags.get("window_end"))
    known = f"known at {tags['trained_as_of']}" if "trained_as_of" in tags else ""
    links = [
        Link("data", tags.get("data_version", ""), ", ".join(filter(None, (window, known)))),
        Link("features", tags.get("feature_service", ""), tags.get("feature_digest", "")),
        Link("run", tags.get("run_id", ""), _note("correlation", tags.get("correlation"))),
        Link("code", tags.get("git_commit", ""), _note("seed", tags.get("seed"))),
        Link("evidence", tags.get("evidence", "")),
        Link("model", f"{name}/{version}", digest),
        Link("onnx", tags.get("onnx", "")),
    ]
    return [link if link.id else Link(link.kind, "unknown", link.note) for link in links]


def deployments(entries: Iterable[Entry], name: str, version: str) -> list[Link]:
    """Return what was done with a version, oldest first; an alias that left it is said so."""
    links: list[Link] = []
    held: set[str] = set()
    for entry in entries:
        if entry.model != name or entry.action == "moving":
            continue
        if entry.version == version:
            links.append(_deployment(entry))
            if entry.alias:
                held.add(entry.alias)
        elif entry.alias in held:
            held.discard(entry.alias)
            note = f"{entry.at}: {entry.alias} went to {name}/{entry.version}"
            links.append(Link("replaced", entry.alias, note))
    return links


def _deployment(entry: Entry) -> Link:
    kind = "deployed" if entry.alias else entry.action
    trigger = f", {entry.correlation}" if entry.correlation else ""
    note = f"{entry.at}: {entry.why} ({entry.who}{trigger})"
    return Link(kind, entry.alias or f"{entry.model}/{entry.version}", note)


def _between(start: str | None, end: str | None) -> str:
    return f"{start} to {end}" if start and end else ""


def _note(name: str, value: str | None) -> str:
    return f"{name} {value}" if value else ""
