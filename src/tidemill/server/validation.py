"""What a request must satisfy before ONNX Runtime sees it.

ONNX Runtime turns None, NaN and numbers in a string tensor silently into strings, and fails with an
error of its kernels when row counts differ; so every element is typed here, and every count. All
numbers become one matrix and all strings another: at one row per request numpy's calls are the
cost, and the prediction log keeps two arrays instead of one per column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import chain
from typing import Any, Literal

import numpy as np
from msgspec import UNSET, Struct
from numpy.typing import NDArray

from tidemill.bundle import FeatureView, Manifest
from tidemill.server.binary import unpack
from tidemill.server.protocol import InferRequest, Rejected, RequestedOutput
from tidemill.server.tensors import (
    DTYPES,
    NAMES,
    BytesTensor,
    Fp16Tensor,
    Fp32Tensor,
    Int64Tensor,
    Tensor,
    UInt64Tensor,
)

__all__ = ["Batch", "Validator"]

Column = list[Any] | NDArray[Any] | bytes
"""Values of one input, `[rows]`, a vector's row after row: a list from JSON and of strings; numbers
of a large or a binary request are an array, or if they are FP32 already their bytes."""
FP32 = DTYPES[Fp32Tensor]
NAN = float("nan")
NAN_BYTES = np.array(NAN, FP32).tobytes()

TYPES: dict[str, tuple[type, ...]] = {"BYTES": (BytesTensor,), "FP32": tuple(DTYPES)}
KEY_TYPES = (BytesTensor, Int64Tensor)
ROW_ID_TYPES = (BytesTensor,)


class Batch(Struct, gc=False):
    """A request that was found good."""

    rows: int
    numbers: NDArray[np.float32]
    """Inputs of type FP32 in the manifest's order, `[lanes, rows]`, a vector being as many lanes as
    it has numbers; NaN is missing."""
    texts: NDArray[np.object_]
    """Inputs of type BYTES in the manifest's order, `[inputs, rows]`; "" is missing."""
    keys: dict[str, Sequence[Any]]
    """Join keys, `[rows]`; None is an unknown key."""
    row_ids: Sequence[str | None] | None
    """Values of the manifest's `row_id` column."""
    views: tuple[FeatureView, ...]
    """Views whose features the caller left to the online store …"""
    given: Set[str]
    """… among them; all other features are still missing in `numbers` and `texts`."""


class Validator:
    """Checks requests against one model's manifest."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        max_rows: int,
        max_text_length: int,
        nan_policy: Literal["allow", "reject"],
    ) -> None:
        self._max_rows = max_rows
        self._max_text_length = max_text_length
        self._nan_policy = nan_policy
        self._output = manifest.output
        self._row_id = manifest.row_id
        self._inputs = {column.name for column in manifest.inputs}
        self._numbers = manifest.of_type("FP32")
        self._widths = {c.name: c.width for c in manifest.inputs if c.width > 1}
        self._texts = manifest.of_type("BYTES")
        self._required = {c.name for c in manifest.inputs if c.origin == "request"}
        self._views = {
            feature.name: view for view in manifest.features.views for feature in view.fields
        }
        self._features = [c.name for c in manifest.inputs if c.origin == "feature"]
        self._keys = manifest.entities
        self._types: dict[str, tuple[type, ...]] = {manifest.row_id: ROW_ID_TYPES}
        self._types |= dict.fromkeys(manifest.entities, KEY_TYPES)
        self._types |= {column.name: TYPES[column.datatype] for column in manifest.inputs}
        # Lists of these are looked at only if numpy cannot make numbers of them: at 32 rows looking
        # takes as long as that.
        self._unseen = set(self._numbers) - set(self._keys) if nan_policy == "allow" else set[str]()

    def check(self, request: InferRequest, raw: Mapping[str, bytes]) -> Batch:
        """Return the request's columns; raises Rejected with what was expected and found.

        `raw` holds the values of inputs whose tensors have no `data`, as `unpack` reads them.
        """
        if request.outputs:
            self._check_outputs(request.outputs)
        tensors = self._named(request.inputs)
        if absent := self._required - tensors.keys():
            raise Rejected("missing_input", f"the input {_list(absent)} is required and not given")
        views = self._views_to_read(tensors)
        rows = self._rows(request.inputs)
        data = {name: self._column(tensor, rows, raw) for name, tensor in tensors.items()}
        for tensor in tensors.values():
            if type(tensor) is BytesTensor:
                self._refuse_long(tensor.name, data[tensor.name])
        if self._nan_policy == "reject":
            _refuse_null(data, self._inputs)
        missing = [""] * rows
        texts = [_texts(data.get(name, missing)) for name in self._texts]
        numbers = self._json_numbers
        if self._widths:
            numbers = self._vectors
        elif raw or np.ndarray in map(type, data.values()):
            numbers = self._joined_numbers
        return Batch(
            rows,
            numbers(data, tensors, rows),
            np.array(texts, np.object_).reshape(-1, rows),
            {key: _as_list(data[key]) for key in self._keys if key in data},
            data.get(self._row_id),  # type: ignore[arg-type]  # of BYTES: a list
            views,
            data.keys(),
        )

    def _refuse_long(self, name: str, values: Column) -> None:
        limit = self._max_text_length
        if any(value is not None and len(value) > limit for value in values):  # type: ignore[arg-type]
            raise Rejected(
                "invalid_request",
                f"input '{name}' holds a text that is longer than {limit} characters",
            )

    def _check_outputs(self, outputs: list[RequestedOutput]) -> None:
        for output in outputs:
            if output.name != self._output:
                raise Rejected(
                    "unknown_output",
                    f"there is no output '{output.name:.80}'; this model has '{self._output}'",
                )
            for name in ("classification", "shared_memory_region"):
                if getattr(output.parameters, name) is not UNSET:
                    raise Rejected(
                        "unsupported", f"output '{output.name}': {name} is not supported"
                    )
        if len(outputs) > 1:
            raise Rejected("duplicate_output", f"output '{self._output}' is selected twice")

    def _json_numbers(
        self, data: Mapping[str, Any], tensors: Mapping[str, Tensor], rows: int
    ) -> NDArray[np.float32]:
        missing = [NAN] * rows
        columns = [data.get(name, missing) for name in self._numbers]
        try:
            numbers = np.fromiter(chain(*columns), FP32, rows * len(columns))
        except (TypeError, ValueError):  # null or a nested list is among them
            flat = [_flat(tensors[n], data[n]) if n in data else missing for n in self._numbers]
            numbers = np.array(flat, FP32)
        return numbers.reshape(-1, rows)

    def _joined_numbers(
        self, data: Mapping[str, Column], tensors: Mapping[str, Tensor], rows: int
    ) -> NDArray[np.float32]:
        """Put the columns' bytes together; unlike JSON's numbers these may be infinite."""
        missing = NAN_BYTES * rows
        columns = {name: data.get(name, missing) for name in self._numbers}
        parts: list[Any] = [
            column if isinstance(column, bytes) else _as_fp32(tensors[name], column)
            for name, column in columns.items()
        ]
        numbers = np.frombuffer(bytearray().join(parts), FP32).reshape(-1, rows)
        if (infinite := np.isinf(numbers)).any():
            raise self._beyond(infinite)
        return numbers

    def _beyond(self, infinite: NDArray[np.bool_]) -> Rejected:
        """Build the refusal of numbers at the places, `[lanes, rows]`, that are true."""
        place, row = np.argwhere(infinite)[0]
        lanes = [name for name in self._numbers for _ in range(self._widths.get(name, 1))]
        return Rejected(
            "invalid_request",
            f"input '{lanes[place]}' holds a number beyond the range of FP32, in row {row}; a "
            "missing number is NaN",
        )

    def _vectors(
        self, data: Mapping[str, Column], tensors: Mapping[str, Tensor], rows: int
    ) -> NDArray[np.float32]:
        """Put numbers and vectors together, each vector as its lanes."""
        parts = [
            _as_fp32(tensors[name], data[name], self._widths.get(name, 1))
            if name in data
            else np.full(rows, NAN, FP32)
            for name in self._numbers
        ]
        parts = [part.reshape(rows, -1).T for part in parts]
        numbers = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if (infinite := np.isinf(numbers)).any():
            raise self._beyond(infinite)
        return numbers

    def _named(self, inputs: list[Tensor]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for tensor in inputs:
            name = tensor.name
            types, kind = self._types.get(name), type(tensor)
            if types is None:
                raise Rejected(
                    "unknown_input",
                    f"there is no input '{name:.80}'; this model knows {_list(self._types)}",
                )
            if kind is not types[0]:
                if kind not in types:
                    expected = " or ".join(NAMES[known] for known in types)
                    raise Rejected(
                        "wrong_datatype",
                        f"input '{name}' has datatype {NAMES[kind]}, expected {expected}",
                    )
                _refuse_unfit(tensor)
            if name in tensors:
                raise Rejected("duplicate_input", f"input '{name}' is given twice")
            tensors[name] = tensor
        return tensors

    def _views_to_read(self, tensors: dict[str, Tensor]) -> tuple[FeatureView, ...]:
        """Return the views of the features that were not given; their keys must be."""
        views: dict[str, FeatureView] = {}
        for feature in self._features:
            if feature in tensors:
                continue
            view = self._views[feature]
            views[view.name] = view
            if absent := set(view.join_keys) - tensors.keys():
                raise Rejected(
                    "missing_input",
                    f"input '{feature}' is not given, and cannot be looked up without the key "
                    f"{_list(absent)} of view '{view.name}'; give one or the other",
                )
        return tuple(views.values())

    def _rows(self, inputs: list[Tensor]) -> int:
        """Return the number of rows that the first input announces; `_flat` holds all to it."""
        rows = inputs[0].shape[0] if inputs and inputs[0].shape else 0
        if not 1 <= rows <= self._max_rows:
            raise Rejected(
                "wrong_row_count", f"the request has {rows} rows, expected 1 to {self._max_rows}"
            )
        return rows

    def _column(self, tensor: Tensor, rows: int, raw: Mapping[str, bytes]) -> Column:
        """Return a tensor's values, which must be as many as its shape and the request say."""
        width = self._widths.get(tensor.name, 1)
        if tensor.shape != [rows, width] and (width > 1 or tensor.shape != [rows]):
            expected = f"[N, {width}]" if width > 1 else "[N] or [N, 1]"
            raise Rejected(
                "wrong_shape",
                f"input '{tensor.name}' has shape {tensor.shape}, expected {expected}, with N = "
                f"{rows} as the first input has",
            )
        if tensor.data is UNSET:
            return unpack(tensor, raw[tensor.name], rows * width)
        data: list[Any] | NDArray[Any] = tensor.data
        seen = tensor.name not in self._unseen or len(data) != rows * width
        if seen and isinstance(data, list):
            data = _flat(tensor, data, width)
        if len(data) != rows * width:
            raise Rejected(
                "wrong_length",
                f"input '{tensor.name}' has {len(data)} values, its shape {tensor.shape} needs "
                f"{rows * width}",
            )
        return data


def _flat(tensor: Tensor, data: list[Any], width: int = 1) -> list[Any]:
    """Return values that may be nested row by row; raises Rejected."""
    if list not in map(type, data):
        return data
    if len(tensor.shape) != 2 or not all(type(x) is list and len(x) == width for x in data):
        raise Rejected(
            "wrong_shape",
            f"the data of input '{tensor.name}' is nested otherwise than its shape {tensor.shape} "
            "says",
        )
    return list(chain.from_iterable(data))


def _refuse_unfit(tensor: Tensor) -> None:
    """Refuse JSON values that msgspec cannot tell from good ones."""
    if tensor.data is UNSET:
        return
    if type(tensor) is Fp16Tensor:
        raise Rejected(
            "wrong_datatype",
            f"input '{tensor.name}' has FP16 values in JSON, expected them as binary data",
        )
    if type(tensor) is UInt64Tensor:
        values: list[Any] = tensor.data
        flat = chain.from_iterable(x if type(x) is list else [x] for x in values)
        if any(value is not None and value >= 2**64 for value in flat):
            raise Rejected(
                "invalid_request",
                f"input '{tensor.name}' of UINT64 holds a value above {2**64 - 1}",
            )


def _as_fp32(tensor: Tensor, values: Column, width: int = 1) -> NDArray[np.float32]:
    """Return values as FP32: null is NaN, what is too large infinite; raises Rejected."""
    if isinstance(values, bytes):
        return np.frombuffer(values, FP32)
    if isinstance(values, np.ndarray):
        with np.errstate(over="ignore"):
            return values.astype(FP32)
    try:
        return np.fromiter(values, FP32, len(values))
    except (TypeError, ValueError):  # null or a nested list is among them
        return np.array(_flat(tensor, values, width), FP32)


def _as_list(values: Column) -> list[Any]:
    if isinstance(values, bytes):
        values = np.frombuffer(values, FP32)
    return values.tolist() if isinstance(values, np.ndarray) else values


def _texts(values: Column) -> Column:
    """Replace null; numpy itself makes NaN of it among numbers."""
    return ["" if value is None else value for value in values] if None in values else values


def _refuse_null(data: Mapping[str, Column], inputs: set[str]) -> None:
    for name in inputs & data.keys():
        if any(value is None or value != value for value in _as_list(data[name])):
            raise Rejected(
                "missing_value", f"input '{name}' holds null or NaN, this server refuses it"
            )


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in sorted(names))
