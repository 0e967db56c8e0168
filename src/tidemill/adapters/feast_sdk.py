"""Feast without what its import does beside importing: 1.1 CPU seconds instead of 4.6.

Feast has typeguard rewrite the source of its classes, to check the types of arguments at run time
(2.3 s), and imports torch where it is installed, to return features as tensors (1.2 s). tidemill
needs neither: while Feast is imported, typeguard's decorator does nothing and torch is not found.
"""

from __future__ import annotations

import sys
from typing import Any

import typeguard


def _unchecked(target: Any = None, **_: Any) -> Any:
    return _unchecked if target is None else target


checked, torch = typeguard.typechecked, sys.modules.get("torch")
typeguard.typechecked = _unchecked
sys.modules["torch"] = None  # type: ignore[assignment] # what makes an import fail
try:
    from feast import Entity, FeatureService, FeatureStore, FeatureView, FileSource, RepoConfig
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.infra.offline_stores.offline_store import (
        OfflineStore,
        RetrievalJob,
        RetrievalMetadata,
    )
    from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
    from feast.infra.online_stores.helpers import _mmh3 as mmh3
    from feast.infra.online_stores.helpers import _redis_key as redis_key
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
    from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
    from feast.on_demand_feature_view import OnDemandFeatureView
    from feast.repo_config import FeastConfigBaseModel
finally:
    typeguard.typechecked = checked
    del sys.modules["torch"]
    if torch is not None:
        sys.modules["torch"] = torch

__all__ = [
    "Entity",
    "FeastConfigBaseModel",
    "FeatureService",
    "FeatureStore",
    "FeatureView",
    "FileSource",
    "OfflineStore",
    "OnDemandFeatureView",
    "RedisOnlineStore",
    "RedisOnlineStoreConfig",
    "RepoConfig",
    "RetrievalJob",
    "RetrievalMetadata",
    "SqliteOnlineStore",
    "SqliteOnlineStoreConfig",
    "infer_event_timestamp_from_entity_df",
    "mmh3",
    "redis_key",
    "serialize_entity_key",
]
