"""The project: every part together, and how it is opened and handed on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tidemill.settings import Settings, load
from tidemill.wiring.monitoring import MonitoringParts

if TYPE_CHECKING:
    from tidemill.ports.processes import ProcessSpec

__all__ = ["Project"]


class Project(MonitoringParts):
    """A project, opened: its settings, paths and adapters."""

    @classmethod
    def load(
        cls, root: Path | None = None, *, env: str | None = None, assignments: Sequence[str] = ()
    ) -> Project:
        """Open the project at or above `root` with its layered settings."""
        loaded = load(root, env=env, assignments=assignments)
        options = [f"--set={assignment}" for assignment in assignments]
        return cls(loaded.paths.root, loaded.settings, (f"--env={loaded.env}", *options))

    @classmethod
    def open(cls, config: str) -> Project:
        """Open a project from a resolved configuration that `save` or `publish` wrote."""
        if "://" in config:
            from tidemill.adapters.objects import open_objects

            prefix, _, key = config.rpartition("/")
            body = json.loads(open_objects(prefix).get(key))
        else:
            body = json.loads(Path(config).read_text())
        return cls(Path(body["root"]).absolute(), Settings.model_validate(body["settings"]))

    def keep(self, folder: Path, run: str) -> None:
        """Keep the files of a step's evidence with the objects, below `runs/<run>/`.

        Evidence must outlive a refusal, and a backend drops what a failed step wrote.
        """
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            self.objects.put(f"runs/{run}/{path.relative_to(folder).as_posix()}", path)

    def platform_specs(self) -> list[ProcessSpec]:
        """Return the processes that `tidemill up` starts; the rollout adds the model servers."""
        from tidemill.adapters.mlflow.server import server_spec
        from tidemill.ports.processes import ProcessSpec

        verbs = {
            "controller": ("rollout", "controller", "--on", "local"),
            "features": ("features", "follow"),
            "labels": ("labels", "follow"),
            "monitor": ("monitor", "follow"),
            "retrain": ("retrain", "follow"),
        }
        mlflow = server_spec(self.settings, self.paths)
        loops = [ProcessSpec(name, self.command(*words)) for name, words in verbs.items()]
        return [*([mlflow] if mlflow else []), self.gateway_spec, *loops]
