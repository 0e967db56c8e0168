"""A Feast offline store that joins features as of an instant, in polars, on one machine.

Feast's own `duckdb` store gives the same answers (the tests compare them row by row) for about
thirty times the work, because it expands every entity row to all its earlier values first. The
default `dask` store drops rows and picks wrong revisions.

Named in `feature_store.yaml` as `tidemill.adapters.asof.AsofPolarsOfflineStore`. It reads Parquet
file sources; anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pandas as pd
import polars as pl
import pyarrow as pa

from tidemill.adapters.feast_sdk import (
    FeastConfigBaseModel,
    FeatureView,
    FileSource,
    OfflineStore,
    OnDemandFeatureView,
    RepoConfig,
    RetrievalJob,
    RetrievalMetadata,
    infer_event_timestamp_from_entity_df,
)

__all__ = ["AsofPolarsOfflineStore", "AsofPolarsOfflineStoreConfig", "asof", "latest"]

INSTANT = pl.Datetime("us", "UTC")
ROW = "__row"
FOUND = "__found_at"
KNOWN = "__known_at"
ViewLike: TypeAlias = Any
"""A Feast view or source; Feast ships no types."""


def asof(
    spine: pl.LazyFrame,
    table: pl.LazyFrame,
    *,
    at: str,
    keys: Mapping[str, str],
    timestamp: str,
    created: str | None,
    columns: Sequence[str],
    ttl: timedelta | None,
) -> pl.LazyFrame:
    """Add to each row of `spine` the newest row of `table` that was known at `at`.

    `spine` is sorted by `at`; `keys` maps its columns to the table's. With `created`, a row is
    known from `max(timestamp, created)`: on arrival it can win only if no newer timestamp is known
    yet. A row older than `ttl` at `at` gives nulls, the boundary included as fresh.
    """
    right = [f"__key_{key}" for key in keys.values()]
    table = table.filter(pl.all_horizontal(pl.col(*keys.values(), timestamp).is_not_null()))
    if created:
        known = pl.max_horizontal(timestamp, created)
        table = table.filter(pl.col(created).is_not_null()).sort(known, timestamp, created)
        newest = pl.col(timestamp) >= pl.col(timestamp).cum_max().over(*keys.values())
        table = table.with_columns(known.alias(KNOWN)).filter(newest)
    else:
        table = table.sort(timestamp).with_columns(pl.col(timestamp).alias(KNOWN))
    found = spine.join_asof(
        table.select(
            *(pl.col(key).alias(name) for key, name in zip(keys.values(), right, strict=True)),
            pl.col(KNOWN).set_sorted(),
            pl.col(timestamp).alias(FOUND),
            *columns,
        ),
        left_on=at,
        right_on=KNOWN,
        by_left=list(keys),
        by_right=right,
        strategy="backward",
        check_sortedness=False,
    )
    if ttl:
        fresh = pl.col(FOUND) + ttl >= pl.col(at)
        found = found.with_columns(pl.when(fresh).then(pl.col(name)) for name in columns)
    return found.drop(FOUND, KNOWN, strict=False)


def latest(
    table: pl.LazyFrame,
    *,
    keys: Sequence[str],
    timestamp: str,
    created: str | None,
    since: datetime,
    until: datetime,
) -> pl.LazyFrame:
    """Return each key's newest row within [since, until], as written by `until`."""
    table = table.filter(pl.col(timestamp).is_between(since, until))
    order = [timestamp]
    if created:
        table = table.filter(pl.col(created) <= until)
        order.append(created)
    return table.sort(order).unique(keys, keep="last", maintain_order=True)


class AsofPolarsOfflineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
    """The store has no settings."""

    type: Literal["tidemill.adapters.asof.AsofPolarsOfflineStore"] = (
        "tidemill.adapters.asof.AsofPolarsOfflineStore"
    )


class AsofPolarsOfflineStore(OfflineStore):  # type: ignore[misc]
    """Point-in-time joins with `polars.join_asof`."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[ViewLike],
        feature_refs: list[str],
        entity_df: pd.DataFrame | None,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = True,  # noqa: ARG004 - the cut-off is always on
        **unknown: Any,
    ) -> RetrievalJob:
        """Join every requested view to the entity rows, keeping their order and columns.

        A value created after the entity's instant is never returned, whatever the flag says.
        Arguments that are not honoured raise NotImplementedError instead of being ignored.
        """
        if unknown or not isinstance(entity_df, pd.DataFrame):
            asked = ", ".join(sorted(unknown)) or f"entities given as {type(entity_df).__name__}"
            raise NotImplementedError(f"AsofPolarsOfflineStore does not support {asked}")
        at = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        rows = _instants(pl.from_pandas(entity_df).lazy(), at).with_row_index(ROW).sort(at)
        for view in feature_views:
            rows = _join(config, rows, at, view, feature_refs, full_feature_names)
        return PolarsJob(
            rows.sort(ROW).drop(ROW),
            OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names,
            RetrievalMetadata(
                features=feature_refs, keys=[name for name in entity_df.columns if name != at]
            ),
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: ViewLike,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """Each key's newest row of a window: what materialisation writes."""
        stamps = [timestamp_field, *filter(None, [created_timestamp_column])]
        table = latest(
            _instants(_scan(config, data_source), *stamps),
            keys=join_key_columns,
            timestamp=timestamp_field,
            created=created_timestamp_column,
            since=_utc(start_date),
            until=_utc(end_date),
        )
        return PolarsJob(table.select(*join_key_columns, *feature_name_columns, *stamps))

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: ViewLike,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Every row of a window."""
        stamps = [timestamp_field, *filter(None, [created_timestamp_column])]
        table = _instants(_scan(config, data_source), *stamps)
        if start_date:
            table = table.filter(pl.col(timestamp_field) >= _utc(start_date))
        if end_date:
            table = table.filter(pl.col(timestamp_field) <= _utc(end_date))
        return PolarsJob(table.select(*join_key_columns, *feature_name_columns, *stamps))


class PolarsJob(RetrievalJob):  # type: ignore[misc]
    """A lazy polars query, collected when Feast asks for the result."""

    def __init__(
        self,
        query: pl.LazyFrame,
        on_demand: Sequence[OnDemandFeatureView] = (),
        full_feature_names: bool = False,
        metadata: RetrievalMetadata | None = None,
    ) -> None:
        super().__init__()
        self._query = query
        self._on_demand = list(on_demand)
        self._full_feature_names = full_feature_names
        self._metadata = metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:  # noqa: ARG002 - Feast's signature
        return self._query.collect().to_arrow()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:  # noqa: ARG002 - Feast's signature
        return self._query.collect().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        """Whether columns carry their view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """On-demand views that Feast computes on the result."""
        return self._on_demand

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked for."""
        return self._metadata


def _join(
    config: RepoConfig,
    rows: pl.LazyFrame,
    at: str,
    view: FeatureView,
    feature_refs: list[str],
    full_feature_names: bool,
) -> pl.LazyFrame:
    source = view.batch_source
    prefix = view.projection.name_to_use()
    features = [ref.split(":")[1] for ref in feature_refs if ref.startswith(f"{prefix}:")]
    stamps = [source.timestamp_field, *filter(None, [source.created_timestamp_column])]
    table = _instants(_scan(config, source).rename(source.field_mapping, strict=False), *stamps)
    if full_feature_names:
        table = table.rename({name: f"{prefix}__{name}" for name in features})
        features = [f"{prefix}__{name}" for name in features]
    entities = {entity.name: entity.name for entity in view.entity_columns}
    mapped = {left: right for right, left in view.projection.join_key_map.items()}
    return asof(
        rows,
        table,
        at=at,
        keys=mapped or entities,
        timestamp=source.timestamp_field,
        created=source.created_timestamp_column or None,
        columns=features,
        ttl=view.ttl,
    )


def _scan(config: RepoConfig, source: ViewLike) -> pl.LazyFrame:
    if not isinstance(source, FileSource):
        raise NotImplementedError(
            f"AsofPolarsOfflineStore reads Parquet files, not {type(source).__name__}"
        )
    path = source.path
    if "://" not in path and not Path(path).is_absolute():
        path = str(Path(config.repo_path) / path)
    return pl.scan_parquet(path)


def _instants(table: pl.LazyFrame, *names: str) -> pl.LazyFrame:
    """Cast timestamps to microseconds UTC; naive ones are read as UTC, as Feast does."""
    schema = table.collect_schema()
    casts = []
    for name in names:
        dtype = schema[name]
        column = pl.col(name)
        if isinstance(dtype, pl.Datetime) and dtype.time_zone is None:
            column = column.dt.replace_time_zone("UTC")
        casts.append(column.cast(INSTANT))
    return table.with_columns(casts)


def _utc(instant: datetime) -> datetime:
    return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
