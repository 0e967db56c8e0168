"""Every rule of a contract finds its rows, and no finding hides another."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.errors import ConfigError
from tidemill.settings.contract import TableContract
from tidemill.steps.checks import Finding, Span, check_frame, check_rows

BEGIN, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2013, 2, 1, tzinfo=UTC)
CLOSED = Span(END + timedelta(days=9), BEGIN, END)


def table(**over: Any) -> TableContract:
    columns = {
        "id": {"dtype": "String", "pattern": "[a-z]\\d+"},
        "at": {"dtype": "Datetime"},
        "amount": {"dtype": "Float64", "nulls": 0.1, "range": [0, 100]},
        "kind": {"dtype": "String", "allowed": ["new", "old"]},
        "done": {"dtype": "Boolean", "nulls": 0.5, "due_hours": 24},
    }
    return TableContract.model_validate(
        {"timestamp": "at", "key": ["id"], "columns": columns} | over
    )


def frame(rows: int = 1000) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": [f"a{i}" for i in range(rows)],
            "at": [BEGIN + timedelta(minutes=i) for i in range(rows)],
            "amount": [float(i % 100) for i in range(rows)],
            "kind": ["new", "old"] * (rows // 2),
            "done": [True] * rows,
        },
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )


def spoil(column: str, values: dict[int, Any]) -> pl.DataFrame:
    good = frame()
    return good.with_columns(
        pl.Series(
            column, [values.get(i, v) for i, v in enumerate(good[column])], good[column].dtype
        )
    )


def test_good_data_has_no_findings() -> None:
    assert check_frame(frame(), table(), CLOSED) == []


@pytest.mark.parametrize(
    ("broken", "rule", "column", "rows", "example"),
    [
        (spoil("amount", {3: -1.0, 7: 101.0}), "range", "amount", 2, "id=a3, amount=-1.0"),
        (spoil("amount", {3: float("inf")}), "range", "amount", 1, "id=a3, amount=inf"),
        (spoil("amount", dict.fromkeys(range(101))), "nulls", "amount", 101, "id=a0, amount=None"),
        (
            spoil("amount", dict.fromkeys(range(101), float("nan"))),
            "nulls",
            "amount",
            101,
            "id=a0, amount=nan",
        ),
        (spoil("kind", {5: "odd"}), "allowed", "kind", 1, "id=a5, kind=odd"),
        (spoil("id", {5: "?", 6: "a6\nb"}), "pattern", "id", 2, "id=?"),
        (spoil("id", {5: None}), "nulls", "id", 1, "id=None"),
        (spoil("id", {5: "a6"}), "unique key", "", 2, "id=a6"),
        (spoil("at", {5: END}), "period", "at", 1, f"id=a5, at={END}"),
        (spoil("at", {5: BEGIN - timedelta(microseconds=1)}), "period", "at", 1, "id=a5, at=2012"),
        (spoil("done", dict.fromkeys(range(501))), "nulls", "done", 501, "id=a0, done=None"),
        (frame().drop("kind"), "missing column", "kind", 1000, None),
        (
            frame().with_columns(pl.col("amount").cast(pl.String)),
            "type",
            "amount",
            1000,
            "'0.0'",
        ),
        (
            frame().with_columns(amount=pl.Series(["1.5"] * 998 + ["one", "two"])),
            "type",
            "amount",
            2,
            "'one'",
        ),
        (frame().with_columns(at=pl.col("at").dt.cast_time_unit("ms")), "type", "at", 1000, None),
        (frame().with_columns(extra=1), "unknown column", "extra", 1000, None),
        (frame().with_columns(amount=None), "type", "amount", 1000, None),
    ],
)
def test_a_rule_finds_its_rows(
    broken: pl.DataFrame, rule: str, column: str, rows: int, example: str | None
) -> None:
    (finding,) = check_frame(broken, table(), CLOSED)
    assert (finding.rule, finding.column, finding.rows) == (rule, column, rows)
    assert finding.of == 1000
    assert len(finding.examples) <= 3
    if example is not None:
        assert finding.examples[0].startswith(example)


def test_an_all_null_column_is_found_whatever_share_is_allowed() -> None:
    columns = table().model_dump()["columns"]
    columns["amount"]["nulls"] = 0.99
    broken = frame().with_columns(amount=pl.lit(None, pl.Float64))
    (finding,) = check_frame(broken, table(columns=columns), CLOSED)
    assert "100.0% are null, allowed 99.0%" in str(finding)


def test_one_bad_column_hides_none_of_the_others() -> None:
    broken = (
        frame()
        .drop("kind")
        .with_columns(
            id=pl.lit("a1"),
            amount=pl.lit(-5.0),
            done=pl.lit("yes"),
            at=pl.lit(END).dt.cast_time_unit("us"),
        )
    )
    found = {(f.rule, f.column) for f in check_frame(broken, table(), CLOSED)}
    assert found == {
        ("missing column", "kind"),
        ("unique key", ""),
        ("range", "amount"),
        ("type", "done"),
        ("period", "at"),
    }


def test_conditions_name_what_must_hold() -> None:
    rule = {"name": "new ones are small", "sql": "kind = 'old' OR amount < 50"}
    (finding,) = check_frame(frame(), table(conditions=[rule]), CLOSED)
    assert "must hold: new ones are small" in str(finding)
    assert finding.rows == 250
    assert finding.examples[0] == "id=a50, kind=new, amount=50.0"


def test_a_condition_on_a_missing_column_leaves_the_others_alone() -> None:
    rules = [
        {"name": "one", "sql": "kind = 'old'"},
        {"name": "two", "sql": "amount < 50"},
    ]
    found = check_frame(frame().drop("kind"), table(conditions=rules), CLOSED)
    assert [f.rule for f in found] == ["missing column", "condition"]


@pytest.mark.parametrize("sql", ["amount <", "nosuch > 1", "amount > 'x'", "amount + 1"])
def test_a_condition_that_cannot_be_evaluated_is_the_contracts_fault(sql: str) -> None:
    with pytest.raises(ConfigError, match="the contract's"):
        check_frame(frame(), table(conditions=[{"name": "odd", "sql": sql}]), CLOSED)


def test_values_of_personal_columns_are_never_shown() -> None:
    columns = table().model_dump()["columns"]
    columns["kind"]["tags"] = ["pii"]
    columns["id"]["tags"] = ["pii"]
    findings = check_frame(spoil("kind", {5: "Ada"}), table(columns=columns), CLOSED)
    findings += check_frame(frame().with_columns(kind=5), table(columns=columns), CLOSED)
    assert [f.rule for f in findings] == ["allowed", "type"]
    shown = " ".join(example for f in findings for example in f.examples)
    assert "hidden" in shown
    assert "Ada" not in shown
    assert "a5" not in shown


def test_outcomes_are_judged_once_they_are_due() -> None:
    none_yet = frame().with_columns(done=pl.lit(None, pl.Boolean))
    assert check_frame(none_yet, table(), Span(BEGIN + timedelta(hours=26), BEGIN, END)) == []
    (late,) = check_frame(none_yet, table(), Span(BEGIN + timedelta(hours=30), BEGIN, END))
    assert (late.rule, late.of) == ("nulls", 361)


@pytest.mark.parametrize(
    ("rows", "days", "finding"),
    [
        (3100, 31, None),
        (3100, 10, "at most 1,501"),
        (1000, 10, None),
        (400, 10, "at least 500"),
        (0, 10, "the partition has no rows"),
        (24, 0.5, "at least 25"),
        (0, 0.01, None),
    ],
)
def test_rows_are_expected_for_the_days_that_are_over(
    rows: int, days: float, finding: str | None
) -> None:
    wanted = table(rows={"per_day": [50, 150]})
    found = check_rows(rows, wanted, Span(BEGIN + timedelta(days=days), BEGIN, END), None)
    assert [finding in str(f) for f in found] == ([True] if finding else [])


def test_rows_are_compared_with_the_month_before() -> None:
    wanted = table(rows={"previous": [0.5, 2]})
    span = Span(END, BEGIN, END)
    assert check_rows(3100, wanted, span, previous=100.0) == []
    (few,) = check_rows(1500, wanted, span, previous=100.0)
    assert "expected at least 1,550" in str(few)


def test_an_empty_static_table_is_found() -> None:
    wanted = TableContract.model_validate({"key": ["id"], "columns": {"id": {"dtype": "String"}}})
    (finding,) = check_rows(0, wanted, Span(END), None)
    assert finding.severity == "error"


VALUES = st.lists(
    st.tuples(
        st.integers(0, 12).map(lambda i: f"a{i}") | st.just("?"),
        st.none() | st.floats(-20, 120, allow_nan=False),
        st.sampled_from(["new", "old", "odd", None]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=40)
@given(VALUES)
def test_pandera_finds_the_same(rows: list[tuple[str, float | None, str | None]]) -> None:
    data = pl.DataFrame(
        rows, schema={"id": pl.String, "amount": pl.Float64, "kind": pl.String}, orient="row"
    )
    columns = {
        "id": {"dtype": "String", "pattern": "[a-z]\\d+"},
        "amount": {"dtype": "Float64", "range": [0, 100]},
        "kind": {"dtype": "String", "allowed": ["new", "old"], "nulls": 1.0},
    }
    contract = TableContract.model_validate({"key": ["id"], "columns": columns})
    oracle = pa.DataFrameSchema(
        {
            "id": pa.Column(pl.String, pa.Check.str_matches(r"^[a-z]\d+$")),
            "amount": pa.Column(pl.Float64, pa.Check.in_range(0, 100)),
            "kind": pa.Column(pl.String, pa.Check.isin(["new", "old"]), nullable=True),
        },
        unique=["id"],
    )
    ours = {_key(f): f.rows for f in check_frame(data, contract, Span(END))}
    assert ours == _failures(oracle, data)


def _key(finding: Finding) -> tuple[str, str]:
    return finding.rule, finding.column


def _failures(oracle: pa.DataFrameSchema, data: pl.DataFrame) -> dict[tuple[str, str], int]:
    names = {"in": "range", "is": "allowed", "st": "pattern", "no": "nulls", "mu": "unique key"}
    try:
        oracle.validate(data, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        counted = cases.group_by("check", "column").len().rows()
        return {(names[c[:2]], "" if c[:2] == "mu" else col): n for c, col, n in counted}
    return {}
