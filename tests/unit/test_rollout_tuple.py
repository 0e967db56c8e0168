"""Model, feature service, threshold and reference profile serve together, or none of them does."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tests.bundles import make_bundle
from tests.unit.rollout_world import NAME, World, plan

from tidemill.bundle import digest, read_manifest, read_profile, write_manifest
from tidemill.domain.rollout.model import Revision, State
from tidemill.domain.scores import tails
from tidemill.steps.release import fetch_revision
from tidemill.testing.registry import MemoryRegistry


def release(folder: Path, registry: MemoryRegistry, number: int) -> Revision:
    """Register a version that differs from the others in every part of the tuple."""
    bundle = make_bundle(folder / f"made-{number}", NAME, 0.001 * number)
    manifest = read_manifest(bundle)
    features = replace(manifest.features, name=f"service_v{number}")
    write_manifest(bundle, replace(manifest, prior=number / 10, features=features))
    profile = read_profile(bundle)
    shifted = tuple(edge + number / 100 for edge in profile.score.edges)
    (bundle / "profile.json").write_text(
        json.dumps(asdict(replace(profile, score=replace(profile.score, edges=shifted))))
    )
    registry.publish(bundle, {}, "")
    return fetch_revision(registry, f"{NAME}/{number}", folder / "kept", digest)


def parts(revision: Revision) -> tuple[object, ...]:
    """Return what a server of the revision works with, from the files that it is started with."""
    folder = Path(revision.bundle)
    manifest = read_manifest(folder)
    return manifest.features.name, manifest.prior, tails(read_profile(folder).score)


def whole(state: State, revision: Revision) -> None:
    """Assert that stable is one version's tuple, each part of it by the bundle's own files."""
    assert state.stable == revision
    assert digest(Path(revision.bundle)) == revision.digest
    name, prior, bounds = parts(revision)
    assert name == f"service_v{revision.version}"
    assert (revision.threshold, revision.score_tails) == (prior, bounds)


@pytest.mark.parametrize("bad", ["", "progressing", "finalizing"])
def test_what_serves_is_of_one_bundle_before_and_after(tmp_path, bad):
    registry = MemoryRegistry(tmp_path / "registry")
    one, two = (release(tmp_path, registry, number) for number in (1, 2))
    assert all(a != b for a, b in zip(parts(one)[:2], parts(two)[:2], strict=True))
    world = World(plan(scale_down_seconds=60 if bad else 1))
    for revision in (one, two):
        world.traffic.rates[revision.revision] = {"error": 0.02, "slow": 0.01}
    order(world, one)
    world.run(3)
    whole(world.state, one)
    order(world, two)
    world.run_until(bad or "finalizing")
    whole(world.state, one if bad == "progressing" else two)
    if bad:
        world.traffic.rates[two.revision] = {"error": 0.9}
        world.run_until("rolling_back")
    world.run_until("stable")
    world.run(2)
    whole(world.state, one if bad else two)
    assert world.releases.told[-1].champion == (one if bad else two)
    assert set(world.servers.running) == {(one if bad else two).revision}


def order(world: World, revision: Revision) -> None:
    wish = world.store.wish(NAME, revision)
    before = world.store.spec(NAME)
    world.store.propose(NAME, replace(wish, generation=before.generation + 1 if before else 1))
