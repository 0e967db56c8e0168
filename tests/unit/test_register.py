"""What may be registered: a bundle whose own evidence lets it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.bundles import make_bundle, model, write_evidence

from tidemill.errors import IntegrityError, Refused
from tidemill.steps.register import register
from tidemill.testing.clock import FixedClock
from tidemill.testing.ledger import MemoryLedger
from tidemill.testing.registry import MemoryRegistry

CLOCK = FixedClock(datetime(2013, 4, 1, tzinfo=UTC))


@dataclass
class Signer:
    """Remembers what it signed."""

    signed: list[Path] = field(default_factory=list)

    def sign(self, bundle: Path) -> None:
        self.signed.append(bundle)


@dataclass
class World:
    """A bundle and the places it is registered in."""

    bundle: Path
    registry: MemoryRegistry
    ledger: MemoryLedger = field(default_factory=MemoryLedger)
    signer: Signer = field(default_factory=Signer)

    def register(self) -> None:
        register(
            self.bundle,
            signer=self.signer,
            registry=self.registry,
            aliases=self.registry,
            ledger=self.ledger,
            clock=CLOCK,
            run_id="",
            who="pipeline",
            why="schedule",
        )

    def assert_untouched(self) -> None:
        assert (self.signer.signed, self.registry.kept, self.ledger.kept) == ([], [], [])


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(make_bundle(tmp_path / "bundle", "m"), MemoryRegistry(tmp_path / "registry"))


def test_a_candidate_that_passed_is_registered_and_not_called_forced(world: World) -> None:
    world.register()
    assert {entry.why for entry in world.ledger.entries()} == {"schedule"}


def test_a_refused_candidate_is_not_registered(world: World) -> None:
    write_evidence(world.bundle, passed=False)
    with pytest.raises(Refused, match="did not pass its gates") as caught:
        world.register()
    assert "tidemill model gate --force" in caught.value.hint
    world.assert_untouched()


def test_an_overridden_candidate_is_registered_with_the_reason(world: World) -> None:
    write_evidence(world.bundle, passed=False, override="an outage")
    world.register()
    assert {entry.why for entry in world.ledger.entries()} == {"schedule, forced: an outage"}


def test_evidence_of_another_model_is_not_enough(world: World) -> None:
    (world.bundle / "model.onnx").write_bytes(model(0.5))
    with pytest.raises(IntegrityError, match=r"about another model\.onnx"):
        world.register()
    world.assert_untouched()


def test_evidence_that_was_edited_is_not_enough(world: World) -> None:
    write_evidence(world.bundle, passed=False)
    path = world.bundle / "evidence.json"
    path.write_text(path.read_text().replace("false", "true"))
    with pytest.raises(IntegrityError, match="changed after it was sealed"):
        world.register()
    world.assert_untouched()


@pytest.mark.parametrize("name", ["golden.json", "evidence.json"])
def test_a_bundle_that_lacks_a_part_is_not_registered(world: World, name: str) -> None:
    (world.bundle / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        world.register()
    world.assert_untouched()
