"""The Kubernetes API over HTTP: objects as plain JSON, every error one of tidemill's.

Not the `kubernetes` package: what is needed here is six verbs, a stream of lines and two content
types; see docs/rollout-kubernetes.md for the measurement behind that.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import msgspec

from tidemill.errors import Conflict, NotFound, Refused, RetryableError, Unavailable

__all__ = [
    "DEPLOYMENTS",
    "EVENTS",
    "GATEWAYS",
    "GATEWAY_CLASSES",
    "GRPC_ROUTES",
    "HTTP_ROUTES",
    "LEASES",
    "PODS",
    "POLICIES",
    "ROLLOUTS",
    "SERVICES",
    "Contested",
    "Expired",
    "KubeClient",
    "Manifest",
    "NoKind",
    "Objects",
    "Resource",
]

MANAGER = "tidemill-rollout"
"""Field manager of everything that is written."""
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
SILENCE_SECONDS = 90.0
"""A watch that brings not even a bookmark for this long is dead; the API server sends one a
minute."""

Manifest = dict[str, Any]
"""An object as the API server knows it."""


class Expired(RetryableError):
    """The API server no longer knows the version that a watch asked to continue from."""


class Contested(Conflict):
    """Others own fields that were to be applied; the message names them and the fields."""


class NoKind(NotFound):
    """The cluster does not know the kind of object: its CustomResourceDefinition is missing."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object and where the API server keeps it."""

    api: str
    """Group and version, `apps/v1`; the core group is `v1`."""
    kind: str
    plural: str

    def path(self, namespace: str = "", name: str = "", sub: str = "") -> str:
        """Return the URL path of one object, or of all in a namespace, or of all."""
        root = f"/api/{self.api}" if "/" not in self.api else f"/apis/{self.api}"
        where = ("namespaces", namespace) if namespace else ()
        return "/".join(part for part in (root, *where, self.plural, name, sub) if part)


OURS = "serving.tidemill.dev/v1alpha1"
GATEWAY = "gateway.networking.k8s.io/v1"
ROLLOUTS = Resource(OURS, "ModelRollout", "modelrollouts")
POLICIES = Resource(OURS, "AnalysisPolicy", "analysispolicies")
DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments")
SERVICES = Resource("v1", "Service", "services")
PODS = Resource("v1", "Pod", "pods")
HTTP_ROUTES = Resource(GATEWAY, "HTTPRoute", "httproutes")
GRPC_ROUTES = Resource(GATEWAY, "GRPCRoute", "grpcroutes")
GATEWAYS = Resource(GATEWAY, "Gateway", "gateways")
GATEWAY_CLASSES = Resource(GATEWAY, "GatewayClass", "gatewayclasses")
EVENTS = Resource("events.k8s.io/v1", "Event", "events")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")


class Objects(Protocol):
    """What the adapters need of the API server; the client itself, or a cache in front of it."""

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest:
        """Return one object; raises NotFound."""
        ...

    def select(
        self, resource: Resource, namespace: str, labels: Mapping[str, str]
    ) -> list[Manifest]:
        """Return the objects of a namespace that carry `labels`."""
        ...

    def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Make an object; raises Conflict when it exists."""
        ...

    def apply(self, resource: Resource, manifest: Manifest, *, force: bool) -> Manifest:
        """Make the fields of `manifest` so (server-side apply).

        Raises Contested when somebody else has set one otherwise, unless it is forced.
        """
        ...

    def replace(self, resource: Resource, manifest: Manifest, sub: str = "") -> Manifest:
        """Write a whole object, or its subresource; raises Conflict unless its version is given."""
        ...

    def merge(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Change the given fields; raises Conflict when a version is given and not in place."""
        ...

    def delete(self, resource: Resource, namespace: str, name: str) -> None:
        """Let an object and what it owns end; one that is gone is no error."""
        ...


class KubeClient:
    """Implements `Objects` by asking the API server each time."""

    def __init__(self, http: httpx.Client) -> None:
        """`http` knows the server's address, authority and credentials; see `access`."""
        self._http = http
        self._watching: set[socket.socket] = set()

    def get(self, resource: Resource, namespace: str, name: str) -> Manifest:
        """Return one object."""
        return self._ask("GET", resource.path(namespace, name))

    def select(
        self, resource: Resource, namespace: str, labels: Mapping[str, str]
    ) -> list[Manifest]:
        """Return the objects of a namespace that carry `labels`."""
        return self.page(resource, namespace, labels)[0]

    def page(
        self, resource: Resource, namespace: str, labels: Mapping[str, str]
    ) -> tuple[list[Manifest], str]:
        """Return all matching objects and the version of the collection to watch from."""
        found: list[Manifest] = []
        query = {"labelSelector": _selector(labels), "limit": "500"}
        while True:
            answer = self._ask("GET", resource.path(namespace), params=query)
            found += answer["items"]
            query["continue"] = answer["metadata"].get("continue", "")
            if not query["continue"]:
                return found, answer["metadata"]["resourceVersion"]

    def watch(
        self, resource: Resource, namespace: str, labels: Mapping[str, str], version: str
    ) -> Iterator[tuple[str, Manifest]]:
        """Yield `(ADDED | MODIFIED | DELETED | BOOKMARK, object)` after `version`.

        Ends when the server ends it. Raises Expired, Unavailable.
        """
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "labelSelector": _selector(labels),
            "timeoutSeconds": "300",
        }
        limits = httpx.Timeout(10.0, read=SILENCE_SECONDS)
        path = resource.path(namespace)
        try:
            with self._http.stream("GET", path, params=query, timeout=limits) as answer:
                if answer.is_error:
                    answer.read()
                    raise _error("GET", path, answer.status_code, _status(answer))
                with self._interruptible(answer):
                    yield from _events(answer, path)
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"the watch of {resource.plural} broke off: {error!r}") from error

    def interrupt(self) -> None:
        """Let every watch that waits for an event end now."""
        for connection in list(self._watching):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _interruptible(self, answer: httpx.Response) -> Iterator[None]:
        connection = answer.extensions["network_stream"].get_extra_info("socket")
        self._watching.add(connection)
        try:
            yield
        finally:
            self._watching.discard(connection)

    def create(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Make an object."""
        query = {"fieldManager": MANAGER}
        path = resource.path(manifest["metadata"]["namespace"])
        return self._ask("POST", path, manifest, params=query)

    def apply(self, resource: Resource, manifest: Manifest, *, force: bool) -> Manifest:
        """Apply on the server."""
        query = {"fieldManager": MANAGER, "force": str(force).lower()}
        return self._ask("PATCH", _where(resource, manifest), manifest, APPLY, params=query)

    def replace(self, resource: Resource, manifest: Manifest, sub: str = "") -> Manifest:
        """Write a whole object at the version that it names."""
        query = {"fieldManager": MANAGER}
        return self._ask("PUT", _where(resource, manifest, sub), manifest, params=query)

    def merge(self, resource: Resource, manifest: Manifest) -> Manifest:
        """Change the given fields."""
        query = {"fieldManager": MANAGER}
        return self._ask("PATCH", _where(resource, manifest), manifest, MERGE, params=query)

    def delete(self, resource: Resource, namespace: str, name: str) -> None:
        """Delete in the background."""
        try:
            self._ask("DELETE", resource.path(namespace, name), {"propagationPolicy": "Background"})
        except NotFound:
            return

    def whoami(self) -> Manifest:
        """Return who asks, as the API server knows it: `username`, `uid` of a service account."""
        api = "authentication.k8s.io/v1"
        asked = {"apiVersion": api, "kind": "SelfSubjectReview"}
        user: Manifest = self._ask("POST", f"/apis/{api}/selfsubjectreviews", asked)["status"]
        return dict(user["userInfo"])

    def _ask(
        self,
        method: str,
        path: str,
        body: Manifest | None = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Manifest:
        content = None if body is None else json.dumps(body).encode()
        headers = {"content-type": content_type} if content else {}
        try:
            answer = self._http.request(
                method, path, content=content, headers=headers, params=params
            )
        except httpx.HTTPError as error:
            server, why = str(self._http.base_url).rstrip("/"), str(error) or "it took too long"
            raise Unavailable(
                f"the Kubernetes API at {server} does not answer: {why}",
                hint="is the API server up, and the kubeconfig the right one? kubectl cluster-info",
            ) from error
        if answer.is_error:
            raise _error(method, path, answer.status_code, _status(answer))
        parsed: Manifest = msgspec.json.decode(answer.content)
        return parsed


def _events(answer: httpx.Response, path: str) -> Iterator[tuple[str, Manifest]]:
    for line in answer.iter_lines():
        event = msgspec.json.decode(line)  # keeps one string of each key, whatever it reads
        if event["type"] == "ERROR":
            raise _error("GET", path, event["object"].get("code", 500), event["object"])
        yield event["type"], event["object"]


def _where(resource: Resource, manifest: Manifest, sub: str = "") -> str:
    metadata = manifest["metadata"]
    return resource.path(metadata["namespace"], metadata["name"], sub)


def _selector(labels: Mapping[str, str]) -> str:
    """Write labels as a selector; an empty value asks for the label alone."""
    return ",".join(f"{key}={value}" if value else key for key, value in labels.items())


def _status(answer: httpx.Response) -> Manifest:
    try:
        body = answer.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"message": answer.text[:200]}


def _error(method: str, path: str, code: int, status: Manifest) -> Exception:
    """Turn the API server's `Status` into the error that says what to do about it."""
    message = f"{method} {path}: {status.get('message', '')} ({code})"
    if code == httpx.codes.NOT_FOUND:
        return _absent(path, status, message)
    if code == httpx.codes.CONFLICT and (claims := _claims(status)):
        return Contested(claims, hint="apply it by force, or leave the fields to who set them")
    if code == httpx.codes.CONFLICT:
        return Conflict(message, hint="look again, then repeat")
    if code == httpx.codes.GONE:
        return Expired(message)
    if code == httpx.codes.TOO_MANY_REQUESTS or code >= httpx.codes.INTERNAL_SERVER_ERROR:
        return Unavailable(message)
    if code == httpx.codes.UNAUTHORIZED:
        return Refused(
            "the cluster does not know who asks (401): the credentials are wrong or have expired",
            hint="log in again, then: kubectl auth whoami",
        )
    if code == httpx.codes.FORBIDDEN:
        return Refused(f"{status.get('message', path)} ({code})", hint=_role(path))
    return Refused(message)


def _claims(status: Manifest) -> str:
    """Say who has set which fields that were to be applied; empty when nobody did."""
    causes = (status.get("details") or {}).get("causes") or []
    return "; ".join(
        f"{cause.get('field', '')}: {cause.get('message', '')}"
        for cause in causes
        if cause.get("reason") == "FieldManagerConflict"
    )


def _absent(path: str, status: Manifest, message: str) -> NotFound:
    """Tell an object that is not there from a kind that the cluster does not have."""
    if status.get("details", {}).get("name"):
        return NotFound(message)
    group = path.removeprefix("/apis/").partition("/")[0]
    ours = group == OURS.partition("/")[0]
    missing = "charts/tidemill/crds" if ours else "the release of its maker"
    return NoKind(
        f"the cluster has no resources of {group}: its CustomResourceDefinitions are missing",
        hint=f"an administrator installs them: kubectl apply --server-side -f {missing}",
    )


def _role(path: str) -> str:
    """Say which role grants what was forbidden."""
    if OURS.partition("/")[0] not in path:
        return "the role of the rollout's controller: docs, rollout-kubernetes"
    return (
        "an administrator names this identity in the chart's rbac.deployers (the role "
        "tidemill-rollout-deployer); may I? kubectl auth can-i --list"
    )
