"""Real flights, a real model as an ONNX bundle, and the prediction log of its server."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
from onnx import TensorProto, helper
from sklearn.linear_model import LogisticRegression

from tidemill.adapters.nycflights13 import Nycflights13
from tidemill.adapters.objects import FolderStore
from tidemill.adapters.project_code import load
from tidemill.adapters.store.engine import open_store
from tidemill.adapters.store.incidents import StoredIncidents
from tidemill.adapters.store.requests import StoredRequests
from tidemill.adapters.store.windows import StoredWindows
from tidemill.bundle import FeatureField, FeatureService, FeatureView, Manifest, write_manifest
from tidemill.domain.verdicts import WindowVerdict
from tidemill.settings import Settings
from tidemill.settings import load as load_settings
from tidemill.settings.contract import load_contract
from tidemill.settings.monitoring import MonitoringSettings
from tidemill.steps.inputs import raw_columns, to_arrays
from tidemill.steps.judge import Judge
from tidemill.steps.labels import LabelFeed
from tidemill.steps.monitor import Judged, Monitor
from tidemill.steps.profile import build_profile
from tidemill.steps.recompute import Recomputed, known_raw
from tidemill.steps.window_counts import declared_ranges
from tidemill.testing.clock import FixedClock

ROOT = Path(__file__).parents[1]
MODEL = "flight-delay"
REVISION = "aaaaaaaaaa"
RELEASE = datetime(2013, 4, 1, tzinfo=UTC)
END = datetime(2013, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
STEP = "180m"
VIEWS = {
    "carrier_delay": (("carrier",), 48),
    "route_stats": (("origin", "dest"), 72),
    "origin_congestion": (("origin",), 12),
    "origin_weather": (("origin",), 6),
    "plane": (("tailnum",), 0),
    "calendar": (("local_date",), 0),
}
Fault = Callable[[pl.DataFrame], pl.DataFrame]


@dataclass(frozen=True)
class OneBundle:
    """Every revision's bundle, in folders."""

    folders: dict[str, Path]

    def folder(self, revision: str) -> Path:
        from tidemill.errors import NotFound

        if revision not in self.folders:
            raise NotFound.among("registered revision", revision, self.folders)
        return self.folders[revision]


class Flights:
    """The data and the model, made once for a session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: Settings = load_settings(ROOT).settings
        self.source = Nycflights13(folder / "cache")
        self.transforms = load(ROOT / "feature_repo" / "transforms.py")
        self.columns = raw_columns(self.settings.training.inputs)
        self.recomputed = Recomputed(
            self.source, self.transforms, self.settings.features, self.settings.data.start
        )
        raw = known_raw(
            self.source, datetime(2013, 1, 1, tzinfo=UTC), END + 2 * DAY, first="2013-01"
        )
        self.tables = self.transforms.tables(raw, step_minutes=180, since=None, until=END)
        spine = self.transforms.spine(raw, horizon_minutes=60)
        at = pl.col("event_timestamp")
        self.rows = self.join(
            spine.filter(at < END).with_columns(at.dt.truncate(STEP).alias("features_as_of"))
        )
        self.train()

    def join(self, spine: pl.DataFrame) -> pl.DataFrame:
        joined = spine.sort("features_as_of", "event_timestamp")
        for view, (keys, hours) in VIEWS.items():
            table = self.tables[view].sort("event_timestamp")
            names = [c for c in table.columns if c not in (*keys, "event_timestamp")]
            table = table.rename({"event_timestamp": "found"})
            joined = joined.join_asof(
                table,
                left_on="features_as_of",
                right_on="found",
                by=list(keys),
                check_sortedness=False,
            )
            if hours:
                fresh = pl.col("found") + timedelta(hours=hours) >= pl.col("event_timestamp")
                joined = joined.with_columns(pl.when(fresh).then(pl.col(n)).alias(n) for n in names)
            joined = joined.drop("found")
        return joined.sort("event_timestamp", "flight_id")

    def train(self) -> None:
        """Fit a logistic model on January to March, write its bundle with a profile."""
        at = pl.col("event_timestamp")
        known = self.rows.filter(at < RELEASE, pl.col("late").is_not_null())
        fold = known.select((at.dt.date() - at.dt.date().min()).dt.total_days() // 5 % 5)
        folds, scores = fold.to_series().to_numpy(), np.zeros(known.height)
        for k in range(5):
            part = Logistic.fit(self, known.filter(pl.Series(folds != k)))
            scores[folds == k] = part.score(self, known.filter(pl.Series(folds == k)))
        self.oof = known.with_columns(pl.Series("score", scores))
        self.model = Logistic.fit(self, known)
        self.profile = build_profile(self.oof, self.columns, self.settings.monitoring)
        self.bundle = self.write_bundle(self.folder / "bundle", self.model)
        scored = self.model.score(self, self.rows)
        self.rows = self.rows.with_columns(pl.Series("score", scores_of(scored)))

    def write_bundle(self, folder: Path, model: Logistic) -> Path:
        folder.mkdir(parents=True)
        (folder / "model.onnx").write_bytes(model.onnx(self))
        (folder / "profile.json").write_text(json.dumps(self.profile))
        names = [c.name for c in self.columns]
        self.oof.select(*names, "score").sample(5000, seed=0).write_parquet(
            folder / "reference.parquet"
        )
        write_manifest(folder, self.manifest())
        return folder

    def manifest(self) -> Manifest:
        views = tuple(
            FeatureView(
                name,
                keys,
                tuple(
                    FeatureField(c, "Float64")
                    for c in self.tables[name].columns
                    if c not in (*keys, "event_timestamp")
                ),
                hours * 3600,
            )
            for name, (keys, hours) in VIEWS.items()
        )
        service = FeatureService("flight_delay_v1", "flights", "sha256:" + "f" * 64, views)
        lineage = {"trained_as_of": RELEASE.isoformat()}
        return Manifest(MODEL, self.columns, "probability", "flight_id", service, 0.2, lineage)

    def day(self, day: datetime) -> pl.DataFrame:
        at = pl.col("event_timestamp")
        return self.rows.filter((at >= day) & (at < day + DAY))


def scores_of(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


@dataclass(frozen=True)
class Logistic:
    """A logistic regression on standardised numbers and per-category rates."""

    means: dict[str, float]
    scales: dict[str, float]
    rates: dict[str, dict[str, float]]
    bias: float

    @classmethod
    def fit(cls, flights: Flights, frame: pl.DataFrame) -> Logistic:
        late = frame["late"].cast(pl.Float64)
        base = float(late.mean())
        means, spreads, rates, columns = {}, {}, {}, []
        for column in flights.columns:
            values = frame[column.name]
            if column.datatype == "FP32":
                numbers = values.cast(pl.Float64)
                means[column.name] = float(numbers.mean() or 0.0)
                spreads[column.name] = float(numbers.std() or 1.0) or 1.0
                standard = numbers.fill_null(means[column.name]) - means[column.name]
                columns.append((standard / spreads[column.name]).to_numpy())
            else:
                found = frame.group_by(column.name).agg(pl.col("late").mean(), pl.len())
                rates[column.name] = {
                    name: float((rate * n + base * 50) / (n + 50) - base)
                    for name, rate, n in found.iter_rows()
                }
                columns.append(values.replace_strict(rates[column.name]).to_numpy())
        model = LogisticRegression(solver="newton-cholesky").fit(
            np.column_stack(columns), late.to_numpy()
        )
        names = [c.name for c in flights.columns]
        weights = dict(zip(names, model.coef_[0].tolist(), strict=True))
        scales = {n: weights[n] / spreads[n] for n in means}
        shares = {n: {k: weights[n] * v for k, v in r.items()} for n, r in rates.items()}
        return cls(means, scales, shares, float(model.intercept_[0]))

    def score(self, flights: Flights, frame: pl.DataFrame) -> np.ndarray:
        from onnxruntime import InferenceSession

        session = InferenceSession(self.onnx(flights), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, to_arrays(frame, flights.columns))[0])

    def onnx(self, flights: Flights) -> bytes:
        nodes, inputs, constants, terms = [], [], [], []
        for column in flights.columns:
            name = column.name
            kind = TensorProto.FLOAT if column.datatype == "FP32" else TensorProto.STRING
            inputs.append(helper.make_tensor_value_info(name, kind, ["N"]))
            terms.append(f"{name}_term")
            if column.datatype == "FP32":
                for suffix, value in (("mean", self.means[name]), ("scale", self.scales[name])):
                    constants.append(
                        helper.make_tensor(f"{name}_{suffix}", TensorProto.FLOAT, [], [value])
                    )
                nodes += [
                    helper.make_node("IsNaN", [name], [f"{name}_nan"]),
                    helper.make_node(
                        "Where", [f"{name}_nan", f"{name}_mean", name], [f"{name}_full"]
                    ),
                    helper.make_node("Sub", [f"{name}_full", f"{name}_mean"], [f"{name}_centred"]),
                    helper.make_node("Mul", [f"{name}_centred", f"{name}_scale"], [terms[-1]]),
                ]
            else:
                pairs = self.rates[name]
                nodes.append(
                    helper.make_node(
                        "LabelEncoder",
                        [name],
                        [terms[-1]],
                        domain="ai.onnx.ml",
                        keys_strings=list(pairs),
                        values_floats=list(pairs.values()),
                        default_float=0.0,
                    )
                )
        constants.append(helper.make_tensor("bias", TensorProto.FLOAT, [], [self.bias]))
        nodes += [
            helper.make_node("Sum", [*terms, "bias"], ["logit"]),
            helper.make_node("Sigmoid", ["logit"], ["probability"]),
        ]
        output = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N"])]
        graph = helper.make_graph(nodes, "logistic", inputs, output, constants)
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 2)]
        return bytes(
            helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        )


@dataclass
class World:
    """One deployment: its log, its labels, its monitor."""

    flights: Flights
    folder: Path
    settings: MonitoringSettings = field(default_factory=MonitoringSettings)
    revision: str = REVISION

    def __post_init__(self) -> None:
        self.objects = FolderStore(self.folder / "objects")
        self.clock = FixedClock(RELEASE)
        self.bundles = OneBundle({REVISION: self.flights.bundle})
        self.store = store = open_store(f"sqlite:///{self.folder / 'store.db'}")
        self.windows, self.incidents = StoredWindows(store), StoredIncidents(store)
        self.requests = StoredRequests(store)

    @cached_property
    def monitor(self) -> Monitor:
        judge = Judge(
            MODEL,
            self.settings,
            declared_ranges(load_contract(ROOT / "configs" / "contract.yaml")),
            self.flights.recomputed,
        )
        return Monitor(
            judge,
            objects=self.objects,
            bundles=self.bundles,
            windows=self.windows,
            incidents=self.incidents,
            clock=self.clock,
            horizon=timedelta(minutes=60),
        )

    @cached_property
    def labels(self) -> LabelFeed:
        return LabelFeed(
            MODEL,
            self.flights.source,
            self.flights.transforms,
            self.objects,
            row_id="flight_id",
            label="late",
            horizon_minutes=60,
            first="2013-01",
        )

    def log(self, day: datetime, fault: Fault = lambda rows: rows, **columns: object) -> None:
        """Write the prediction log of one day; `fault` changes what was served."""
        served = fault(self.flights.day(day))
        names = [c.name for c in self.flights.columns]
        keys = [k for k in ("tailnum", "local_date") if k in served.columns]
        numbers = {c.name for c in self.flights.columns if c.datatype == "FP32"}
        extra = [c for c in ("defaulted", "revision", "sampled") if c in served.columns]
        frame = served.select(
            pl.col("flight_id").alias("request_id"),
            pl.col("flight_id").alias("row_id"),
            pl.col("event_timestamp").alias("at"),
            pl.lit(MODEL).alias("model"),
            pl.lit("1").alias("version"),
            *([] if "revision" in extra else [pl.lit(self.revision).alias("revision")]),
            "features_as_of",
            *(
                pl.col(n).cast(pl.Float32) if n in numbers and served.schema[n].is_numeric() else n
                for n in names
                if n in served.columns
            ),
            *keys,
            *extra,
            pl.col("score").cast(pl.Float32),
        )
        self.put(f"predictions/{MODEL}/dt={day:%Y-%m-%d}/000000.parquet", frame)

    def rescored(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows whose scores follow from their (faulty) inputs."""
        scores = self.flights.model.score(self.flights, rows)
        return rows.with_columns(pl.Series("score", scores_of(scores)))

    def label(self, until: datetime, change: Fault = lambda rows: rows) -> None:
        """Write every label known at `until`."""
        known = self.flights.rows.filter(pl.col("late").is_not_null(), pl.col("label_at") <= until)
        known = change(known.filter(pl.col("scheduled_at") >= RELEASE - DAY))
        for (day,), rows in known.group_by(pl.col("scheduled_at").dt.date()):
            frame = rows.select(
                row_id="flight_id", label="late", scheduled_at="scheduled_at", label_at="label_at"
            )
            self.put(f"labels/{MODEL}/dt={day}/000000.parquet", frame)

    def put(self, key: str, frame: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        self.objects.put(key, buffer.getvalue())

    def copy(self, folder: Path) -> World:
        """Return an equal world in another folder."""
        self.store.dispose()
        shutil.copytree(self.folder, folder)
        other = World(self.flights, folder, self.settings, self.revision)
        other.clock.instant = self.clock.instant
        return other

    def play(
        self,
        days: int,
        *,
        onset: int = 0,
        fault: Fault = lambda rows: rows,
        labels: Fault | None = None,
    ) -> list[Judged]:
        """Log `days` days from the clock's day on, faulty from day `onset`, and judge them all."""
        start = self.clock.instant.replace(hour=0)
        for day in range(days):
            broken = fault if day >= onset else lambda rows: rows
            self.log(start + day * DAY, broken)
        if labels is not None:
            self.label(start + days * DAY, labels)
        self.clock.instant = start + days * DAY + timedelta(hours=1)
        return self.monitor.run()


def causes(judged: Sequence[Judged]) -> list[str]:
    return [j.verdict.cause for j in judged]


def verdicts(judged: Sequence[Judged]) -> Iterator[WindowVerdict]:
    return (j.verdict for j in judged)


def only(settings: MonitoringSettings, **changes: object) -> MonitoringSettings:
    return settings.model_copy(update=changes)


__all__ = [
    "Flights",
    "Logistic",
    "OneBundle",
    "World",
    "causes",
    "only",
    "replace",
    "verdicts",
]
