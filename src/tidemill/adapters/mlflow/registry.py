"""Bundles as MLflow models: published whole, found by lineage, re-hashed when fetched.

A publication goes artifact by artifact into a *logged model* in state PENDING; when all are there
it becomes READY, and only then a version is registered, with all its tags, in one call. A crash
leaves a pending model that nothing refers to. The artifacts are the bundle's files and one more,
`MLmodel`, with which MLflow's own tools load the model.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from tidemill.adapters.mlflow.client import Client, pairs, quoted
from tidemill.bundle import SIGNATURE, Manifest, digest, hashes, read_manifest
from tidemill.errors import Conflict, IntegrityError, NotFound, PermanentError, Unavailable
from tidemill.ports.registry import ModelVersion

__all__ = ["MlflowRegistry"]

DESCRIPTION = "MLmodel"
PAGE = 200


class MlflowRegistry:
    """The model registry, its aliases and its catalog, on one MLflow server."""

    def __init__(self, client: Client, experiment: str) -> None:
        self._client = client
        self._experiment = experiment

    def publish(self, bundle: Path, tags: Mapping[str, str], run_id: str) -> ModelVersion:
        """Register a signed bundle as the next version of its model, unless it is one already."""
        manifest, identity = read_manifest(bundle), digest(bundle)
        if not (bundle / SIGNATURE).is_file():
            raise IntegrityError(f"{bundle} is not signed", hint=f"tidemill registry sign {bundle}")
        known = self.search(manifest.name, {"digest": identity})
        if known:
            return known[-1]
        model_id = self._upload(bundle, manifest, run_id)
        with suppress(Conflict):  # it has versions already
            self._client.post("registered-models/create", name=manifest.name)
        made = self._client.post(
            "model-versions/create",
            name=manifest.name,
            source=f"models:/{model_id}",
            model_id=model_id,
            run_id=run_id,
            tags=pairs({**tags, "digest": identity}),
        )
        return _version(made["model_version"])

    def resolve(self, reference: str) -> ModelVersion:
        """Return what `name@alias`, `name/3` or `name` means."""
        name, at, alias = reference.partition("@")
        name, _, number = (name, "", "") if at else reference.partition("/")
        try:
            if at:
                found = self._client.get("registered-models/alias", name=name, alias=alias)
                return _version(found["model_version"])
            if number:
                found = self._client.get("model-versions/get", name=name, version=number)
                return _version(found["model_version"])
        except PermanentError as error:  # MLflow calls an unknown alias a bad request
            raise self._unknown(name, reference) from error
        newest = self.search(name)
        if not newest:
            raise self._unknown(name, reference)
        return newest[0]

    def fetch(self, version: ModelVersion, folder: Path) -> Path:
        """Download a bundle into a folder, checked against the version's digest before it appears.

        A folder that holds the bundle already is left as it is.
        """
        if folder.exists():
            _check(folder, version, "remove the folder and fetch again")
            return folder
        found = self._client.get(
            "model-versions/get-download-uri", name=version.name, version=version.version
        )
        root = found["artifact_uri"]
        partial = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            for name in self._client.files(root):
                if name != DESCRIPTION:
                    self._client.download(root, name, partial / name)
            _check(partial, version, "somebody changed the artifacts; do not serve this version")
            partial.rename(folder)
        except OSError as error:
            if not folder.exists():
                raise Unavailable(
                    f"{folder} cannot be written: {error.strerror}",
                    hint="free space, then fetch again",
                ) from error
            return self.fetch(version, folder)  # another process was faster
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Let `alias` of the model mean `version`."""
        self._client.post("registered-models/alias", name=name, alias=alias, version=version)

    def aliases(self, name: str) -> dict[str, str]:
        """Return version by alias."""
        try:
            found = self._client.get("registered-models/get", name=name)["registered_model"]
        except NotFound:
            return {}
        return {row["alias"]: row["version"] for row in found.get("aliases", [])}

    def search(self, name: str = "", tags: Mapping[str, str] | None = None) -> list[ModelVersion]:
        """Return the versions of a model (or of all) with these tags, newest first."""
        terms = [f"name = {quoted(name)}"] if name else []
        terms += [f"tags.`{key}` = {quoted(value)}" for key, value in (tags or {}).items()]
        found = [_version(row) for row in self._pages(" and ".join(terms))]
        held = {model: self.aliases(model) for model in {version.name for version in found}}
        return [
            replace(v, aliases=tuple(sorted(a for a, n in held[v.name].items() if n == v.version)))
            for v in sorted(found, key=lambda v: (v.name, -int(v.version)))
        ]

    def _upload(self, bundle: Path, manifest: Manifest, run_id: str) -> str:
        """Upload a bundle as a logged model and return its id; it is READY when all is there."""
        made = self._client.post(
            "logged-models",
            experiment_id=self._client.experiment(self._experiment),
            name=manifest.name,
            **({"source_run_id": run_id} if run_id else {}),
        )
        info = made["model"]["info"]
        for name in (*hashes(bundle), SIGNATURE):
            self._client.upload(info["artifact_uri"], name, bundle / name)
        description = _mlmodel(manifest, info["model_id"], run_id)
        self._client.upload(info["artifact_uri"], DESCRIPTION, description)
        model_id = str(info["model_id"])
        self._client.patch(
            f"logged-models/{model_id}", model_id=model_id, status="LOGGED_MODEL_READY"
        )
        if run_id:
            models = [{"model_id": model_id, "step": 0}]
            self._client.post("runs/outputs", run_id=run_id, models=models)
            self._client.post("runs/log-inputs", run_id=run_id, datasets=_datasets(manifest))
        return model_id

    def _pages(self, query: str) -> Iterator[dict[str, Any]]:
        page: dict[str, str] = {}
        while True:
            found = self._client.get(
                "model-versions/search", filter=query, max_results=PAGE, **page
            )
            yield from found.get("model_versions", [])
            if not found.get("next_page_token"):
                return
            page = {"page_token": found["next_page_token"]}

    def _unknown(self, name: str, reference: str) -> NotFound:
        known = self.search(name)
        if not known:
            return NotFound.among("model", name, {version.name for version in self.search()})
        names = [str(version) for version in known]
        names += [f"{name}@{alias}" for version in known for alias in version.aliases]
        return NotFound.among("model version", reference, names)


def _version(row: Mapping[str, Any]) -> ModelVersion:
    tags = {tag["key"]: tag.get("value", "") for tag in row.get("tags", [])}
    return ModelVersion(
        name=row["name"],
        version=row["version"],
        digest=tags.get("digest", ""),
        run_id=row.get("run_id", ""),
        tags=tags,
        aliases=tuple(row.get("aliases", [])),
    )


def _check(folder: Path, version: ModelVersion, hint: str) -> None:
    if not version.digest:
        raise IntegrityError(
            f"{version} has no digest: tidemill did not publish it",
            hint="register a model of tidemill's: tidemill run training",
        )
    found = digest(folder)
    if found != version.digest:
        raise IntegrityError(
            f"{folder} is not what was registered as {version}: its digest is {found}, registered "
            f"{version.digest}",
            hint=hint,
        )


def _datasets(manifest: Manifest) -> list[dict[str, Any]]:
    version = manifest.lineage.get("data_version")
    if not version:
        return []
    dataset = {"name": "training", "digest": version, "source_type": "dvc", "source": version}
    return [{"dataset": dataset, "tags": pairs({"mlflow.data.context": "training"})}]


def _mlmodel(manifest: Manifest, model_id: str, run_id: str) -> bytes:
    """Return the file that tells MLflow's tools how to load the model.

    https://mlflow.org/docs/latest/ml/model#mlmodel-file
    """
    kinds = {"BYTES": "string", "FP32": "float"}
    inputs = [
        {"name": column.name, "type": kinds[column.datatype], "required": True}
        for column in manifest.inputs
    ]
    outputs = [{"name": manifest.output, "type": "float", "required": True}]
    body = {
        "model_id": model_id,
        "run_id": run_id or None,
        "utc_time_created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S.%f"),
        "flavors": {
            "onnx": {"data": "model.onnx", "providers": ["CPUExecutionProvider"]},
            "python_function": {
                "loader_module": "mlflow.onnx",
                "data": "model.onnx",
                "python_version": platform.python_version(),
            },
        },
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None},
    }
    return yaml.safe_dump(body, sort_keys=False).encode()
