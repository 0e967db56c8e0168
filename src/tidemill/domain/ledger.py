"""The promotion ledger: an append-only chain of who released which model, when and why.

Every entry holds the hash of the one before it, so that a row which is edited, deleted or moved
breaks the chain from there on. A chain cannot show that its end was cut off; `disagreements` with
the registry shows that.

An alias moves in two entries. `moving` is written first and says what shall be; `moved` follows
when the registry has done it. A `moving` without its `moved` is work that a crash interrupted.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = [
    "GENESIS",
    "Action",
    "Entry",
    "Record",
    "broken",
    "chain",
    "disagreements",
    "newest",
]

Action = Literal["registered", "moving", "moved", "rejected", "unfrozen"]
"""`unfrozen`: a person let a version's rollout go on inside a freeze window."""

GENESIS = "0" * 64
"""What the first entry names as the one before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is put on record."""

    at: str
    """Instant of the project's clock, ISO 8601 UTC."""
    action: Action
    model: str
    version: str
    alias: str = ""
    """The alias that is `moving` or `moved`; else empty."""
    who: str
    """Person or process."""
    why: str
    evidence: str = ""
    """Digest of the evidence it rests on, `sha256:…`."""
    correlation: str = ""
    """Id that runs from the trigger through run, model, rollout and incident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Record):
    """A record in its place in the chain."""

    seq: int
    """1, 2, 3, …"""
    previous: str
    """Hash of the entry before it."""
    digest: str
    """SHA-256 over `previous` and the canonical JSON of all other fields, hexadecimal."""


def chain(record: Record, last: Entry | None) -> Entry:
    """Put a record at the end of the chain that ends with `last`."""
    seq, previous = (last.seq + 1, last.digest) if last else (1, GENESIS)
    body = {name: getattr(record, name) for name in Record.__dataclass_fields__}
    return Entry(**body, seq=seq, previous=previous, digest=_hash(previous, body | {"seq": seq}))


def broken(entries: Sequence[Entry]) -> list[str]:
    """Say where a chain, in its stored order, is broken; empty means that it holds."""
    problems = []
    seq, previous = 0, GENESIS
    for entry in entries:
        if entry.seq != seq + 1:
            problems.append(f"entry {entry.seq} follows entry {seq}: entries are missing or moved")
        elif entry.previous != previous:
            problems.append(f"entry {entry.seq} does not continue entry {seq}: one was replaced")
        body = {k: v for k, v in asdict(entry).items() if k not in ("previous", "digest")}
        if entry.digest != _hash(entry.previous, body):
            problems.append(f"entry {entry.seq} was edited: its content does not have its hash")
        seq, previous = entry.seq, entry.digest
    return problems


def newest(entries: Iterable[Entry], model: str, alias: str) -> Entry | None:
    """Return the last word on an alias, `moving` or `moved`."""
    found = None
    for entry in entries:
        if (entry.model, entry.alias) == (model, alias):
            found = entry
    return found


def disagreements(
    entries: Sequence[Entry],
    versions: Mapping[str, Iterable[str]],
    aliases: Mapping[str, Mapping[str, str]],
) -> list[str]:
    """Say where the registry differs from what the ledger says was done.

    `versions` holds the version numbers of each model in the registry, `aliases` the version by
    alias of each model.
    """
    problems = []
    registered = {(e.model, e.version) for e in entries if e.action == "registered"}
    existing = {(model, v) for model, known in versions.items() for v in known}
    problems += [
        f"{model}/{version} is in the registry and the ledger does not know it"
        for model, version in sorted(existing - registered)
    ]
    problems += [
        f"{model}/{version} is in the ledger and no longer in the registry"
        for model, version in sorted(registered - existing)
    ]
    said = {(e.model, e.alias) for e in entries if e.alias}
    found = {(model, alias) for model, known in aliases.items() for alias in known}
    for model, alias in sorted(said | found):
        problems += _alias(newest(entries, model, alias), model, alias, aliases)
    return problems


def _alias(
    entry: Entry | None, model: str, alias: str, aliases: Mapping[str, Mapping[str, str]]
) -> list[str]:
    actual = aliases.get(model, {}).get(alias)
    where = f"is at version {actual}" if actual else "is not set"
    if entry is None:
        return [f"{model}@{alias} {where} and the ledger never set it: it was moved by hand"]
    if entry.action == "moving":
        return [
            f"{model}@{alias} {where}; its move to version {entry.version} (entry {entry.seq}) "
            "was begun and not finished"
        ]
    if actual != entry.version:
        return [
            f"{model}@{alias} {where}, the ledger moved it to version {entry.version} (entry "
            f"{entry.seq}): it was moved by hand"
        ]
    return []


def _hash(previous: str, body: Mapping[str, object]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(f"{previous}{text}".encode()).hexdigest()
