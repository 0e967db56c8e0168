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
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tidemill import __version__, images

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "infra" / "Dockerfile").read_text()
TARGETS = dict(re.findall(r"FROM base AS (\w+)\n((?:.+\n)+)", DOCKERFILE + "\n"))
COMPONENTS = sorted(p for p in (ROOT / "components").glob("*.py") if p.stem != "__init__")


def test_there_is_one_target_per_dependency_set() -> None:
    assert set(TARGETS) == set(images.SETS)


def test_images_are_pinned_and_not_root() -> None:
    assert re.search(r"^FROM python:\d+\.\d+\.\d+-slim-\w+ AS base$", DOCKERFILE, re.MULTILINE)
    assert f'ARG SOURCE="=={__version__}"' in DOCKERFILE
    for target in TARGETS.values():
        assert target.rstrip().endswith("USER 10001")
    kfp = next(r for r in requirements("pipelines") if r.name == "kfp")
    assert f"pip install --no-deps kfp{kfp.specifier}" in DOCKERFILE


def requirements(extra: str) -> list[Requirement]:
    """Return what tidemill's `extra` asks for, its core with ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(text) for text in listed]


@cache
def modules(name: str) -> frozenset[str]:
    """Return the top-level modules that an image holds."""
    (extras,) = re.findall(r"tidemill\[([\w,]+)\]", TARGETS[name])
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
    held = {name for name, _ in closed} | {"tidemill", "kfp", "pip", "setuptools"}
    by_module = importlib.metadata.packages_distributions()
    return frozenset(
        m for m, dists in by_module.items() if held & set(map(canonicalize_name, dists))
    )


def installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.distribution(name))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.parametrize("image", images.SETS)
def test_components_import_only_what_their_image_holds(image: str) -> None:
    paths = [p for p in COMPONENTS if f"images.{image.upper()}," in p.read_text()]
    known = set(importlib.metadata.packages_distributions()) - set(sys.stdlib_module_names)
    lines = [GUARD.format(absent=sorted(known - modules(image)))]
    for path in paths:
        (function,) = (
            n for n in ast.parse(path.read_text()).body if isinstance(n, ast.FunctionDef)
        )
        body = [n for n in function.body if isinstance(n, ast.Import | ast.ImportFrom)]
        lines += map(ast.unparse, body)
    code = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
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
