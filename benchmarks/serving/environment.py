"""A virtual environment per foreign server, so that the project's own stays as it is locked."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tidemill.errors import Unavailable

__all__ = ["make_environment"]

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".tidemill" / "bench"
SAME = ("onnxruntime", "numpy")
"""Installed in the versions of this process: everyone computes with the same."""


def make_environment(requirements: Path) -> Path:
    """Return the `bin` folder of an environment with `requirements`, made when there is none.

    Raises Unavailable with the resolver's reason when they do not install.
    """
    wanted = [*requirements.read_text().split(), *(f"{name}=={version(name)}" for name in SAME)]
    mark = hashlib.sha256(" ".join([sys.version, *wanted]).encode()).hexdigest()[:8]
    folder = CACHE / f"{requirements.parent.name}-{mark}"
    if not (folder / ".ready").exists():
        python = str(folder / "bin" / "python")
        _uv("venv", "--clear", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--compile-bytecode", "--python", python, *wanted)
        (folder / ".ready").touch()
    return folder / "bin"


def _uv(*arguments: str) -> None:
    uv = shutil.which("uv") or shutil.which("uv", path=ROOT / ".uv" / "bin")
    if uv is None:
        raise Unavailable("uv is not on the PATH", hint="`make setup` puts it into .uv/bin")
    done = subprocess.run([uv, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"uv {arguments[0]} failed: {' '.join(done.stderr.split())[:300]}")
