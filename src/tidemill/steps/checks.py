"""One partition against its contract: every rule is evaluated, none hides another.

All rules of a table are one pass of polars over the frame. Examples are looked up only for rules
that are broken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import polars as pl

from tidemill.errors import ConfigError
from tidemill.settings.contract import ColumnContract, Severity, TableContract

__all__ = ["Finding", "Span", "check_frame", "check_rows"]

EXAMPLES = 3
ENOUGH = 200
"""While a month is still open, a share of nulls is judged on at least this many due rows."""
HIDDEN = "(hidden: pii)"
CONTRACT = "mend the rule in the file that data.contract names"


@dataclass(frozen=True, slots=True)
class Span:
    """The part of time that a partition covers, and the instant it is judged at."""

    as_of: datetime
    begin: datetime | None = None
    """None for a static table."""
    end: datetime | None = None

    @property
    def closed(self) -> bool:
        """Whether nothing more is to come."""
        return self.end is None or self.as_of >= self.end

    def days(self, *, lag_hours: float = 0.0, ahead: bool = False) -> float:
        """Days of the month that are due."""
        if self.begin is None or self.end is None:
            return 0.0
        until = self.end if ahead else min(self.end, self.as_of - timedelta(hours=lag_hours))
        return max(0.0, (until - self.begin) / timedelta(days=1))


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule: how many rows, of how many, and up to three examples."""

    rule: str
    column: str
    severity: Severity
    rows: int
    of: int
    text: str
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = f"; for example {' | '.join(self.examples)}" if self.examples else ""
        what = f"{self.column}: " if self.column else ""
        return f"{what}{self.text} [{self.rule}, {self.rows:,} of {self.of:,} rows]{shown}"


@dataclass(frozen=True, slots=True)
class Rule:
    """An expression that is true in every row that breaks the rule."""

    name: str
    column: str
    severity: Severity
    text: str
    broken: pl.Expr
    judged: pl.Expr
    """The number of rows that the rule is about."""
    allowed: float = 0.0
    """Share of the judged rows that may break it."""
    enough: int = 0
    """Number of judged rows below which the rule is not evaluated."""


def check_frame(frame: pl.DataFrame, table: TableContract, span: Span) -> list[Finding]:
    """Return every finding about the columns of one partition.

    Raises ConfigError for a rule of the contract that cannot be evaluated.
    """
    findings = list(_shape(frame, table))
    usable = {n for n, c in table.columns.items() if frame.schema.get(n) == c.polars_type}
    rules = [*_rules(table, usable, span)]
    for rule, broken, judged in _count(frame, rules):
        if broken > rule.allowed * judged and judged >= rule.enough:
            text = rule.text.format(share=broken / judged)
            found = Finding(rule.name, rule.column, rule.severity, broken, judged, text)
            findings.append(replace(found, examples=_examples(frame, table, usable, rule)))
    return findings


def check_rows(
    rows: int, table: TableContract, span: Span, previous: float | None
) -> list[Finding]:
    """Compare a partition's number of rows with the contract; `previous` is in rows per day."""
    wanted = table.rows
    if not table.timestamp:
        return _bounded("rows", rows, wanted.total, 1.0, 1.0, table)
    due = span.days(lag_hours=wanted.lag_hours, ahead=wanted.ahead)
    most = span.days(ahead=wanted.ahead)
    if rows == 0 and due >= 1:
        return [Finding("empty", "", "error", 0, 0, "the partition has no rows")]
    findings = _bounded("rows per day", rows, wanted.per_day, due, most, table)
    if previous and due >= 1:
        low, high = (bound and bound * previous for bound in wanted.previous)
        findings += _bounded("rows against the month before", rows, (low, high), due, most, table)
    return findings


def _bounded(
    rule: str,
    rows: int,
    bounds: tuple[float | None, float | None],
    due: float,
    most: float,
    table: TableContract,
) -> list[Finding]:
    """Compare `rows` with bounds per unit, of which `due` must and `most` may be there."""
    low, high = bounds
    least = int(low * due) if low is not None else 0
    limit = int(high * most) + 1 if high is not None else rows
    if least <= rows <= limit:
        return []
    wanted = f"at least {least:,}" if rows < least else f"at most {limit:,}"
    text = f"{rows:,} rows, expected {wanted}"
    return [Finding(rule, "", table.rows.severity, rows, rows, text)]


def _shape(frame: pl.DataFrame, table: TableContract) -> Iterator[Finding]:
    """Yield what is wrong with the set of columns and their types."""
    rows = frame.height
    for name, column in table.columns.items():
        if name not in frame.schema:
            text = f"the column is missing (found: {', '.join(frame.columns)})"
            yield Finding("missing column", name, "error", rows, rows, text)
        elif frame.schema[name] != column.polars_type:
            yield _wrong_type(frame, name, column)
    for name in frame.columns:
        if name not in table.columns:
            text = "the contract does not list this column"
            yield Finding("unknown column", name, table.unknown, rows, rows, text)


def _wrong_type(frame: pl.DataFrame, name: str, column: ColumnContract) -> Finding:
    """Point at the values that are not of the type, or at all if each could be converted."""
    values = frame[name].drop_nulls()
    try:
        bad = values.filter(values.cast(column.polars_type, strict=False).is_null())
    except pl.exceptions.PolarsError:
        bad = values
    shown = bad if len(bad) else values
    hidden = "pii" in column.tags
    examples = tuple(HIDDEN if hidden else repr(v) for v in shown.head(EXAMPLES).to_list())
    text = f"the type is {frame.schema[name]}, expected {column.dtype}"
    return Finding("type", name, "error", len(bad) or frame.height, frame.height, text, examples)


def _rules(table: TableContract, usable: set[str], span: Span) -> Iterator[Rule]:
    for name, column in table.columns.items():
        if name in usable:
            yield from _column_rules(name, column, table, span)
    if usable.issuperset(table.key):
        twice = pl.struct(table.key).is_duplicated()
        text = f"{', '.join(table.key)} must be unique"
        yield Rule("unique key", "", "error", text, twice, pl.len())
    if table.timestamp in usable and span.begin and span.end:
        outside = ~pl.col(table.timestamp).is_between(span.begin, span.end, closed="left")
        text = f"must lie in {span.begin:%Y-%m} (UTC)"
        yield Rule("period", table.timestamp, "error", text, outside, pl.len())
    for condition in table.conditions:
        holds = _expression(condition.sql, condition.name, set(table.columns))
        if usable.issuperset(holds.meta.root_names()):
            name, level = condition.name, condition.severity
            yield Rule("condition", "", level, f"must hold: {name}", ~holds, pl.len())


def _column_rules(
    name: str, column: ColumnContract, table: TableContract, span: Span
) -> Iterator[Rule]:
    value, level, text = pl.col(name), column.severity, column.dtype == "String"
    absent = value.is_null() | value.is_nan() if column.dtype == "Float64" else value.is_null()
    late, due = absent, pl.len()
    if table.timestamp and column.due_hours:
        over = pl.col(table.timestamp) <= span.as_of - timedelta(hours=column.due_hours)
        late, due = absent & over, over.sum()
    allowed = 0.0 if name in table.key else column.nulls
    yield Rule(
        "nulls",
        name,
        "error" if name in table.key else level,
        f"{{share:.1%}} are null, allowed {allowed:.1%}",
        late,
        due,
        allowed,
        enough=0 if span.closed or not allowed else ENOUGH,
    )
    here = ~absent
    if column.range != (None, None):
        low, high = column.range
        out = pl.lit(value=False)
        out = out | (value < low) if low is not None else out
        out = out | (value > high) if high is not None else out
        wanted = f"must lie in [{'' if low is None else low}, {'' if high is None else high}]"
        yield Rule("range", name, level, wanted, out & here, here.sum())
    if column.allowed:
        strange = ~(value if text else value.cast(pl.String)).is_in(column.allowed)
        yield Rule("allowed", name, level, f"must be one of {column.allowed}", strange, here.sum())
    if column.pattern:
        strange = ~value.str.contains(f"^(?:{column.pattern})$")
        shown = column.pattern.replace("{", "{{").replace("}", "}}")
        yield Rule("pattern", name, level, f"must match {shown}", strange, here.sum())


def _expression(sql: str, name: str, columns: set[str]) -> pl.Expr:
    try:
        expression = pl.sql_expr(sql)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            f"the contract's condition '{name}' is no SQL: {error}", hint=CONTRACT
        ) from error
    if unknown := sorted(set(expression.meta.root_names()) - columns):
        raise ConfigError(
            f"the contract's condition '{name}' reads {', '.join(unknown)}, which its table lacks "
            f"(columns: {', '.join(sorted(columns))})",
            hint=CONTRACT,
        )
    return expression


def _count(frame: pl.DataFrame, rules: list[Rule]) -> Iterator[tuple[Rule, int, int]]:
    """Yield each rule with the number of rows that break it and that it is about."""
    sums = [expr for rule in rules for expr in (rule.broken.sum(), rule.judged)]
    try:
        counts = frame.select(e.alias(str(i)) for i, e in enumerate(sums)).row(0)
    except pl.exceptions.PolarsError as error:
        raise _culprit(frame, rules) from error
    for index, rule in enumerate(rules):
        yield rule, counts[2 * index], counts[2 * index + 1]


def _culprit(frame: pl.DataFrame, rules: list[Rule]) -> ConfigError:
    for rule in rules:
        try:
            frame.select(rule.broken.sum())
        except pl.exceptions.PolarsError as error:
            what = rule.column or rule.text
            return ConfigError(
                f"the contract's rule '{rule.name}' of {what} fails: {error}", hint=CONTRACT
            )
    raise AssertionError("a set of rules failed that do not fail alone")


def _examples(
    frame: pl.DataFrame, table: TableContract, usable: set[str], rule: Rule
) -> tuple[str, ...]:
    """Show the first rows that break a rule: their key and the column in question."""
    asked = [rule.column] if rule.column else rule.broken.meta.root_names()
    names = [n for n in dict.fromkeys([*table.key, *asked]) if n in usable]
    rows = frame.filter(rule.broken).head(EXAMPLES).select(names).rows(named=True)
    hidden = {n for n in names if "pii" in table.columns[n].tags}
    return tuple(
        ", ".join(f"{n}={HIDDEN if n in hidden else v}" for n, v in row.items()) for row in rows
    )
