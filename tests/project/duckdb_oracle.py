"""Feast's own `duckdb` store, asked in a process of its own: it complains after its last breath.

`python duckdb_oracle.py JOBS`: a JSON list of `repo`, `tables`, `entities` (Parquet), `service`,
`out` (Parquet).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import polars as pl
from feast import FeatureStore, RepoConfig

from tidemill.adapters.feast_definitions import Definitions


def answer(job: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = RepoConfig(
            project="oracle",
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{folder}/registry.db"},
            offline_store={"type": "duckdb"},
            online_store={"type": "sqlite", "path": f"{folder}/online.db"},
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        definitions = Definitions(Path(job["repo"]), "oracle", Path(job["tables"]))
        store.apply(definitions.objects)
        entities = pl.read_parquet(job["entities"]).with_row_index("row")
        found = store.get_historical_features(
            entity_df=entities.to_pandas(),
            features=store.get_feature_service(job["service"]),
            filter_by_created_timestamp=True,
        )
        names = [f.name for v in definitions.resolve(job["service"]).views for f in v.fields]
        pl.DataFrame(found.to_arrow()).sort("row").select(names).write_parquet(job["out"])


if __name__ == "__main__":
    for each in json.loads(sys.argv[1]):
        answer(each)
