"""The images: pinned, not root, one per dependency set, and every step finds what it imports."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tidemill import __version__, images

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "images"
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
STAGES = {
    name: (parent, body)
    for parent, name, body in re.findall(
        r"^FROM (\S+) AS (\S+)\n((?:(?!FROM ).*\n)*)", DOCKERFILE, re.MULTILINE
    )
}
COMPONENTS = sorted(p for p in (ROOT / "components").glob("*.py") if p.stem != "__init__")


def ancestors(stage: str) -> list[str]:
    """Return a stage and those that it builds on."""
    return [stage, *ancestors(STAGES[stage][0])] if stage in STAGES else []


def test_there_is_one_target_per_dependency_set() -> None:
    targets = {name for name, (_, body) in STAGES.items() if "COPY --from=" in body}
    assert targets == set(images.SETS)


@pytest.mark.parametrize("image", images.SETS)
def test_an_image_is_slim_pinned_and_not_root(image: str) -> None:
    chain = ancestors(image)
    assert STAGES[chain[-1]][0] == "${BASE}"
    assert "builder" not in chain, "what builds is not shipped"
    (user,) = re.findall(r"^USER (.+)$", "".join(STAGES[s][1] for s in chain), re.MULTILINE)
    assert user == "10001:10001"
    assert f"COPY --from={image}-packages /opt/tidemill /opt/tidemill" in STAGES[image][1]


def test_the_base_and_all_packages_are_pinned() -> None:
    assert re.search(
        r"^ARG BASE=docker.io/library/python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}$",
        DOCKERFILE,
        re.MULTILINE,
    )
    assert f'ARG SOURCE="=={__version__}"' in DOCKERFILE
    assert "UV_CONSTRAINT=/build/requirements.lock" in DOCKERFILE
    assert re.search(r"^uv==\S+ \\\n    --hash=sha256:", LOCK, re.MULTILINE), "the builder's own"
    installs = re.findall(r"uv pip install (.*)", DOCKERFILE)
    assert all(
        re.fullmatch(r"--no-deps kfp|\"tidemill\[[\w,]+\] \$\{SOURCE\}\"", i) for i in installs
    )


def requirements(extra: str) -> list[Requirement]:
    """Return what tidemill's `extra` asks for, its core with ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(text) for text in listed]


def test_ci_builds_every_set_with_pinned_actions() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "images.yml").read_text())
    jobs = workflow["jobs"]
    assert jobs["image"]["strategy"]["matrix"]["set"] == list(images.SETS)
    steps = [step for job in jobs.values() for step in job["steps"]]
    actions = [step["uses"] for step in steps if "uses" in step]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action) for action in actions)
    (build,) = [step["with"] for step in steps if "build-push-action" in step.get("uses", "")]
    assert (build["file"], build["sbom"], build["provenance"]) == (
        "infra/images/Dockerfile",
        True,
        "mode=max",
    )
    assert "push-by-digest=true" in build["outputs"]


@cache
def packages(name: str) -> frozenset[str]:
    """Return the packages that an image holds."""
    built = ancestors(f"{name}-packages")
    (extras,) = re.findall(r"tidemill\[([\w,]+)\]", STAGES[built[0]][1])
    queue = [r for extra in ["", *extras.split(",")] for r in requirements(extra)]
    closed: set[tuple[str, frozenset[str]]] = set()
    while queue:
        wanted = queue.pop()
        key = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if key in closed:
            continue
        closed.add(key)
        for text in importlib.metadata.requires(key[0]) or [] if installed(key[0]) else []:
            one = Requirement(text)
            if one.marker is None or any(
                one.marker.evaluate({"extra": e}) for e in ["", *wanted.extras]
            ):
                queue.append(one)
    return frozenset(name for name, _ in closed) | ({"kfp"} if "step" in built else set())


@cache
def modules(name: str) -> frozenset[str]:
    """Return the top-level modules that an image holds."""
    held = packages(name) | {"tidemill"}
    by_module = importlib.metadata.packages_distributions()
    return frozenset(
        m for m, dists in by_module.items() if held & set(map(canonicalize_name, dists))
    )


@pytest.mark.parametrize("image", images.SETS)
def test_the_lock_has_every_package_of_an_image(image: str) -> None:
    locked = re.findall(r"^([A-Za-z0-9._-]+)==", LOCK, re.MULTILINE)
    assert packages(image) <= set(map(canonicalize_name, locked))


def installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.distribution(name))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.parametrize("image", images.SETS)
def test_components_import_only_what_their_image_holds(image: str) -> None:
    paths = [p for p in COMPONENTS if f"images.{image.upper()}," in p.read_text()]
    lines: list[str] = []
    for path in paths:
        (function,) = (
            n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)
        )
        body = [n for n in function.body if isinstance(n, ast.Import | ast.ImportFrom)]
        lines += map(ast.unparse, body)
    guarded(image, "\n".join(lines))


OPENED = """
from pathlib import Path
from tidemill.wiring import Project
project = Project.load(Path.cwd(), assignments=["execution.target=kfp"])
# S3, PostgreSQL and signatures are imported by the first that is there.
import boto3, cryptography, psycopg
"""
GOVERNED = """
project.governor
import tidemill.adapters.kubernetes.access, tidemill.adapters.kubernetes.survey
"""
PARTS = {
    "features": "project.follower.features",
    "monitor": GOVERNED + "project.monitor; project.labels; project.reporter",
    "pipelines": GOVERNED
    + """
from tidemill.adapters.kfp.compile import compile_pipeline
project.launcher
compile_pipeline(project.root, "training", project.settings.execution, "kfp")
""",
}
"""What the chart's parts open when they start."""


@pytest.mark.parametrize("image", PARTS)
def test_a_part_opens_with_what_its_image_holds(image: str) -> None:
    guarded(image, OPENED + PARTS[image])


def guarded(image: str, code: str) -> None:
    """Run code where only what an image holds can be imported."""
    known = set(importlib.metadata.packages_distributions()) - set(sys.stdlib_module_names)
    guard = GUARD.format(absent=sorted(known - modules(image)))
    argv = [sys.executable, "-c", guard + code]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


GUARD = """
import sys
class Guard:
    absent = set({absent!r})
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.absent:
            raise ModuleNotFoundError(f"the image holds no {{name}}", name=name)
sys.meta_path.insert(0, Guard())
"""
