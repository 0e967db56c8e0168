"""The images that pods run in: one per dependency set, pinned by tidemill's version.

`execution.images` replaces a reference by the one that a registry holds, best by digest. A mutable
tag is refused there: KFP's cache key holds the image's name, not its content.
"""

from __future__ import annotations

from tidemill import __version__

__all__ = [
    "CONTROL",
    "FEATURES",
    "MONITOR",
    "PIPELINES",
    "REGISTRY",
    "SERVE",
    "SETS",
    "TRAIN",
    "reference",
]

SETS = ("features", "train", "serve", "monitor", "control", "pipelines", "registry")
"""The dependency sets, each a target of `infra/images/Dockerfile`."""


def reference(name: str) -> str:
    """Return the image of a dependency set."""
    return f"tidemill/{name}:{__version__}"


FEATURES, TRAIN, SERVE, MONITOR, CONTROL, PIPELINES, REGISTRY = map(reference, SETS)
