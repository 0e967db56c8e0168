"""requirements.lock and pyproject.toml agree, in both directions."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
BLOCKS = re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+) \\\n((?:    .*\n?)+)", LOCK)


def direct() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"]]
    for group in project["optional-dependencies"].values():
        texts += group
    found = [Requirement(text) for text in texts]
    return {canonicalize_name(r.name): r for r in found if r.name != "tidemill"}


def test_every_requirement_is_locked_at_a_version_it_allows() -> None:
    locked = {canonicalize_name(name): version for name, version, _ in BLOCKS}
    for name, requirement in direct().items():
        assert name in locked, f"{name} is not in requirements.lock: run make lock"
        assert requirement.specifier.contains(locked[name], prereleases=True), (
            f"the lock has {name} {locked[name]}, pyproject.toml wants {requirement.specifier}"
        )


def test_nothing_is_locked_for_a_requirement_that_is_gone() -> None:
    because = {canonicalize_name(n) for n, _, body in BLOCKS if "tidemill (pyproject.toml)" in body}
    assert because == set(direct()), "run make lock"


def test_the_lock_holds_versions_and_hashes_and_no_address() -> None:
    assert len(BLOCKS) == len(re.findall(r"(?m)^[A-Za-z0-9]", LOCK))
    assert all("--hash=sha256:" in body for _, _, body in BLOCKS)
    assert "://" not in LOCK
    assert "index-url" not in LOCK
