"""Python files of the project, imported by path: pip never installs them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tidemill.errors import ConfigError

__all__ = ["load"]


def load(path: Path) -> ModuleType:
    """Run a Python file as a new module; its neighbours are importable while it runs.

    Raises ConfigError when the file is missing or raises itself.
    """
    spec = importlib.util.spec_from_file_location(f"_{path.parent.name}_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(
            f"the feature repository {path.parent} has no {path.name}",
            hint="set features.repo to the folder that holds it",
        )
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the project's code raises
        raise ConfigError(
            f"{path} cannot be imported: {error!r}", hint=f"see where it fails: python {path}"
        ) from error
    finally:
        sys.path.remove(str(path.parent))
    return module
