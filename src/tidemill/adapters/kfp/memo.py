"""What the steps of a run had read and written, so that a resumed run need not start over.

KFP's own local cache takes a step for done when component, arguments and the *names* of its inputs
are the same. Here the inputs' and outputs' bytes, the settings and the code count as well: whatever
changed since, the step runs again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tidemill.files import place

__all__ = ["Memo", "version_of"]


class Memo:
    """The finished steps of one run."""

    def __init__(self, folder: Path, version: str) -> None:
        self.folder = folder
        self.version = version
        self._digests: dict[str, str] = {}

    def key(self, call: str, executor_input: Mapping[str, Any], env: Mapping[str, str]) -> str:
        """Return the identity of one execution: step, code, settings, arguments, inputs' bytes."""
        inputs = executor_input.get("inputs", {})
        read = {uri: self._digest(uri) for uri in _uris(inputs)}
        body = json.dumps([self.version, call, inputs, read, dict(env)], sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()

    def begin(self, key: str, executor_input: Mapping[str, Any]) -> None:
        """Hand a step what its interrupted execution with the same inputs had written.

        KFP names a new folder at every attempt; a training finds its checkpoint there.
        """
        now = {uri: Path(uri).name for uri in _uris(executor_input.get("outputs", {}))}
        note = self.folder / f"{key}.begun"
        if note.exists():
            before = {name: uri for uri, name in json.loads(note.read_text()).items()}
            for uri, name in now.items():
                if Path(before[name]).exists():
                    Path(uri).parent.mkdir(parents=True, exist_ok=True)
                    Path(before[name]).rename(uri)
        place(note, json.dumps(now).encode())

    def keep(self, key: str, executor_input: Mapping[str, Any]) -> None:
        """Remember what a step that succeeded wrote."""
        outputs = executor_input.get("outputs", {})
        texts = {name: _read(path) for name, path in _files(outputs)}
        produced = _uris(json.loads(texts["*"] or "{}"))
        body = {"texts": texts, "artifacts": {uri: self._digest(uri) for uri in produced}}
        place(self.folder / f"{key}.json", json.dumps(body).encode())

    def restore(self, key: str, executor_input: Mapping[str, Any]) -> bool:
        """Give a step's remembered outputs to KFP; False if unknown, or no longer as written."""
        path = self.folder / f"{key}.json"
        if not path.exists():
            return False
        body = json.loads(path.read_text())
        if any(_tree_digest(Path(uri)) != digest for uri, digest in body["artifacts"].items()):
            return False
        for name, target in _files(executor_input.get("outputs", {})):
            if (text := body["texts"].get(name)) is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
        return True

    def _digest(self, uri: str) -> str:
        if uri not in self._digests:
            self._digests[uri] = _tree_digest(Path(uri))
        return self._digests[uri]


def _uris(part: Mapping[str, Any]) -> list[str]:
    lists = part.get("artifacts", {}).values()
    return [artifact["uri"] for group in lists for artifact in group["artifacts"]]


def _files(outputs: Mapping[str, Any]) -> Iterable[tuple[str, Path]]:
    for name, spec in outputs.get("parameters", {}).items():
        yield name, Path(spec["outputFile"])
    yield "*", Path(outputs["outputFile"])


def _read(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _tree_digest(path: Path) -> str:
    if not path.exists():
        return "absent"
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{content}  {file.relative_to(path)}\n".encode())
    return total.hexdigest()


def version_of(root: Path, settings: Path) -> str:
    """Return the digest of what every step depends on: tidemill, the project's code, the settings.

    The code of components and pipelines is part of each step's command already.
    """
    package = Path(__file__).parents[2]
    places = [*package.rglob("*.py"), *(root / "feature_repo").rglob("*.py")]
    places += [p for p in (root / "configs").rglob("*") if p.is_file()]
    lines = [f"{_tree_digest(p)}  {p}" for p in sorted(places)] + [_tree_digest(settings)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
