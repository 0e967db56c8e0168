"""requirements.lock and pyproject.toml agree, in both directions."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
BLOCKS = re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+) \\\n((?:    .*\n?)+)", LOCK)


LOCKED = {canonicalize_name(name): version for name, version, _ in BLOCKS}
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0"}
"""For which `make lock` resolves, whichever runs the test."""


def direct() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    return [r for r in map(Requirement, texts) if r.name != "tidemill"]


def missing(wanted: Requirement, seen: set[str]) -> Iterator[str]:
    """Yield what the lock has not of a requirement and of all that it and its extras require.

    What a locked package requires is read from its installed files: `make` installs the whole lock.
    """
    if str(wanted) in seen:
        return
    seen.add(str(wanted))
    version = LOCKED.get(canonicalize_name(wanted.name))
    if version is None or not wanted.specifier.contains(version, prereleases=True):
        yield f"{wanted} is wanted, the lock has {version}: run make lock"
        return
    for text in metadata.requires(wanted.name) or []:
        inner = Requirement(text)
        extras = wanted.extras or {""}
        if inner.marker is None or any(
            inner.marker.evaluate(PYTHON | {"extra": e}) for e in extras
        ):
            yield from missing(inner, seen)


def test_all_that_is_required_is_locked_at_a_version_that_is_allowed() -> None:
    seen: set[str] = set()
    assert [line for requirement in direct() for line in missing(requirement, seen)] == []
    assert len(seen) > len(LOCKED) / 2, "what is required by what is required was not looked at"


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        ("mlflow[auth]", "flask-wtf"),
        ("prometheus-client<0.1", "prometheus-client<0.1"),
        ("no-such-package", "no-such-package"),
    ],
)
def test_a_requirement_that_was_not_locked_is_seen(planted: str, says: str) -> None:
    found = list(missing(Requirement(planted), set()))
    assert any(line.lower().startswith(says) for line in found), found


def test_nothing_is_locked_for_a_requirement_that_is_gone() -> None:
    because = {canonicalize_name(n) for n, _, body in BLOCKS if "tidemill (pyproject.toml)" in body}
    assert because == {canonicalize_name(r.name) for r in direct()}, "run make lock"


def test_the_lock_holds_versions_and_hashes_and_no_address() -> None:
    assert len(BLOCKS) == len(re.findall(r"(?m)^[A-Za-z0-9]", LOCK))
    assert all("--hash=sha256:" in body for _, _, body in BLOCKS)
    assert "://" not in LOCK
    assert "index-url" not in LOCK
