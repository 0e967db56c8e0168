"""Settings: layers, their trace, and errors that name file, line and the closest key."""

from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from tidemill.errors import ConfigError
from tidemill.settings import Loaded, Settings, find_project, load
from tidemill.settings.base import SECRET, looks_secret
from tidemill.settings.check import check, check_pods
from tidemill.settings.export import SCHEMA_FILE, schema_text
from tidemill.settings.load import _merge
from tidemill.settings.sources import Layer, Origin, overrides

ROOT = Path(__file__).parents[2]
BASE = """\
name: demo
training:
  epochs: 5
  inputs:
    - {name: distance, origin: request, encoding: log}
"""


def make(root: Path, base: str = BASE, **overlays: str) -> Path:
    (root / "configs").mkdir(parents=True, exist_ok=True)
    (root / "configs" / "base.yaml").write_text(base)
    for name, text in overlays.items():
        (root / "configs" / f"{name}.yaml").write_text(text)
    return root


def read(root: Path, **kw: Any) -> Loaded:
    return load(root, **{"variables": {}, **kw})


def test_each_layer_wins_over_the_one_below(tmp_path: Path) -> None:
    make(tmp_path, prod="training: {epochs: 6}")
    variables = {"TIDEMILL_TRAINING__EPOCHS": "7"}
    key = "training.epochs"

    def value(**kw: Any) -> tuple[int, str]:
        loaded = read(tmp_path, **kw)
        return loaded.settings.training.epochs, str(loaded.origin(key))

    assert value() == (5, "configs/base.yaml (line 3)")
    assert value(env="prod") == (6, "configs/prod.yaml (line 1)")
    assert value(env="prod", variables=variables) == (7, "environment (TIDEMILL_TRAINING__EPOCHS)")
    assignments = ["training.epochs=8"]
    assert value(variables=variables, assignments=assignments) == (8, "--set (training.epochs)")
    assert str(read(tmp_path).origin("training.patience")) == "default"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training: {epocks: 1}", r"local.yaml \(line 1\): unknown key 'training.epocks'; did you"
         r" mean 'epochs'"),
        ("a: [", r"local.yaml:1 is not valid YAML"),
        ("name: x\nname: y", r"local.yaml:2 sets 'name' twice"),
        ("- 1", r"local.yaml:1 holds no mapping"),
        ("training: {epochs: many}", r"'training.epochs': .*integer.*found 'many'"),
        ("data: {source: {type: files}}", r"'data.source.files.url' is required"),
        ("data: {source: {typ: files}}", r"'data.source' needs 'type' .found"),
        ("registry: {token: hunter2}", r"given by reference"),
        ("features: {online: {type: mongo}}", r"'sqlite', 'redis'"),
        ("training: {colour: 1}", r"unknown key 'training.colour' \(known: inputs, label, "),
        ("data: {source: {type: files, url: x, tables: {a: {path: b}}, zzz: 1}}",
         r"\(known: type, url, endpoint_url, tables\)"),
        ("data: {start: 2013-13}", r"'data.start'.*found '2013-13'"),
        ("gates: {thresholds: {auc: '>= e'}}", r"'gates.thresholds.auc'.*found '>= e'"),
        ("training: {inputs: []}", r"training.inputs"),
        ("training: {inputs: [{name: a, encoding: cyclic}]}", r"'period' belongs to"),
        ("name: !!python/object:os.system x", r"not valid YAML"),
    ],
)  # fmt: skip
def test_a_mistake_names_place_and_remedy(tmp_path: Path, text: str, says: str) -> None:
    make(tmp_path, local=text)
    with pytest.raises(ConfigError, match=says):
        read(tmp_path)


LEAKS = [
    ("registry.token=hunter2", "given by reference"),
    ("registry.token={a: hunter2}", "registry.token"),
    ("registry.tokn=hunter2", "did you mean 'token'"),
    ("registry=[token, hunter2]", "found a list of 2"),
    ("registry={token: hunter2}", "given by reference"),
    ("registry.token={hunter2", "not valid YAML"),
    ("features.online={type: redis, password: hunter2}", "given by reference"),
    ("storage.database=postgresql+psycopg://u:hunter2@h/db", "'database_password'"),
    ("storage.database=postgresql+psycopg://u@h/db?password=hunter2", "'database_password'"),
    ("registry.backend=postgresql+psycopg://u:hunter2@h/db", "'backend_password'"),
    ("features.registry=postgresql+psycopg://u:hunter2@h/db", "'registry_password'"),
    ("registry.uri=https://u:hunter2@h", "a URL holds no password"),
    ("execution.kfp.secrets={DB_PASSWORD: hunter2}", "String should match"),
    ("execution.environment={DB_PASSWORD: hunter2}", "'execution.environment.DB_PASSWORD'.*kfp"),
    ("execution.environment={DB: 'x://u:hunter2@h'}", "a URL holds no password"),
    ("name=x://u:hunter2@h", "String should match"),
]


@pytest.mark.parametrize(("text", "says"), LEAKS)
def test_a_secret_is_refused_and_never_shown(tmp_path: Path, text: str, says: str) -> None:
    make(tmp_path)
    variable, _, value = text.partition("=")
    name = f"TIDEMILL_{variable.replace('.', '__').upper()}"
    for layer in ({"assignments": [text]}, {"variables": {name: value}}):
        with pytest.raises(ConfigError, match=says) as refused:
            read(tmp_path, **layer)
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "name", ["PGPASSWORD", "api_key", "SLACK_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASS", "token"]
)
def test_a_name_that_looks_secret(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "MONKEY", "COMPASS", "LEVEL"])
def test_a_name_that_does_not_look_secret(name: str) -> None:
    assert not looks_secret(name)


def test_every_setting_of_a_secret_has_a_name_that_looks_secret() -> None:
    """By its name `_found` knows what it must not show."""

    def models(annotation: Any) -> list[type[BaseModel]]:
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return [annotation]
        return [model for inner in get_args(annotation) for model in models(inner)]

    def secrets(model: type[BaseModel]) -> set[str]:
        names = {n for n, field in model.model_fields.items() if SECRET in field.metadata}
        inner = [m for field in model.model_fields.values() for m in models(field.annotation)]
        return names.union(*(secrets(m) for m in inner))

    names = secrets(Settings)
    assert {"token", "password", "database_password", "registry_password"} <= names
    assert all(looks_secret(name) for name in names)


def test_a_url_without_a_password_is_accepted(tmp_path: Path) -> None:
    make(tmp_path)
    url = "postgresql+psycopg://u@h:5432/db?sslmode=require"
    settings = read(tmp_path, assignments=[f"storage.database={url}"]).settings
    assert settings.storage.database == url


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    make(tmp_path, local="training: {epochs: 0}\nserving: {max_rows: -1}")
    with pytest.raises(ConfigError, match=r"(?s)epochs.*max_rows"):
        read(tmp_path)


def test_an_unknown_variable_or_environment_is_an_error(tmp_path: Path) -> None:
    make(tmp_path, prod="name: demo")
    with pytest.raises(ConfigError, match="TIDEMILL_TRANING__EPOCHS"):
        read(tmp_path, variables={"TIDEMILL_TRANING__EPOCHS": "1"})
    with pytest.raises(ConfigError, match="known: prod"):
        read(tmp_path, env="prdo")


def test_no_project_says_where_was_looked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=str(tmp_path)):
        find_project(tmp_path)
    inner = make(tmp_path) / "a" / "b"
    inner.mkdir(parents=True)
    assert find_project(inner) == tmp_path


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "configs" / "local.yaml").write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read(tmp_path)


TREES = st.recursive(
    st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
).filter(lambda tree: isinstance(tree, dict))


def merged(*trees: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for tree in trees:
        own = deepcopy(tree)
        _merge(values, own, origins, Layer(own, {}), "")
    return values


@given(TREES, TREES, TREES)
def test_merging_is_associative_and_idempotent(a: Any, b: Any, c: Any) -> None:
    assert merged(merged(a, b), c) == merged(a, merged(b, c)) or _clash(a, b, c)
    assert merged(a, a) == merged(a)
    assert merged({}, a) == merged(a, {}) == merged(a)


def _clash(a: Any, b: Any, c: Any) -> bool:
    """Whether a mapping meets a value at one key: there the later layer replaces, by design."""
    kinds = [
        {key: isinstance(value, dict) for key, value in tree.items()}
        for tree in (a, b, c)
        if isinstance(tree, dict)
    ]
    keys = {key for kind in kinds for key in kind}
    for key in keys:
        if len({kind[key] for kind in kinds if key in kind}) > 1:
            return True
        below = [t[key] for t in (a, b, c) if isinstance(t, dict) and isinstance(t.get(key), dict)]
        if below and _clash(*(below + [{}] * (3 - len(below)))):
            return True
    return False


@given(st.integers(1, 50))
def test_an_assignment_reads_yaml(value: int) -> None:
    layer = overrides([f"training.epochs={value}", "name=x"])
    assert layer.values == {"training": {"epochs": value}, "name": "x"}


SHADOW = "{name: s, shadow: {percent: 5}}"


def test_the_reference_project_is_valid_and_its_schema_is_current() -> None:
    loaded = load(ROOT, variables={})
    assert check(loaded.settings, ROOT) == []
    assert check(load(ROOT, env="demo", variables={}).settings, ROOT) == []
    assert (ROOT / SCHEMA_FILE).read_text() == schema_text(), "run: tidemill config schema --write"


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("gates.thresholds={f2: '>= 1'}", "names 'f2', which no step computes"),
        ("gates.beat_baselines=[oracle]", "names 'oracle', which no step fits"),
        ("gates.slices=[foo]", "names 'foo', which no row to be judged has (columns: carrier, "),
        ("data.start=2014-01", "after data.end"),
        ("data.contract=configs/nothing.yaml", "which is no file"),
        ("rollout.steps=[{name: a, weight: 5, gate: [speed]}]", "names the metric 'speed'"),
        ("rollout.steps=[{name: a, weight: 5}, {name: b, weight: 5}]", "does not rise above 5"),
        ("rollout.steps=[{name: a, weight: 5, min_events: 100000000}]", "max_seconds is"),
        ("rollout.steps=[{name: a, weight: 5, gate: [wrong], max_seconds: 3600}]", "mature"),
        ("rollout.steps=[{name: a, weight: 10000}]", "the last weight is 10000"),
        ("rollout.steps=[{name: a, weight: 0}]", "does not rise above 0"),
        (f"rollout.steps=[{SHADOW}]", "clients must meet the canary"),
        (f"rollout.steps=[{{name: a, weight: 5}}, {SHADOW}]", "a shadow step comes first"),
        ("rollout.steps=[{name: s, shadow: {percent: 5}, weight: 5}, {name: a, weight: 6}]",
         "has no weight, this has 5"),
        ("rollout.steps=[{name: s, shadow: {percent: 5}, gate: [errors]}, {name: a, weight: 6}]",
         "which rollout.analysis.paired lacks (has: )"),
        ("rollout.steps=[{name: s, shadow: {percent: 1}, min_events: 999}, {name: a, weight: 5}]",
         "events need"),
        ("rollout.analysis.paired=[{name: errors, event: flip, max_rate: 0.1}]",
         "paired use one name twice"),
        (f"rollout={{steps: [{SHADOW}, {{name: a, weight: 5}}], interval_seconds: 61}}",
         "at most 60"),
        ("rollout.analysis.paired=[{name: flips, event: flip, max_rate: 0.1}]",
         "alpha_share sums to 1.1"),
        ("rollout.analysis.metrics=[{name: a, event: slow, alpha_share: 0.7},"
         " {name: b, event: error, alpha_share: 0.7}]", "more than the whole budget"),
        ("rollout.analysis.metrics=[{name: a, event: slow, pass_ratio: 1.1}]", "must be above"),
        ("monitoring.mix_columns=[airport]", "names 'airport'"),
        ("monitoring.persistence=[4, 3]", "4 of 3"),
        ("serving.row_id=distance", "lists the row id"),
        ("retraining.cooldown_days=60", "longer than schedule_days"),
    ],
)  # fmt: skip
def test_settings_that_clash_are_found(assignment: str, says: str) -> None:
    settings = load(ROOT, variables={}, assignments=[assignment]).settings
    problems = check(settings, ROOT)
    assert any(says in problem for problem in problems), problems


PODS = {
    "storage.objects": "s3://bucket/state",
    "storage.database": "postgresql+psycopg://tidemill@db/tidemill",
    "data.versions.remote": "s3://bucket/versions",
    "registry.uri": "http://mlflow.ml:5000",
    "registry.signing_key": "/keys/signing.pem",
    "registry.verify_key": "configs/signing.pub",
    "execution.resources": "{register: {secret_files: {/keys: tidemill-signing}}}",
}
"""Settings with which a run's pods can work."""


def pods(**changed: str) -> list[str]:
    """Check PODS with other values; `__` in a name is a dot, empty leaves the key out."""
    values = PODS | {name.replace("__", "."): value for name, value in changed.items()}
    assignments = [f"{key}={value}" for key, value in values.items() if value]
    return check_pods(load(ROOT, variables={}, assignments=assignments).settings, ROOT)


def test_what_pods_would_keep_to_themselves_is_found() -> None:
    assert pods() == []
    for key in sorted(set(PODS) - {"execution.resources"}):
        (problem,) = pods(**{key: ""})
        assert problem.startswith(f"{key} is ")


@pytest.mark.parametrize(
    "mounted",
    [
        "",
        "{register: {secret_files: {/other: tidemill-signing}}}",
        "{register: {secret_files: {/keys/signing.pem: tidemill-signing}}}",
        "{default: {secret_files: {/keys: tidemill-signing}}}",
    ],
)
def test_a_signing_key_that_nothing_mounts_is_found(mounted: str) -> None:
    (problem,) = pods(execution__resources=mounted)
    assert problem == (
        "registry.signing_key is /keys/signing.pem, where no secret is mounted: set an absolute"
        " path, and its folder with the secret's name in execution.resources.register.secret_files"
    )


@pytest.mark.parametrize("at", [str(ROOT / ".tidemill/keys/k.pub"), "configs/../.tidemill/k.pub"])
def test_a_key_below_the_state_is_found_however_it_is_written(at: str) -> None:
    (problem,) = pods(registry__verify_key=at)
    assert problem.startswith(f"registry.verify_key is {at}, which no pod has")


@pytest.mark.parametrize("remote", ["file:///data/versions", "/data/versions", "ssh://host/v"])
def test_a_remote_that_pods_do_not_share_is_found(remote: str) -> None:
    (problem,) = pods(data__versions__remote=remote)
    assert problem.startswith(f"data.versions.remote is {remote}, which pods do not share")


def test_a_shadow_step_needs_servers_of_one_process() -> None:
    steps = f"rollout.steps=[{SHADOW}, {{name: a, weight: 5}}]"
    settings = load(ROOT, variables={}, assignments=[steps, "serving.workers=4"]).settings
    assert any("serving.workers is 4" in problem for problem in check(settings, ROOT))


def test_every_field_is_described() -> None:
    def fields(model: Any, at: str = "") -> list[str]:
        bare = []
        for name, definition in model.model_json_schema()["$defs"].items():
            for key, body in definition.get("properties", {}).items():
                if "description" not in body:
                    bare.append(f"{name}.{key}")
        return bare

    assert fields(Settings) == []
