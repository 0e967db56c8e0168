"""What a rollout takes from the registry, and what it tells registry and ledger at its end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tidemill.bundle import read_manifest, read_profile, revision
from tidemill.domain.ledger import Action, Record
from tidemill.domain.rollout.model import Release, Revision
from tidemill.domain.scores import tails
from tidemill.errors import IntegrityError
from tidemill.ports.clock import Clock
from tidemill.ports.ledger import Ledger
from tidemill.ports.registry import Aliases, ModelRegistry, ModelVersion
from tidemill.steps.promote import promote

__all__ = ["RegistryReleases", "fetch_revision"]

CHAMPION = "champion"
WHO = "rollout"
"""Author of the ledger's entries."""


def fetch_revision(
    registry: ModelRegistry, reference: str, bundles: Path, verify: Callable[[Path], str]
) -> Revision:
    """Bring the bundle that `reference` means to `bundles/<revision>` and return its revision.

    `verify` checks the signature and returns the digest. Raises NotFound for an unknown reference,
    IntegrityError when the bundle is not what was registered and signed.
    """
    version = registry.resolve(reference)
    folder = bundles / revision(version.digest)
    if not folder.exists():
        bundles.mkdir(parents=True, exist_ok=True)
        registry.fetch(version, folder)
    found = verify(folder)
    if found != version.digest:
        raise IntegrityError(
            f"{folder} has the digest {found}, the registry says {version.digest}",
            hint=f"remove {folder} and start the rollout again",
        )
    manifest = read_manifest(folder)
    return Revision(
        revision=revision(found),
        model=version.name,
        version=version.version,
        digest=found,
        bundle=str(folder),
        threshold=manifest.prior,
        score_tails=tails(read_profile(folder).score),
    )


class RegistryReleases:
    """Implements `ports.rollout.Releases`: the champion is what serves all traffic."""

    def __init__(self, aliases: Aliases, ledger: Ledger, clock: Clock) -> None:
        self._aliases = aliases
        self._ledger = ledger
        self._clock = clock

    def record(self, release: Release) -> None:
        """Let the champion be what the release says, with its reason and evidence on the ledger.

        A canary that failed before it was champion is recorded as rejected; no alias moves.
        """
        champion = release.champion
        if self._recorded(release):
            return
        if release.kind == "unfrozen":
            self._ledger.append(self._note(release, "unfrozen"))
            return
        current = self._aliases.aliases(champion.model).get(CHAMPION)
        if release.kind == "rolled_back" and current == champion.version:
            self._ledger.append(self._note(release, "rejected"))
            return
        promote(
            ModelVersion(champion.model, champion.version, champion.digest),
            CHAMPION,
            aliases=self._aliases,
            ledger=self._ledger,
            clock=self._clock,
            who=WHO,
            why=_why(release),
            evidence=_digest(release),
            correlation=_correlation(release),
        )

    def _recorded(self, release: Release) -> bool:
        return any(
            entry.action in ("moved", "rejected", "unfrozen")
            and entry.correlation == _correlation(release)
            for entry in self._ledger.entries()
        )

    def _note(self, release: Release, action: Action) -> Record:
        return Record(
            at=self._clock.now().isoformat(),
            action=action,
            model=release.subject.model,
            version=release.subject.version,
            who=WHO,
            why=_why(release),
            evidence=_digest(release),
            correlation=_correlation(release),
        )


def _why(release: Release) -> str:
    return f"{release.kind.replace('_', ' ')}: {release.reason}"


def _correlation(release: Release) -> str:
    order = f":{release.order}" if release.order else ""
    return f"rollout:{release.attempt}:{release.kind}{order}"


def _digest(release: Release) -> str:
    """Digest of the evidence as it stands in the decision log."""
    found = [asdict(a) for a in release.evidence] + [asdict(a) for a in release.paired]
    numbers = json.dumps(found, sort_keys=True)
    return "sha256:" + hashlib.sha256(numbers.encode()).hexdigest()
