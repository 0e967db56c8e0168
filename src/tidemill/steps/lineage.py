"""The versions that a word means: the name of one, or any id that a version came from."""

from __future__ import annotations

import re

from tidemill.bundle import revision
from tidemill.domain.lineage import REVISION, tags_like
from tidemill.errors import NotFound
from tidemill.ports.registry import Catalog, ModelRegistry, ModelVersion

__all__ = ["versions"]


def versions(target: str, registry: ModelRegistry, catalog: Catalog) -> list[ModelVersion]:
    """Return the version of a reference, or every version that came from an id.

    Raises NotFound when there is none, and Unavailable when the registry does not answer.
    """
    tags = tags_like(target)
    if re.fullmatch(REVISION, target):
        found = [version for version in catalog.search() if revision(version.digest) == target]
    elif tags:
        found = [version for tag, value in tags for version in catalog.search(tags={tag: value})]
    else:
        return [registry.resolve(target)]
    if not found:
        raise NotFound(
            f"no registered model came from '{target}'",
            hint="tidemill registry list shows them all",
        )
    return found
