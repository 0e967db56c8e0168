"""Parquet of our own, read by everyone else's readers."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from tempfile import NamedTemporaryFile
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.server.parquet import (
    BOOL,
    DOUBLE,
    FLOAT,
    INSTANT,
    TEXT,
    Chunk,
    Column,
    File,
    chosen,
    lists,
    nothing,
    plain,
    vectors,
)

COLUMNS = (
    Column("float", FLOAT),
    Column("double", DOUBLE),
    Column("truth", BOOL),
    Column("text", TEXT),
    Column("instant", INSTANT),
    Column("chosen double", DOUBLE),
    Column("list", TEXT, lists=True),
    Column("vector", FLOAT, lists=True),
    Column("no list", FLOAT, lists=True),
    Column("nothing", TEXT),
)
BEGIN = datetime(1970, 1, 1)  # hypothesis adds the zone
END = datetime(2200, 1, 1)
Rows = dict[str, list[Any]]

finite = st.floats(width=32, allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
instants = st.datetimes(BEGIN, END, timezones=st.just(UTC))


@st.composite
def groups(draw: st.DrawFn) -> tuple[list[Chunk], Rows]:
    """Draw a row group, and what readers must find in it."""
    rows = draw(st.integers(1, 40))

    def column(values: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(values, min_size=rows, max_size=rows))

    def places(entries: list[Any]) -> np.ndarray[Any, Any]:
        return np.array(column(st.integers(0, len(entries) - 1)))

    width = draw(st.integers(1, 5))
    numbers = np.array(draw(st.lists(finite, min_size=rows * width, max_size=rows * width)))
    floats, doubles, truths = (
        column(finite),
        column(st.floats(allow_nan=False)),
        column(st.booleans()),
    )
    entries = {
        name: draw(st.lists(kind, min_size=1, max_size=12))
        for name, kind in {
            "text": st.none() | texts,
            "instant": st.none() | instants,
            "chosen double": st.none() | st.floats(allow_nan=False),
            "list": st.lists(texts, max_size=4),
        }.items()
    }
    at = {name: places(kept) for name, kept in entries.items()}
    wanted: Rows = {
        "float": floats,
        "double": doubles,
        "truth": truths,
        **{name: [kept[place] for place in at[name]] for name, kept in entries.items()},
        "vector": numbers.reshape(rows, width).tolist(),
        "no list": [None] * rows,
        "nothing": [None] * rows,
    }
    chunks = [
        plain(FLOAT, np.array(floats)),
        plain(DOUBLE, np.array(doubles)),
        plain(BOOL, np.array(truths)),
        chosen(TEXT, entries["text"], at["text"]),
        chosen(INSTANT, entries["instant"], at["instant"]),
        chosen(DOUBLE, entries["chosen double"], at["chosen double"]),
        lists(TEXT, entries["list"], at["list"]),
        vectors(FLOAT, numbers.reshape(rows, width)),
        nothing(rows, lists=True),
        nothing(rows),
    ]
    return chunks, wanted


def by_polars(content: bytes) -> Rows:
    return pl.read_parquet(io.BytesIO(content)).to_dict(as_series=False)


def by_pyarrow(content: bytes) -> Rows:
    found = pq.read_table(io.BytesIO(content))
    found.validate(full=True)
    return found.to_pydict()


def by_duckdb(content: bytes) -> Rows:
    with NamedTemporaryFile(suffix=".parquet") as file:
        file.write(content)
        file.flush()
        found = duckdb.sql(f"select * from '{file.name}'").to_arrow_table()
        return found.to_pydict()


@pytest.mark.parametrize("read", [by_polars, by_pyarrow, by_duckdb])
@settings(max_examples=40)
@given(written=st.lists(groups(), min_size=1, max_size=4))
def test_readers_find_what_was_written(
    read: Callable[[bytes], Rows], written: list[tuple[list[Chunk], Rows]]
) -> None:
    file = File(COLUMNS)
    for chunks, _ in written:
        file.add(chunks)
    found = read(file.finish())
    assert found == {
        column.name: [value for _, rows in written for value in rows[column.name]]
        for column in COLUMNS
    }


def write(column: Column, *chunks: Chunk) -> bytes:
    file = File([column])
    for chunk in chunks:
        file.add([chunk])
    return file.finish()


def test_the_types_are_what_the_log_promises() -> None:
    file = File(COLUMNS)
    now = datetime(2013, 4, 1, 12, tzinfo=UTC)
    one = np.zeros(1, np.intp)
    file.add(
        [
            *(
                plain(FLOAT, np.zeros(1)),
                plain(DOUBLE, np.zeros(1)),
                plain(BOOL, np.zeros(1, bool)),
            ),
            *(chosen(TEXT, ["a"], one), chosen(INSTANT, [now], one), chosen(DOUBLE, [1.0], one)),
            *(
                lists(TEXT, [["a"]], one),
                vectors(FLOAT, np.zeros((1, 2))),
                nothing(1, lists=True),
                nothing(1),
            ),
        ]
    )
    content = file.finish()
    assert pl.read_parquet_schema(io.BytesIO(content)) == {
        "float": pl.Float32,
        "double": pl.Float64,
        "truth": pl.Boolean,
        "text": pl.String,
        "instant": pl.Datetime("us", "UTC"),
        "chosen double": pl.Float64,
        "list": pl.List(pl.String),
        "vector": pl.List(pl.Float32),
        "no list": pl.List(pl.Float32),
        "nothing": pl.String,
    }
    assert pq.read_schema(io.BytesIO(content)).field("instant").type == pa.timestamp("us", "UTC")


@pytest.mark.parametrize("count", [1, 255, 256, 257, 65_536, 65_537])
def test_a_dictionary_of_any_size(count: int) -> None:
    entries = [f"{number}" for number in range(count)]
    places = np.arange(count)[::-1].copy()
    found = by_polars(write(Column("text", TEXT), chosen(TEXT, entries, places)))
    assert found["text"] == entries[::-1]


def test_nan_and_infinity_are_values() -> None:
    content = write(Column("float", FLOAT), plain(FLOAT, np.float32([np.nan, np.inf, -np.inf])))
    first, *others = by_pyarrow(content)["float"]
    assert np.isnan(first)
    assert others == [np.inf, -np.inf]


def test_repetition_compresses() -> None:
    same = chosen(TEXT, ["the same text"], np.zeros(10_000, np.intp))
    assert len(write(Column("text", TEXT), same)) < 500


def test_every_microsecond_is_kept() -> None:
    day = datetime(2026, 11, 23, 11, 59, 59, 999_990, tzinfo=UTC)
    moments = [day + timedelta(microseconds=number) for number in range(1000)]
    content = write(Column("at", INSTANT), chosen(INSTANT, moments, np.arange(1000)))
    assert by_polars(content)["at"] == moments


def test_columns_of_different_lengths_are_refused_and_leave_the_file_as_it_was() -> None:
    file = File([Column("a", FLOAT), Column("b", FLOAT)])
    two, three = plain(FLOAT, np.zeros(2)), plain(FLOAT, np.zeros(3))
    file.add([two, two])
    with pytest.raises(ValueError, match="unpack"):
        file.add([two, three])
    assert by_polars(file.finish()) == {"a": [0.0, 0.0], "b": [0.0, 0.0]}
