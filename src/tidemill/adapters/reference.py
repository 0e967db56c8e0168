"""The reference project, as it lies in the installed package or in a checkout of tidemill."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path

import tidemill
from tidemill.errors import UsageError

__all__ = ["copy_reference"]

PACKAGE = Path(tidemill.__file__).parent
NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
"""The settings' pattern of a project's name: a DNS label of at most 40 characters."""


def copy_reference(folder: Path) -> list[str]:
    """Make `folder` a project named like it; return its files, relative and sorted.

    Raises UsageError when the name is none, or the folder holds anything already; then nothing is
    written.
    """
    name = folder.absolute().name
    if not NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' is no project name",
            hint="at most 40 lower-case letters, digits and hyphens, a letter first",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} exists and is not empty", hint="choose another name")
    for source, target in _sources().items():
        place = folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__", "*.db"))
        else:
            shutil.copyfile(source, place)
    _rename(folder, name)
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def _sources() -> dict[Path, str]:
    """Return where each part lies → its place in a project."""
    packed = PACKAGE / "_project"
    if packed.is_dir():
        return {path: path.name for path in packed.iterdir()}
    checkout = PACKAGE.parents[1]
    hatch = tomllib.loads((checkout / "pyproject.toml").read_text())["tool"]["hatch"]
    parts = hatch["build"]["targets"]["wheel"]["force-include"]
    prefix = "tidemill/_project/"
    return {checkout / source: target.removeprefix(prefix) for source, target in parts.items()}


def _rename(folder: Path, name: str) -> None:
    for file in ("README.md", "pyproject.toml"):
        text = (folder / file).read_text()
        text = text.replace("NAME", name).replace("VERSION", tidemill.__version__)
        (folder / file).write_text(text)
    base = folder / "configs" / "base.yaml"
    base.write_text(re.sub(r"(?m)^name: .*$", f"name: {name}", base.read_text(), count=1))
