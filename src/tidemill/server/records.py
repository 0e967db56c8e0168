"""Rows as JSON objects: a convenience for people, beside the protocol's tensors by column.

`{"records": [{"carrier": "UA", …}]}` becomes the tensors that the protocol would carry, so that
everything behind it is the same: checks, lookup, log and counters. A type per model, made from its
manifest, decodes the records and describes them in the OpenAPI document.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType
from msgspec.structs import astuple

from tidemill.bundle import InputColumn, Manifest
from tidemill.server.inference import Asked, Scored
from tidemill.server.protocol import InferRequest, Rejected, encode
from tidemill.server.tensors import BytesTensor, Fp32, Fp32Tensor, Int64, Int64Tensor, Tensor

__all__ = ["Predicted", "Records", "write"]

R = TypeVar("R")
PROBLEM = re.compile(
    r"Object (?:contains (?P<unknown>unknown)|missing required) field `(?P<field>.*)`"
    r" - at `\$\.records\[(?P<row>\d+)\]`"
)


class Score(Struct, omit_defaults=True):
    """The answer to one record."""

    score: float | None
    """The model's output; null if it is no number."""
    id: str | None = None
    """The record's own, if it has one."""


class Predicted(Struct):
    """The answer to records, in their order."""

    model: str
    version: str
    id: str
    """The request's, or one that the server made."""
    parameters: dict[str, str]
    """As in the protocol's answer: revision, features_as_of, defaulted."""
    predictions: list[Score]


class Records:
    """Reads records for one model; `body` is the type of a request's body."""

    def __init__(self, manifest: Manifest, name: str, version: str) -> None:
        self._columns = {c.name: c for c in manifest.inputs}
        types: dict[str, Any] = {c.name: _type(c) for c in manifest.inputs}
        types |= {k: str | Int64 | None for k in manifest.entities if k not in types}
        types.setdefault(manifest.row_id, str | None)
        self._names = list(types)
        required = {c.name for c in manifest.inputs if c.origin == "request"}
        record = _struct(f"{name}.{version}.Record", types, required, name)
        found: Any = Annotated[record, Meta(extra_json_schema=_given_or_looked_up(manifest))]
        self.body: type[Struct] = msgspec.defstruct(
            f"{name}.{version}.Records",
            [
                ("records", Annotated[list[found], Meta(min_length=1)]),
                ("id", Annotated[str, Meta(max_length=256)] | None, None),
            ],
            forbid_unknown_fields=True,
            module=name,
        )
        self._decoder = msgspec.json.Decoder(self.body)

    def read(self, body: bytes) -> Asked:
        """Read a body; raises Rejected that names the record and the field."""
        try:
            found: Any = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise self._explained(str(error)) from error
        except ValueError as error:  # msgspec.DecodeError, UnicodeDecodeError
            raise Rejected("malformed_json", f"the body is no JSON document: {error}") from error
        return Asked(InferRequest(list(self._tensors(found.records)), found.id), {})

    def _tensors(self, records: Sequence[Struct]) -> Iterator[Tensor]:
        rows = len(records)
        for name, values in zip(self._names, zip(*map(astuple, records), strict=True), strict=True):
            absent = sum(value is UNSET for value in values)
            if absent == rows:
                continue
            if absent:
                row = next(i for i, value in enumerate(values) if value is UNSET)
                raise Rejected(
                    "missing_input",
                    f"record {row} has no '{name}' and others do; all must have the same fields, "
                    "null is a missing value",
                )
            yield _tensor(name, self._columns.get(name), list(values))

    def _explained(self, problem: str) -> Rejected:
        found = PROBLEM.fullmatch(problem)
        if found is None:
            return Rejected("invalid_request", problem)
        field, row = found["field"], found["row"]
        if not found["unknown"]:
            return Rejected("missing_input", f"record {row} has no '{field}'; null is missing")
        close = get_close_matches(field[:80], self._names, 1)
        known = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(self._names)}"
        return Rejected(
            "unknown_input", f"record {row} has an unknown field '{field:.80}'; {known}"
        )


def write(scored: Scored) -> bytes:
    """Write the answer to records."""
    model = scored.model
    row_id = model.manifest.row_id
    given: Any = next((t.data for t in scored.request.inputs if t.name == row_id), [])
    ids = given or [None] * len(scored.values)
    scores = list(map(Score, scored.values, ids))
    return encode(
        Predicted(model.name, model.version, scored.request_id, scored.parameters, scores)
    )


def _type(column: InputColumn) -> Any:
    if column.datatype == "BYTES":
        return str | None
    if column.width > 1:
        size = Meta(min_length=column.width, max_length=column.width)
        return Annotated[list[Fp32 | None], size]
    return Fp32 | None


def _struct(name: str, types: dict[str, Any], required: set[str], module: str) -> type[Struct]:
    """Make a type whose fields may have any name in JSON.

    Its module tells apart the types of `a.b` version `c` and `a` version `b.c`.
    """
    fields: list[Any] = []
    for place, (field, kind) in enumerate(types.items()):
        own = f"f{place}"
        fields.append((own, kind) if field in required else (own, kind | UnsetType, UNSET))
    spelled = {f"f{place}": field for place, field in enumerate(types)}
    return msgspec.defstruct(
        name,
        fields,
        module=module,
        rename=spelled,
        forbid_unknown_fields=True,
        kw_only=True,
        gc=False,
    )


def _given_or_looked_up(manifest: Manifest) -> dict[str, Any]:
    """Say in JSON Schema that a feature is given, or the keys that it is looked up with."""
    inputs = {column.name for column in manifest.inputs}
    rules = [
        {"anyOf": [{"required": [field.name]}, {"required": list(view.join_keys)}]}
        for view in manifest.features.views
        for field in view.fields
        if field.name in inputs
    ]
    return {"allOf": rules} if rules else {}


def _tensor(name: str, column: InputColumn | None, values: list[Any]) -> Tensor:
    shape = [len(values)]
    if column is not None and column.datatype == "FP32":
        width = [] if column.width == 1 else [column.width]
        return Fp32Tensor(name=name, shape=shape + width, data=values)
    kinds = set(map(type, values)) - {type(None)}
    if kinds == {str, int}:
        raise Rejected(
            "wrong_datatype", f"the key '{name}' is text in some records, a number in others"
        )
    if kinds == {int}:
        return Int64Tensor(name=name, shape=shape, data=values)
    return BytesTensor(name=name, shape=shape, data=values)
