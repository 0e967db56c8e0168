"""Register a bundle that passed its gates: sign, publish with its lineage, put on record."""

from __future__ import annotations

from pathlib import Path

from tidemill.bundle import GOLDEN, Manifest, hashes, read_manifest
from tidemill.domain.ledger import Record, newest
from tidemill.errors import IntegrityError
from tidemill.ports.clock import Clock
from tidemill.ports.ledger import Ledger
from tidemill.ports.registry import Aliases, BundleSigner, ModelRegistry, ModelVersion
from tidemill.steps.gate import check_evidence
from tidemill.steps.promote import promote

__all__ = ["lineage_tags", "register"]

CHALLENGER = "challenger"
REQUIRED = ("model.onnx", "manifest.json", "evidence.json", GOLDEN)
"""What a bundle must hold to be registered; the rest is asked for by whoever reads it. Nothing else
asks for golden rows: a server cannot tell a bundle that never had any from an older one."""


def register(
    bundle: Path,
    *,
    signer: BundleSigner,
    registry: ModelRegistry,
    aliases: Aliases,
    ledger: Ledger,
    clock: Clock,
    run_id: str,
    who: str,
    why: str,
    correlation: str = "",
) -> ModelVersion:
    """Sign and publish a bundle as its model's next version, on record, with alias `challenger`.

    `run_id` is the tracker's run. Repeating it after a crash, with the same bundle, finishes what
    was begun and makes no second version. A gate that was overridden is added to `why`. Raises
    IntegrityError when the bundle is incomplete or its evidence is about another model, and Refused
    when a gate did not pass and nobody overrode it.
    """
    manifest, files = read_manifest(bundle), hashes(bundle)
    missing = [name for name in REQUIRED if name not in files]
    if missing:
        raise IntegrityError(
            f"{bundle} cannot be registered: {', '.join(missing)} is missing",
            hint="run the package step again",
        )
    override = check_evidence(bundle, {"model_sha256": bundle / "model.onnx"})["override"]
    why = f"{why}, forced: {override['reason']}" if override else why
    signer.sign(bundle)
    tags = lineage_tags(manifest, files) | {"correlation": correlation}
    version = registry.publish(bundle, {k: v for k, v in tags.items() if v}, run_id)
    entries = ledger.entries()
    grounds = {"who": who, "why": why, "evidence": tags["evidence"], "correlation": correlation}
    registered = {(e.model, e.version) for e in entries if e.action == "registered"}
    if (version.name, version.version) not in registered:
        at = clock.now().isoformat()
        named = {"model": version.name, "version": version.version}
        ledger.append(Record(at=at, action="registered", **named, **grounds))
    last = newest(entries, version.name, CHALLENGER)
    if not last or last.version != version.version or last.action == "moving":
        promote(version, CHALLENGER, aliases=aliases, ledger=ledger, clock=clock, **grounds)
    return version


def lineage_tags(manifest: Manifest, files: dict[str, str]) -> dict[str, str]:
    """Return everything a version came from, so that one query tells it all."""
    return {
        **manifest.lineage,
        "feature_service": f"{manifest.features.project}/{manifest.features.name}",
        "feature_digest": manifest.features.digest,
        "onnx": f"sha256:{files['model.onnx']}",
        "evidence": f"sha256:{files['evidence.json']}",
    }
