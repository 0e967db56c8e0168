"""Move an alias: the only place that does, and never without an entry in the ledger.

`champion` is the version that serves, `challenger` the one that was registered last. The intent is
on record before the registry is touched, and confirmed after. Whoever comes next after a crash
calls `settle`, which finishes what was begun.
"""

from __future__ import annotations

from tidemill.domain.ledger import Action, Entry, Record, newest
from tidemill.errors import Conflict, NotFound
from tidemill.ports.clock import Clock
from tidemill.ports.ledger import Ledger
from tidemill.ports.registry import Aliases, ModelVersion

__all__ = ["promote", "settle", "settle_all"]


def promote(
    version: ModelVersion,
    alias: str,
    *,
    aliases: Aliases,
    ledger: Ledger,
    clock: Clock,
    who: str,
    why: str,
    evidence: str = "",
    correlation: str = "",
) -> Entry:
    """Let `alias` (`champion`, `challenger`) mean `version` and return the entry that confirms it.

    `evidence` is the digest of what it rests on. A call that repeats an earlier one, with the same
    `correlation`, has no further effect. When two promotions of one alias meet, the one whose
    intent is later in the ledger holds. Raises Unavailable when the registry does not answer; the
    intent stays on record and `settle` finishes it.
    """
    if newest(ledger.entries(), version.name, alias):
        settle(version.name, alias, aliases=aliases, ledger=ledger, clock=clock)
    intent = Record(
        at=clock.now().isoformat(),
        action="moving",
        model=version.name,
        version=version.version,
        alias=alias,
        who=who,
        why=why,
        evidence=evidence,
        correlation=correlation,
    )
    if not _repeats(intent, ledger):
        ledger.append(intent)
    return settle(version.name, alias, aliases=aliases, ledger=ledger, clock=clock)


def _repeats(record: Record, ledger: Ledger) -> bool:
    """Tell whether the ledger holds this act already, under the same correlation id."""

    def act(of: Record) -> tuple[str, ...]:
        return (of.correlation, of.action, of.model, of.version, of.alias)

    return bool(record.correlation) and act(record) in map(act, ledger.entries())


def settle(model: str, alias: str, *, aliases: Aliases, ledger: Ledger, clock: Clock) -> Entry:
    """Make the registry agree with the ledger's last word on an alias; return that entry.

    Safe to call at any time and by several at once: a confirmation is written only while nothing
    else was appended, and whoever finds a later intent than the one it acted on acts again.
    Raises NotFound when the ledger never moved the alias.
    """
    acted = ""
    while True:
        entries = ledger.entries()
        last = newest(entries, model, alias)
        if last is None:
            raise NotFound(
                f"the ledger holds no move of {model}@{alias}",
                hint=f"what it holds: tidemill ledger show {model}",
            )
        if last.action == "moved" and acted in ("", last.version):
            return last
        aliases.set_alias(model, alias, last.version)
        acted = last.version
        if last.action == "moving":
            try:
                ledger.append(_confirm(last, clock), after=entries[-1])
            except Conflict:
                continue


def settle_all(*, aliases: Aliases, ledger: Ledger, clock: Clock) -> list[Entry]:
    """Finish every move that was begun and not finished; return their confirmations."""
    entries = ledger.entries()
    places = {(e.model, e.alias) for e in entries if e.action == "moving"}
    return [
        settle(model, alias, aliases=aliases, ledger=ledger, clock=clock)
        for model, alias in sorted(places)
        if (last := newest(entries, model, alias)) and last.action == "moving"
    ]


def _confirm(intent: Entry, clock: Clock) -> Record:
    body = {name: getattr(intent, name) for name in Record.__dataclass_fields__}
    action: Action = "moved"
    return Record(**body | {"at": clock.now().isoformat(), "action": action})
