"""Evidence reports, drawn by the real Evidently."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from tests.monitoring_world import MODEL, World

from tidemill.adapters.evidently import EvidentlyRenderer
from tidemill.errors import DataError
from tidemill.steps.report import Reporter

pytestmark = pytest.mark.slow


def files(tmp_path: Path, reference: pl.DataFrame, current: pl.DataFrame) -> tuple[Path, ...]:
    reference.write_parquet(tmp_path / "reference.parquet")
    current.write_parquet(tmp_path / "current.parquet")
    return tmp_path / "reference.parquet", tmp_path / "current.parquet", tmp_path / "out" / "r.html"


def test_bad_columns_are_named_and_hide_no_other(tmp_path: Path, world: World) -> None:
    names = ["temp", "humid", "visib", "wind_gust", "pressure", "carrier", "dest"]
    rows = world.flights.rows.select(names)
    current = rows.tail(900).with_columns(
        pl.lit(None, pl.Float64).alias("wind_gust"),
        pl.col("humid").cast(pl.String),
        pl.lit(float("inf")).alias("pressure"),
        pl.lit(None, pl.String).alias("dest"),
        temp=pl.when(pl.int_range(pl.len()) == 0).then(1e9).otherwise("temp"),
    )
    odd = pl.lit([["a"]]).alias("odd")  # Evidently raises on it: unhashable
    out = EvidentlyRenderer().render(
        *files(
            tmp_path,
            rows.head(3000).with_columns(odd),
            current.drop("visib").with_columns(odd),
        ),
        "inc-1: <test>",
    )
    page = out.read_text()
    for line in (
        "inc-1: &lt;test&gt;",
        "<li>wind_gust: no value at all</li>",
        "<li>humid: ",
        "<li>visib: not in the log</li>",
        "<li>dest: no value at all</li>",
        "<li>odd: ",
    ):
        assert line in page
    assert "Drift in column &#x27;temp&#x27;" in page or "Drift in column 'temp'" in page
    assert "Drift in column 'carrier'" in page


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    one, other = pl.DataFrame({"a": [1.0]}), pl.DataFrame({"b": [1.0]})
    with pytest.raises(DataError, match="a: not in the log"):
        EvidentlyRenderer().render(*files(tmp_path, one, other), "title")


def too_humid(world: World, rows: pl.DataFrame) -> pl.DataFrame:
    return world.rescored(rows.with_columns(humid=pl.lit(400.0)))


def reporter(world: World) -> Reporter:
    return Reporter(
        MODEL,
        world.objects,
        world.bundles,
        world.incidents,
        world.windows,
        EvidentlyRenderer(),
        world.settings,
    )


def test_an_incident_links_its_report(settled: World) -> None:
    settled.play(1, fault=lambda rows: too_humid(settled, rows))
    (incident,) = settled.incidents.all(MODEL)
    linked = reporter(settled).of_incident(incident.id)
    assert linked.report.endswith(f"reports/{MODEL}/{incident.id}.html")
    page = settled.objects.get(f"reports/{MODEL}/{incident.id}.html").decode()
    assert "humid is outside its declared range" in page
    assert settled.incidents.get(incident.id) == linked


def test_an_alert_never_depends_on_its_report(settled: World) -> None:
    settled.play(1, fault=lambda rows: too_humid(settled, rows))
    (incident,) = settled.incidents.all(MODEL)
    settled.bundles.folders.clear()
    linked = reporter(settled).of_incident(incident.id)
    assert linked.report.startswith("none: there is no registered revision")
