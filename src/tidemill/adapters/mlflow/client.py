"""MLflow's REST interface: calls, artifacts through the server, and its errors as tidemill's.

https://mlflow.org/docs/latest/rest-api.html; the calls about logged models are those of its SDK.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from tidemill.errors import Conflict, IntegrityError, NotFound, PermanentError, Unavailable

__all__ = ["Client", "now_ms", "pairs", "quoted"]

API = "/api/2.0/mlflow"
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
PROXY_SCHEME = "mlflow-artifacts:"
CONNECT_PAUSE_SECONDS = 0.2
IDLE_SECONDS = 1.0
"""For which a connection is kept for the next call: MLflow closes an idle one after five, its older
servers after two, and a call that is on its way by then is lost."""
TIMEOUT = httpx.Timeout(30.0, connect=2.0)
"""Seconds without a byte; a server that was just started migrates nothing while it answers."""


class Client:
    """One MLflow server; a connection is opened with the first call."""

    def __init__(self, uri: str, token: str = "", *, connect_seconds: float = 1.5) -> None:
        """Try to connect for `connect_seconds`, each time that there is no connection yet."""
        self.uri = uri.rstrip("/")
        self._http = httpx.Client(
            base_url=self.uri,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT,
            transport=_Patient(connect_seconds),
        )
        weakref.finalize(self, self._http.close)

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """Return the answer to a GET of the tracking or registry interface."""
        return self._json(self._send("GET", f"{API}/{path}", params=params))

    def post(self, path: str, **body: Any) -> dict[str, Any]:
        """Return the answer to a POST; one that met another writer is repeated once.

        MLflow looks, then inserts: its database refuses the slower of two, and keeps nothing of it.
        """
        try:
            response = self._send("POST", f"{API}/{path}", json=body)
        except Conflict:
            response = self._send("POST", f"{API}/{path}", json=body)
        return self._json(response)

    def patch(self, path: str, **body: Any) -> dict[str, Any]:
        """Return the answer to a PATCH."""
        return self._json(self._send("PATCH", f"{API}/{path}", json=body))

    def upload(self, root: str, name: str, content: bytes | Path) -> None:
        """Store one artifact below an artifact root that the server proxies."""
        path = f"{ARTIFACTS}/{_proxied(root)}/{name}"
        if isinstance(content, bytes):
            self._send("PUT", path, content=content)
            return
        with content.open("rb") as file:
            size = str(content.stat().st_size)
            self._send("PUT", path, content=file, headers={"Content-Length": size})

    def files(self, root: str) -> Iterator[str]:
        """Yield the names of all artifacts below an artifact root, `/`-separated."""
        listed = self._json(self._send("GET", ARTIFACTS, params={"path": _proxied(root)}))
        for file in listed.get("files", []):
            name = file["path"]
            if PurePosixPath(name).name != name or name == "..":
                raise IntegrityError(
                    f"MLflow at {self.uri} lists the artifact {name!r} in {root}, which leaves it",
                    hint="somebody changed the artifacts; do not serve this version",
                )
            if file.get("is_dir"):
                yield from (f"{name}/{inner}" for inner in self.files(f"{root}/{name}"))
            else:
                yield name

    def download(self, root: str, name: str, to: Path) -> None:
        """Write one artifact into a file."""
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            with (
                self._http.stream("GET", f"{ARTIFACTS}/{_proxied(root)}/{name}") as response,
                to.open("wb") as file,
            ):
                if response.is_error:
                    response.read()
                    raise self._error(response)
                for chunk in response.iter_bytes(1 << 20):
                    file.write(chunk)
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error
        except OSError as error:
            raise Unavailable(
                f"{to} cannot be written: {error.strerror}", hint="free space, then fetch again"
            ) from error

    def experiment(self, name: str) -> str:
        """Return the id of an experiment, created if there is none."""
        try:
            found = self.get("experiments/get-by-name", experiment_name=name)["experiment"]
        except NotFound:
            try:
                return str(self.post("experiments/create", name=name)["experiment_id"])
            except Conflict:  # another process was faster
                return self.experiment(name)
        if found["lifecycle_stage"] != "active":
            raise PermanentError(
                f"the MLflow experiment '{name}' is deleted",
                hint=f"mlflow experiments restore --experiment-id {found['experiment_id']}",
            )
        return str(found["experiment_id"])

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx.HTTPError as error:
            raise self._unavailable(error) from error
        if response.is_error:
            raise self._error(response)
        return response

    def _json(self, response: httpx.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except ValueError as error:
            raise Unavailable(
                f"what answers at {self.uri} is not MLflow: no JSON from {response.url.path}",
                hint="look at registry.uri: tidemill config show --explain",
            ) from error
        return dict(body)

    def _unavailable(self, error: httpx.HTTPError) -> Unavailable:
        return Unavailable(
            f"MLflow at {self.uri} does not answer: {str(error) or type(error).__name__}",
            hint="start the local platform: tidemill up (or look at registry.uri)",
        )

    def _error(
        self, response: httpx.Response
    ) -> Conflict | NotFound | PermanentError | Unavailable:
        try:
            body = response.json()
            code, message = str(body["error_code"]), str(body["message"])
        except (ValueError, KeyError, TypeError):
            code, message = "", " ".join(response.text.split())[:300]
        call = f"{response.request.method} {response.url.path}"
        text = f"MLflow at {self.uri} answered {response.status_code} to {call}: {message}"
        # What its database says to the slower of two writers MLflow passes on as a bad request.
        if code == "RESOURCE_ALREADY_EXISTS" or "unique constraint" in message.lower():
            return Conflict(text)
        if code == "RESOURCE_DOES_NOT_EXIST":
            return NotFound(text)
        if response.status_code >= 500 or response.status_code == 429:
            return Unavailable(text, hint="its log tells more: tidemill status")
        if response.status_code in (401, 403):
            return PermanentError(
                text, hint="look at registry.token and the server's allowed hosts"
            )
        return PermanentError(text)


class _Patient(httpx.HTTPTransport):
    """Waits for a server that starts. What may have been done is not sent twice."""

    def __init__(self, seconds: float) -> None:
        super().__init__(limits=httpx.Limits(keepalive_expiry=IDLE_SECONDS))
        self._seconds = seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        deadline = time.monotonic() + self._seconds
        while True:
            try:
                return super().handle_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if time.monotonic() >= deadline:
                    raise
                time.sleep(CONNECT_PAUSE_SECONDS)


def pairs(values: Mapping[str, object]) -> list[dict[str, str]]:
    """Return a mapping as MLflow's list of keys and values."""
    return [{"key": key, "value": str(value)} for key, value in values.items()]


def quoted(value: str) -> str:
    """Return a value as a literal of MLflow's search language, which knows no escape."""
    if "'" in value:
        raise NotFound(f"no name or tag in MLflow holds a quote: {value!r}")
    return f"'{value}'"


def now_ms() -> int:
    """Return the wall clock in milliseconds, as MLflow counts."""
    return int(time.time() * 1000)


def _proxied(root: str) -> str:
    if not root.startswith(PROXY_SCHEME):
        raise PermanentError(
            f"MLflow keeps artifacts at {root} and does not proxy them",
            hint="start the server with --serve-artifacts and an --artifacts-destination",
        )
    return root.removeprefix(PROXY_SCHEME).strip("/")
