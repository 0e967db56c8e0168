"""Models: MLflow, bundles, signatures, the promotion ledger."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.settings.secrets import reveal
from tidemill.wiring.data import DataParts

if TYPE_CHECKING:
    from tidemill.adapters.mlflow.client import Client
    from tidemill.adapters.mlflow.registry import MlflowRegistry
    from tidemill.adapters.mlflow.tracker import MlflowTracker
    from tidemill.adapters.signing import Signer
    from tidemill.adapters.store.ledger import StoredLedger
    from tidemill.domain.rollout.model import Revision
    from tidemill.steps.bundles import RegisteredBundles

__all__ = ["ModelParts"]


class ModelParts(DataParts):
    """The adapters that keep models."""

    @cached_property
    def mlflow(self) -> Client:
        """The connection to MLflow."""
        from tidemill.adapters.mlflow.client import Client

        registry = self.settings.registry
        return Client(
            registry.uri, reveal(registry.token), connect_seconds=registry.connect_seconds
        )

    @cached_property
    def registry(self) -> MlflowRegistry:
        """The model registry, its aliases and its catalog."""
        from tidemill.adapters.mlflow.registry import MlflowRegistry

        return MlflowRegistry(self.mlflow, self.settings.registry.experiment)

    def champion(self, reference: str = "") -> Path | None:
        """Bring the bundle that `reference` means, by default the one in use, to this machine.

        Returns None when nothing is in use yet; raises NotFound for a reference without a version.
        """
        model = self.settings.registry.model
        if not reference and "champion" not in self.registry.aliases(model):
            return None
        return Path(self.revision(reference or f"{model}@champion").bundle)

    def tracker(self, run: str, tags: Mapping[str, str] | None = None) -> MlflowTracker:
        """Open the record of the pipeline run `run`, begun by whichever step comes first."""
        from tidemill.adapters.mlflow.tracker import MlflowTracker

        return MlflowTracker.open(self.mlflow, self.settings.registry.experiment, run, tags)

    @cached_property
    def signer(self) -> Signer:
        """Signs bundles with the project's key."""
        from tidemill.adapters.signing import Signer

        registry = self.settings.registry
        return Signer(
            self.paths.resolve(registry.signing_key), self.paths.resolve(registry.verify_key)
        )

    @cached_property
    def ledger(self) -> StoredLedger:
        """The promotion ledger."""
        from tidemill.adapters.store.ledger import StoredLedger

        return StoredLedger(self.store)

    @cached_property
    def bundles(self) -> RegisteredBundles:
        """Bundles of every revision that ever served, verified."""
        from tidemill.steps.bundles import RegisteredBundles

        registry = self.settings.registry
        key = self.paths.resolve(registry.verify_key)
        cache = self.paths.state / "bundles"
        return RegisteredBundles(registry.model, self.registry, self.registry, cache, key)

    def revision(self, reference: str) -> Revision:
        """Bring a registered version to this machine, verified."""
        from tidemill.bundle import verify
        from tidemill.steps.release import fetch_revision

        key = self.paths.resolve(self.settings.registry.verify_key)
        bundles = self.paths.state / "bundles"
        return fetch_revision(self.registry, reference, bundles, lambda f: verify(f, key))
