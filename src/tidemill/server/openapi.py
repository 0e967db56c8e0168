"""The OpenAPI 3.1 document: routes, schemas and refusals, from what the server itself uses.

Schemas come from the types that requests are decoded into and answers encoded from, names and
examples from the models that can be asked at this moment. https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, NamedTuple

import msgspec

from tidemill import __version__
from tidemill.bundle import Manifest
from tidemill.server.binary import SPELLED
from tidemill.server.operations import ALWAYS, KEYED, STATUS, Operation

__all__ = ["Documented", "Known", "describe_api"]

TYPE = "application/json"
BINARY = "application/octet-stream"
TEXT = "text/plain"
REF = "#/components/schemas/{name}"
CODE = {"type": "string", "description": "Stable: branch on this."}
ERROR = {
    "type": "object",
    "description": "A refusal.",
    "properties": {
        "error": {"type": "string", "description": "What was expected, where, what was found."},
        "code": CODE,
    },
    "required": ["error", "code"],
}
JSON_SIZE = {
    "description": "How many bytes of the body are JSON; binary tensors follow.",
    "schema": {"type": "integer", "minimum": 0},
}
TRACEPARENT = {
    "description": "W3C trace context; in answers where traces are on.",
    "schema": {"type": "string"},
}
RETRY = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
CHALLENGE = {"description": "RFC 6750.", "schema": {"type": "string"}}
HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": CHALLENGE | {"required": True}},
    403: {"WWW-Authenticate": CHALLENGE},
    429: {"Retry-After": RETRY | {"required": True}},
    503: {"Retry-After": RETRY},
}


class Documented(NamedTuple):
    """A route as the document needs it."""

    path: str
    method: str
    keyed: bool
    """Whether a caller is asked for a key."""
    told: Operation


class Known(NamedTuple):
    """A version that can be asked; the rest of it only if it is loaded."""

    name: str
    version: str
    manifest: Manifest | None = None
    records: type | None = None
    """Type of a body of records."""


def describe_api(routes: Sequence[Documented], models: Sequence[Known]) -> dict[str, Any]:
    """Return the document."""
    types = {t for route in routes for t in (route.told.answers, route.told.reads) if t}
    types |= {model.records for model in models if model.records}
    ordered = sorted(types, key=str)
    found, components = msgspec.json.schema_components(ordered, ref_template=REF)
    schemas = dict(zip(ordered, found, strict=True))
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for route in routes:
        paths[route.path][route.method.lower()] = _operation(route, schemas, models)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tidemill inference server",
            "version": __version__,
            "description": "Open Inference Protocol V2 over HTTP.",
        },
        "paths": dict(paths),
        "components": {
            "schemas": components | {"Error": ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(
    route: Documented, schemas: dict[Any, Any], models: Sequence[Known]
) -> dict[str, Any]:
    told = route.told
    versioned = "{version}" in route.path
    found: dict[str, Any] = {
        "operationId": told.name + ("OfVersion" if versioned else ""),
        "summary": told.summary,
        "security": [{"key": []}] if route.keyed else [],
        "responses": _responses(route, schemas),
    }
    if parameters := [*_places(route.path, models), *_headers(told)]:
        found["parameters"] = parameters
    if told.records:
        bodies = [schemas[model.records] for model in models if model.records]
        schema = {"anyOf": bodies} if bodies else {"type": "object"}
        found["requestBody"] = {"required": True, "content": {TYPE: {"schema": schema}}}
    elif told.reads is not None:
        content: dict[str, Any] = {TYPE: {"schema": schemas[told.reads]}}
        if told.binary:
            content[TYPE]["examples"] = _examples(models)
            content[BINARY] = {"schema": {}}
        found["requestBody"] = {"required": not told.optional, "content": content}
    return found


def _places(path: str, models: Sequence[Known]) -> list[dict[str, Any]]:
    """Describe what a path names; what can be asked now is told as `enum`."""
    known = {"name": {m.name for m in models}, "version": {m.version for m in models}}
    return [
        {
            "name": place,
            "in": "path",
            "required": True,
            "schema": {"type": "string"} | ({"enum": sorted(known[place])} if models else {}),
        }
        for place in re.findall(r"\{(\w+)\}", path)
    ]


def _headers(told: Operation) -> list[dict[str, Any]]:
    sizes = [{"name": SPELLED, "in": "header", **JSON_SIZE}] if told.binary else []
    traces = [{"name": "traceparent", "in": "header", **TRACEPARENT}] if told.traced else []
    return sizes + traces


def _responses(route: Documented, schemas: dict[Any, Any]) -> dict[str, Any]:
    told = route.told
    ok: dict[str, Any] = {"description": HTTPStatus.OK.phrase}
    if told.text:
        ok["content"] = {TEXT: {"schema": {"type": "string"}}}
    else:
        ok["content"] = {TYPE: {"schema": schemas[told.answers]}}
    if told.binary:
        ok["content"][BINARY] = {"schema": {}}
        ok["headers"] = {SPELLED: JSON_SIZE}
    found = {"200": ok}
    codes = [*ALWAYS, *told.codes, *(KEYED if route.keyed else ())]
    found |= {str(status): _refusal(status, names) for status, names in _by_status(codes)}
    if told.traced:
        for response in found.values():
            response["headers"] = response.get("headers", {}) | {"traceparent": TRACEPARENT}
    if told.unready:
        schema = found["503"]["content"][TYPE]
        schema["schema"] = {"anyOf": [schemas[told.answers], schema["schema"]]}
    return found


def _by_status(codes: Iterable[str]) -> list[tuple[int, list[str]]]:
    found: dict[int, list[str]] = defaultdict(list)
    for code in dict.fromkeys(codes):
        found[STATUS[code]].append(code)
    return sorted(found.items())


def _refusal(status: int, codes: list[str]) -> dict[str, Any]:
    narrowed = {"properties": {"code": {"enum": codes}}}
    schema = {"allOf": [{"$ref": REF.format(name="Error")}, narrowed]}
    found: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {TYPE: {"schema": schema}},
    }
    if status in HEADERS:
        found["headers"] = HEADERS[status]
    return found


def _examples(models: Sequence[Known]) -> dict[str, Any]:
    """Return a request of one row for each model: every input, all of them missing."""
    return {
        model.name: {"value": {"inputs": _tensors(model.manifest)}}
        for model in models
        if model.manifest is not None
    }


def _tensors(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "name": c.name,
            "datatype": c.datatype,
            "shape": [1] if c.width == 1 else [1, c.width],
            "data": [None] * c.width,
        }
        for c in manifest.inputs
    ]
