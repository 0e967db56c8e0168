"""A contract is YAML that a person writes: mistakes are named by file, line and key."""

from pathlib import Path

import pytest

from tidemill.errors import ConfigError
from tidemill.settings.contract import load_contract

GOOD = """\
tables:
  events:
    timestamp: at
    key: [id]
    columns:
      id: {dtype: String}
      at: {dtype: Datetime}
      amount: {dtype: Float64, nulls: 0.1, range: [0, null]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "configs" / "contract.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_defaults_are_strict(tmp_path: Path) -> None:
    table = load_contract(write(tmp_path, GOOD)).tables["events"]
    assert table.columns["id"].nulls == 0
    assert table.columns["id"].severity == "error"
    assert table.rows.total == (1, None)


def test_the_digest_ignores_layout_and_comments(tmp_path: Path) -> None:
    plain = load_contract(write(tmp_path, GOOD)).digest
    assert (
        load_contract(write(tmp_path, "# why\n" + GOOD.replace("[id]", "\n    - id"))).digest
        == plain
    )
    assert load_contract(write(tmp_path, GOOD.replace("0.1", "0.2"))).digest != plain


@pytest.mark.parametrize("table", ["rows", "columns", "key"])
def test_a_table_named_as_a_key_of_the_contract_has_the_keys_of_a_table(
    tmp_path: Path, table: str
) -> None:
    text = GOOD.replace("events:", f"{table}:").replace("    key:", "    colums: {}\n    key:")
    with pytest.raises(ConfigError, match=f"'tables.{table}.colums'; did you mean 'columns'"):
        load_contract(write(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("dtype: String", "dtype: Text", r"contract.yaml \(line 6\).*'Boolean', 'Date'"),
        ("nulls: 0.1", "nulls: 2", r"contract.yaml \(line 8\).*amount.nulls'.*less than or equal"),
        (
            "nulls: 0.1",
            "nuls: 0.1",
            r"\(line 8\): unknown key 'tables.events.columns.amount.nuls'; did you mean 'nulls'\?",
        ),
        (
            "    key:",
            "    kye: 1\n    key:",
            r"line 4.*key 'tables.events.kye'; did you mean 'key'",
        ),
        ("tables:", "tabels: {}\ntables:", r"line 1.*unknown key 'tabels'; did you mean 'tables'"),
        ("range: [", "zzz: 1, range: [", r"unknown key .*zzz' \(known: dtype, nulls, due_hours"),
        ("dtype: Float64, ", "", r"line 8\): 'tables.events.columns.amount.dtype' is required"),
        ("range: [0, null]", "range: [5, 1]", "lower bound is above"),
        ("range: [0, null]", "pattern: '('", "no regular expression"),
        ("key: [id]", "key: [nr]", "'nr' is part of the key"),
        ("at: {dtype: Datetime}", "at: {dtype: String}", "must have the dtype Datetime"),
        ("{dtype: String}", "{dtype: String", "not valid YAML"),
        ("{dtype: String}", "{dtype: String, log: hash}", "'log' belongs to columns with"),
        ("[0, null]", "[0, null], tags: [pii], log: hash", "keeps Float64 as a number"),
        ("{dtype: String}", "{dtype: String, tags: [pii], log: blur}", "'mask', 'hash' or 'drop'"),
        ("      id: {dtype: String}\n", "      id: {dtype: String}\n" * 2, "sets .* twice"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_contract(write(tmp_path, GOOD.replace(old, new)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*contract\.yaml"):
        load_contract(tmp_path / "configs" / "contract.yaml")


def test_the_reference_contract_loads() -> None:
    contract = load_contract(Path(__file__).parents[2] / "configs" / "contract.yaml")
    assert set(contract.tables) == {"flights", "weather", "planes", "airports", "airlines"}


OTHER = """\
  people:
    key: [id]
    columns:
      id: {dtype: String, tags: [pii], log: hash}
      name: {dtype: String, tags: [pii, shown]}
"""


def test_the_tag_holds_for_the_column_in_every_table(tmp_path: Path) -> None:
    assert load_contract(write(tmp_path, GOOD)).pii == {}
    pii = load_contract(write(tmp_path, GOOD + OTHER)).pii
    assert pii == {"id": "hash", "name": "mask"}
    both = GOOD.replace("id: {dtype: String}", "id: {dtype: String, tags: [pii]}") + OTHER
    with pytest.raises(ConfigError, match="two tables have a column 'id' tagged pii"):
        load_contract(write(tmp_path, both))
