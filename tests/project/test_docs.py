"""The site builds with every link and every page of the navigation in place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(tmp_path)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "reference" / "commands" / "index.html").read_text()
    assert "tidemill rollout start" in commands
    settings = (tmp_path / "reference" / "settings" / "index.html").read_text()
    assert "min_category_rows" in settings


def test_the_readme_names_only_targets_and_pages_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target} " in readme
        assert f"\n{target}: " in makefile
    for part in readme.split("](")[1:]:
        assert (ROOT / part.split(")")[0]).exists(), part.split(")")[0]
