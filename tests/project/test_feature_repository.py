"""The feature repository: definitions, digests, plain Feast, the commands."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from sqlalchemy import make_url

from tidemill.adapters.feast import FeastRepository
from tidemill.adapters.feast_config import repo_config
from tidemill.adapters.feast_definitions import Definitions
from tidemill.cli import main
from tidemill.errors import ConfigError, DataError, NotFound
from tidemill.settings.features import FeatureSettings
from tidemill.wiring import Project

ROOT = Path(__file__).parents[2]
FLIGHTS = ROOT / "feature_repo"


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A copy of the project's feature repository."""
    copy = tmp_path / "feature_repo"
    shutil.copytree(FLIGHTS, copy, ignore=shutil.ignore_patterns("*.db", "__pycache__"))
    return copy


def edit(repo: Path, old: str, new: str) -> None:
    path = repo / "definitions.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def digest(repo: Path, tables: Path = Path()) -> str:
    return Definitions(repo, "flights", tables).resolve("flight_delay_v1").digest


def test_the_service_is_what_the_settings_expect(repository: FeastRepository) -> None:
    project = Project.load(ROOT)
    service = repository.resolve(project.settings.features.service)
    offered = {field.name for view in service.views for field in view.fields}
    wanted = {i.name for i in project.settings.training.inputs if i.origin == "feature"}
    assert wanted <= offered
    assert len(service.views) == 6


def test_the_digest_depends_on_the_definition_alone(repo: Path, tmp_path: Path) -> None:
    assert digest(repo) == digest(FLIGHTS) == digest(repo, tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ttl=timedelta(hours=12)", "ttl=timedelta(hours=11)"),
        ('Field(name="seats", dtype=Int64)', 'Field(name="seats", dtype=Float64)'),
        ('        Field(name="visib", dtype=Float64),\n', ""),
        ("entities=[origin, dest]", "entities=[origin]"),
        ("        plane,\n", ""),
        ('timestamp_field="event_timestamp"', 'timestamp_field="known_at"'),
        ('f"{view}.parquet"', 'f"{view}_v2.parquet"'),
    ],
    ids=["ttl", "type", "field", "keys", "view", "timestamp", "file"],
)
def test_the_digest_changes_with_the_definition(repo: Path, old: str, new: str) -> None:
    before = digest(repo)
    edit(repo, old, new)
    assert digest(repo) != before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'timestamp_field="event_timestamp",',
            'timestamp_field="event_timestamp", tags={"revised": "true"},',
            "is revised but names no created column",
        ),
        (
            'Field(name="seats", dtype=Int64)',
            'Field(name="seats", dtype=Array(Int64))',
            r"feature 'plane:seats' has the type Array",
        ),
        (
            'timestamp_field="event_timestamp",',
            'timestamp_field="event_timestamp", field_mapping={"x": "y"},',
            "does not read a Parquet file under its own column names",
        ),
        ("        plane,\n", '        plane.with_name("aircraft"),\n', "renamed"),
    ],
    ids=["revised", "type", "mapping", "renamed"],
)
def test_what_cannot_be_served_alike_is_refused(
    repo: Path, old: str, new: str, message: str
) -> None:
    edit(repo, old, new)
    edit(repo, "import Float64, Int64", "import Array, Float64, Int64")
    with pytest.raises(ConfigError, match=message):
        digest(repo)


def test_a_revised_source_with_a_created_column_is_accepted(repo: Path) -> None:
    stamps = 'timestamp_field="event_timestamp", created_timestamp_column="created",'
    edit(repo, 'timestamp_field="event_timestamp",', stamps + ' tags={"revised": "true"},')
    assert digest(repo)


def test_an_unknown_service_lists_the_known(repository: FeastRepository) -> None:
    with pytest.raises(NotFound, match="did you mean: flight_delay_v1"):
        repository.resolve("flight_delay_v2")


def test_definitions_that_raise_are_named(repo: Path) -> None:
    (repo / "definitions.py").write_text("import nothing_of_the_kind")
    with pytest.raises(ConfigError, match=r"definitions\.py cannot be imported: ModuleNotFound"):
        digest(repo)


def test_a_repository_without_definitions(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no definitions\.py"):
        digest(tmp_path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda t: t.drop("seats"), DataError, "lacks the column 'seats'"),
        (lambda t: t.cast({"seats": pl.Float64}), DataError, "has 'seats' as Float64"),
        (lambda t: pl.concat([t, t.head(2)]), DataError, "4 rows that share tailnum"),
        (None, NotFound, r"plane\.parquet is not in"),
    ],
    ids=["column", "type", "twice", "absent"],
)
def test_a_table_that_does_not_fit_its_view_is_refused(
    repository: FeastRepository,
    feature_tables: Path,
    tmp_path: Path,
    change: object,
    error: type[Exception],
    message: str,
) -> None:
    tables = tmp_path / "tables"
    shutil.copytree(feature_tables, tables)
    spine = pl.read_parquet(tables / "spine.parquet").head(10)
    if callable(change):
        change(pl.read_parquet(tables / "plane.parquet")).write_parquet(tables / "plane.parquet")
    else:
        (tables / "plane.parquet").unlink()
    with pytest.raises(error, match=message):
        repository.join("flight_delay_v1", spine, tables)
    with pytest.raises(error, match=message):
        repository.materialise("flight_delay_v1", tables, datetime(2013, 3, 1, tzinfo=UTC))


def test_a_truncated_table_is_an_error(
    repository: FeastRepository, feature_tables: Path, tmp_path: Path
) -> None:
    tables = tmp_path / "tables"
    shutil.copytree(feature_tables, tables)
    path = tables / "plane.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"plane\.parquet cannot be read"):
        repository.join("flight_delay_v1", pl.read_parquet(tables / "spine.parquet"), tables)


@pytest.mark.slow
def test_plain_feast_apply_and_materialise_work(
    repo: Path, feature_tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repo.parent / "data").mkdir()
    shutil.copytree(feature_tables, repo.parent / "data" / "features")

    monkeypatch.chdir(repo)  # Feast reads a relative registry path from the working directory
    argv = [sys.executable, "-m", "feast.cli.cli", "apply"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(repo))
    assert [service.name for service in store.list_feature_services()] == ["flight_delay_v1"]
    since, until = (datetime(2013, *day, tzinfo=UTC) for day in ((2, 26), (3, 1)))
    store.materialize(since, until, feature_views=["carrier_delay"])
    found = store.get_online_features(
        features=["carrier_delay:carrier_late_rate_7d"], entity_rows=[{"carrier": "UA"}]
    ).to_dict()
    table = pl.read_parquet(feature_tables / "carrier_delay.parquet").filter(
        pl.col("carrier") == "UA",
        pl.col("event_timestamp") <= until,
    )
    assert found["carrier_late_rate_7d"] == [table["carrier_late_rate_7d"][-1]]


@pytest.fixture
def project(repo: Path, raw_quarter: Path, tmp_path: Path) -> Project:
    """A project with three months of raw data, as the commands see it."""
    shutil.copytree(ROOT / "configs", repo.parent / "configs")
    shutil.copytree(raw_quarter, repo.parent / "data" / "raw")
    return Project.load(repo.parent)


def test_the_follower_builds_what_the_whole_history_gives(
    project: Project, feature_tables: Path
) -> None:
    now = datetime(2013, 3, 20, 10, 30, tzinfo=UTC)
    filled = project.follower.tick(now)
    assert filled.rows.keys() == {
        view.name for view in project.features.resolve("flight_delay_v1").views
    }
    for view in ("carrier_delay", "route_stats", "origin_congestion", "origin_weather"):
        whole = pl.read_parquet(feature_tables / f"{view}.parquet")
        recent = pl.read_parquet(project.follower.tables / f"{view}.parquet")
        since = now - timedelta(days=3)
        wanted = whole.filter(pl.col("event_timestamp").is_between(since, now))
        assert wanted.height > 0
        assert recent.equals(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("known", ["available_at", "observed_at"])
def test_the_check_for_leaks_by_command(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    known: str,
) -> None:
    monkeypatch.setenv("TIDEMILL_PROJECT", str(project.root))
    monkeypatch.delenv("TIDEMILL_ENV", raising=False)
    monkeypatch.setenv("TIDEMILL_DATA__END", "2013-01")
    transforms = project.root / "feature_repo" / "transforms.py"
    transforms.write_text(transforms.read_text().replace("available_at", known))
    with pytest.raises(SystemExit) as stop:
        main(["features", "leaks", "--as-of", "2013-02-01"])
    told = capsys.readouterr()
    if known == "available_at":
        assert stop.value.code == 0
        assert "none differs" in told.out
    else:  # an observation counts before it was published
        assert stop.value.code == 3
        assert "origin_weather" in told.out
        assert "features knew the future" in told.err
        assert "mend transforms.py" in told.err


def test_the_commands(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = project.root / "clock.json"
    clock.write_text(json.dumps({"now": "2013-04-01T09:30:00+00:00"}))
    monkeypatch.setenv("TIDEMILL_CLOCK", str(clock))
    monkeypatch.setenv("TIDEMILL_PROJECT", str(project.root))
    monkeypatch.delenv("TIDEMILL_ENV", raising=False)

    def tidemill(*args: str, code: int = 0) -> dict[str, object]:
        with pytest.raises(SystemExit) as stop:
            main(["features", *args, "--json"])
        assert stop.value.code == code
        found: dict[str, object] = json.loads(capsys.readouterr().out or "{}")
        return found

    rows = tidemill("build")
    assert rows["spine"] == pl.read_parquet(project.paths.features / "spine.parquet").height
    joined = tidemill("join", "--start", "2013-03-01")
    assert str(joined["window_start"]).startswith("2013-03-01")
    digest = tidemill("show")["digest"]
    assert tidemill("apply") == {"flight_delay_v1": digest}
    assert joined["feature_digest"] == digest
    assert tidemill("materialize")["as_of"] == "2013-04-01T09:30:00+00:00"
    clock.write_text(json.dumps({"now": "2013-03-01T00:00:00+00:00"}))
    tidemill("materialize", code=3)
    assert tidemill("materialize", "--replace")["as_of"] == "2013-03-01T00:00:00+00:00"


def test_computing_needs_no_feast() -> None:
    code = "import sys, tidemill.steps.featurize, tidemill.steps.training_set\n"
    code += "print('feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_registry_gets_its_password_from_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "p@ss/word")
    settings = FeatureSettings(registry_password="env:REGISTRY_PASSWORD")
    url = "postgresql+psycopg://feast@db/registry"
    config = repo_config(FLIGHTS, settings, registry=url, online_path=tmp_path / "online.db")
    assert make_url(config.registry.path).password == "p@ss/word"
    assert "p@ss" not in settings.model_dump_json()


def test_the_check_names_an_unknown_service_beside_the_other_problems(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sets = ("--set", "features.service=flight_delay_v9", "--set", "gates.slices=[foo]")
    with pytest.raises(SystemExit) as stop:
        main(["--project", str(ROOT), *sets, "config", "check"])
    told = capsys.readouterr().err
    assert stop.value.code == 2
    assert "features.service: there is no feature service 'flight_delay_v9'" in told
    assert "gates.slices names 'foo'" in told


@pytest.mark.parametrize(
    "words", [("run", "training", "--on", "local", "--dry-run"), ("submit", "training")]
)
@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        (
            "service: flight_delay_v1",
            "service: flight_delay_v",
            "features.service: there is no feature service 'flight_delay_v'\n"
            "  → did you mean: flight_delay_v1",
        ),
        (
            "name: temp}",
            "name: tempp}",
            "training.inputs: the service 'flight_delay_v1' has no feature 'tempp'; "
            "did you mean 'temp'?",
        ),
        ("minus: plane_year}", "minus: plane_yaer}", "did you mean 'plane_year'?"),
    ],
)
def test_no_training_starts_with_features_that_nobody_computes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    right: str,
    wrong: str,
    told: str,
) -> None:
    for folder in ("configs", "feature_repo"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    base = tmp_path / "configs" / "base.yaml"
    assert base.read_text().count(right) == 1
    base.write_text(base.read_text().replace(right, wrong))
    with pytest.raises(SystemExit) as stop:
        main(["--project", str(tmp_path), *words])
    assert stop.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / ".tidemill").exists()


def test_only_a_training_waits_for_feast() -> None:
    code = (
        "import sys\nfrom tidemill.cli.app import open_checked\n"
        "for name in ('batch_scoring', 'training'):\n"
        "    open_checked(name)\n    print('feast' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]
