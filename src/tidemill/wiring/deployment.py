"""What `tidemill serve --check` looks at: each part of the start, by the functions of the start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from tidemill.errors import NotFound, RetryableError, TidemillError, Unavailable
from tidemill.workers.listener import listen

if TYPE_CHECKING:
    from tidemill.server import Model
    from tidemill.wiring.serving import ServingParts

__all__ = ["Check", "Deployment", "inspect"]

PROBE = "checks/serve"
"""Object that the check of the prediction log's store writes, and leaves there."""
SOON = timedelta(days=14)
"""A certificate that ends within this time is worth a warning."""

Found = tuple[str, str]
"""What was found, and what to do about it; nothing to do if all is well."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the answer."""

    name: str
    state: Literal["ok", "warn", "fail", "skipped"]
    """`warn`: the server would start. `skipped`: it cannot be told before another is mended."""
    found: str
    next: str = ""
    """What to do."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What would be served, and where."""

    source: Path
    """The bundle's folder, or the repository's."""
    host: str
    port: int
    verify: bool
    grpc_port: int | None = None
    """None: no gRPC."""
    shadow_port: int | None = None
    """None: no mirrored requests are taken."""
    repository: bool = False
    """`source` holds MODEL/VERSION/ with a bundle each, which name their models."""
    version: str = "0"
    name: str = ""


class Offer(NamedTuple):
    """One bundle of a deployment."""

    bundle: Path
    version: str
    name: str
    label: str = ""
    """In the names of its checks."""


def inspect(project: ServingParts, wanted: Deployment) -> list[Check]:
    """Check everything that a start would need; raises nothing that a start would raise."""
    from tidemill import server

    server.forbid_imports()
    return list(_checks(project, wanted))


def _checks(project: ServingParts, wanted: Deployment) -> Iterator[Check]:
    yield _check("address", lambda: _address(project, wanted))
    yield _check("port", lambda: _port(wanted))
    if wanted.grpc_port is not None:
        yield _check("gRPC port", lambda: _grpc_port(wanted))
    if wanted.shadow_port is not None:
        yield _check("shadow port", lambda: _shadow_port(project, wanted))
    offers = _offers(project, wanted)
    if not offers:
        yield _check("repository", lambda: _empty(wanted))
    for offer in offers:
        yield from _model(project, offer, wanted.verify)
    yield _check("API keys", lambda: _keys(project))
    yield _check("tokens", lambda: _tokens(project))
    yield _check("certificate", lambda: _certificate(project))


def _offers(project: ServingParts, wanted: Deployment) -> list[Offer]:
    if not wanted.repository:
        return [Offer(wanted.source, wanted.version, wanted.name)]
    return [
        Offer(
            wanted.source / entry.name / entry.version,
            entry.version,
            entry.name,
            f" {entry.name}/{entry.version}",
        )
        for entry in project.repository(wanted.source).index()
    ]


def _model(project: ServingParts, offer: Offer, verify: bool) -> Iterator[Check]:
    """Check one bundle and what depends on it; its model is held no longer than that."""
    loaded: list[Model] = []
    yield _check(f"bundle{offer.label}", lambda: _bundle(project, offer, verify, loaded))
    for name, part in (("features", _features), ("prediction log", _log)):
        if loaded:
            yield _check(f"{name}{offer.label}", lambda part=part: part(project, loaded[0]))  # type: ignore[misc]
        else:
            yield Check(f"{name}{offer.label}", "skipped", "depends on the bundle")


def _check(name: str, look: Callable[[], Found]) -> Check:
    try:
        found, to_do = look()
    except TidemillError as error:
        return Check(name, "fail", error.message, error.hint)
    return Check(name, "warn" if to_do else "ok", found, to_do)


def _address(project: ServingParts, wanted: Deployment) -> Found:
    from tidemill import server

    serving = project.settings.serving
    server.refuse_exposure(wanted.host, serving)
    asked = [
        *(["API keys"] if serving.auth.key_file else []),
        *(["tokens"] if serving.auth.jwt.jwks else []),
        *(["client certificates"] if serving.tls.client_ca else []),
    ]
    if asked:
        return f"{wanted.host}, callers need {' or '.join(asked)}", ""
    if serving.auth.allow_anonymous:
        return f"{wanted.host}, EVERYONE may call", "set serving.auth.key_file or serving.auth.jwt"
    return f"{wanted.host}, everyone on this machine may call", ""


def _port(wanted: Deployment) -> Found:
    listen(wanted.host, wanted.port).close()
    return f"{wanted.port or 'any'}, free", ""


def _grpc_port(wanted: Deployment) -> Found:
    try:
        import tidemill.server.rpc  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            f"gRPC's library is not there: {error}", hint="pip install 'tidemill[serve]'"
        ) from error
    port = wanted.grpc_port or 0
    if port and port == wanted.port:
        raise Unavailable(
            f"{port} is the port for HTTP, expected another",
            hint="choose another port with --grpc-port; 0 takes a free one",
        )
    listen(wanted.host, port, "--grpc-port").close()
    return f"{port or 'any'}, free", ""


def _shadow_port(project: ServingParts, wanted: Deployment) -> Found:
    if project.settings.serving.workers > 1:
        return "not opened: pairs are formed in one process", "for shadow steps: serving.workers 1"
    port = wanted.shadow_port or 0
    if port and port in (wanted.port, wanted.grpc_port):
        raise Unavailable(
            f"{port} is the port for clients, expected another",
            hint="choose another port with --shadow-port; 0 takes a free one",
        )
    listen(wanted.host, port, "--shadow-port").close()
    return f"{port or 'any'}, free", ""


def _empty(wanted: Deployment) -> Found:
    raise NotFound(
        f"{wanted.source} holds no bundle, expected MODEL/VERSION/ with a bundle each",
        hint=f"tidemill registry fetch MODEL/VERSION {wanted.source}/MODEL/VERSION",
    )


def _bundle(project: ServingParts, offer: Offer, verify: bool, loaded: list[Model]) -> Found:
    model = project.load_model(offer.bundle, version=offer.version, name=offer.name, verify=verify)
    loaded.append(model)
    found = f"{model.name} {model.revision}, {len(model.manifest.inputs)} inputs, scores a row"
    if not verify:
        return f"{found}, NOT VERIFIED", "serve it without --no-verify and serving.verify=false"
    return f"{found}, signed", ""


def _features(project: ServingParts, model: Model) -> Found:
    features = model.manifest.features
    try:
        project.online.verify(features)
    except RetryableError as error:
        return error.message, error.hint or "start the online store; until then defaults are used"
    return f"the store was filled for {features.name} {features.digest[:17]}", ""


def _log(project: ServingParts, model: Model) -> Found:
    project.served(model)  # refuses a log that it could not write
    return f"{project.objects.put(PROBE, b'')} was written", ""


def _keys(project: ServingParts) -> Found:
    ring = project.keyring
    if ring is None:
        return "none: serving.auth.key_file is empty", ""
    expired = [key.id for key in ring.keys if key.expires and key.expires <= datetime.now(UTC)]
    to_do = f"remove or renew what has expired: {', '.join(expired)}" if expired else ""
    return f"{len(ring.keys)} keys, {len(expired)} expired", to_do


def _tokens(project: ServingParts) -> Found:
    keys = project.key_set
    if keys is None:
        return "none: serving.auth.jwt.jwks is empty", ""
    return f"public keys {', '.join(keys.ids)}", ""


def _certificate(project: ServingParts) -> Found:
    certificates = project.certificates
    if certificates is None:
        return "none: plain HTTP", ""
    ends = certificates.expires
    to_do = "renew it" if ends - datetime.now(UTC) < SOON else ""
    return f"fits its key, until {ends:%Y-%m-%d %H:%M} UTC", to_do
