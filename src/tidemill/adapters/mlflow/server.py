"""The local MLflow server: one process, one import, its database ready before it listens.

`mlflow server` imports MLflow twice, in its own process and in that of a worker; this module does
what it does, in the worker alone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import make_url

from tidemill.ports.processes import ProcessSpec
from tidemill.settings import Paths, Settings
from tidemill.settings.secrets import reveal

__all__ = ["main", "server_spec"]

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def server_spec(settings: Settings, paths: Paths) -> ProcessSpec | None:
    """Return the local server's process, or None when `registry.uri` names another machine."""
    registry = settings.registry
    at = urlsplit(registry.uri)
    if at.hostname not in LOOPBACK:
        return None
    port = at.port or 80
    backend = paths.database(registry.backend)
    artifacts = paths.url(registry.artifacts)
    argv = (backend, artifacts, at.hostname, str(port), registry.backend_password)
    endpoint = registry.artifacts_endpoint_url
    return ProcessSpec(
        name="mlflow",
        argv=(sys.executable, "-m", __name__, *argv),
        env={"MLFLOW_S3_ENDPOINT_URL": endpoint} if endpoint else {},
        ready_url=f"{registry.uri.rstrip('/')}/health",
        port=port,
    )


def main(backend: str, artifacts: str, host: str, port: str, password: str = "") -> None:
    """Serve MLflow's API and pages on `host:port`, artifacts through the server.

    `password` is the reference to the backend's password, as settings hold it.
    """
    for folder in (backend.removeprefix("sqlite:///"), artifacts):
        if "://" not in folder:
            Path(folder).parent.mkdir(parents=True, exist_ok=True)
    if password:
        url = make_url(backend).set(password=reveal(password))
        backend = url.render_as_string(hide_password=False)
    from mlflow.server import constants

    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: backend,
        constants.REGISTRY_STORE_URI_ENV_VAR: backend,
        constants.ARTIFACT_ROOT_ENV_VAR: "mlflow-artifacts:/",
        constants.ARTIFACTS_DESTINATION_ENV_VAR: artifacts,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # else eight idle workers of 200 MB each
    }
    import uvicorn
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(backend, backend, "mlflow-artifacts:/")
    uvicorn.run("mlflow.server.fastapi_app:app", host=host, port=int(port), access_log=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
