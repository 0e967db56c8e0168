"""Parquet files, as far as a log needs them: columns of values and of lists, written row by row.

https://parquet.apache.org/docs/file-format/. One data page a column and row group, LZ4, levels and
places as the format's RLE/bit-packed hybrid, no statistics. The metadata are Thrift structures in
the compact protocol: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.

It is our own because the libraries cost an answer more than the model does: arrow-rs (arro3) holds
the interpreter while it encodes, pyarrow takes 28 MB (docs/serving.md has the figures). Here numpy
and LZ4 do the work, in calls of microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple

import lz4.block
import numpy as np
from numpy.typing import NDArray

__all__ = [
    *("BOOL", "DOUBLE", "FLOAT", "INSTANT", "TEXT"),
    *("Chunk", "Column", "File", "Kind", "chosen", "lists", "nothing", "plain", "vectors"),
]

MAGIC = b"PAR1"
AUTHOR = "tidemill"
Thrift = tuple[int, bytes]
"""A value in the compact protocol: the number of its type, and its bytes."""


BYTES = [bytes([number]) for number in range(256)]


def _varint(number: int) -> bytes:
    """Return an unsigned number as seven bits a byte, the lowest first (ULEB128)."""
    found = b""
    while number > 0x7F:
        found += BYTES[number & 0x7F | 0x80]
        number >>= 7
    return found + BYTES[number]


def _int(number: int) -> Thrift:
    """Return an `i32`; none here is negative."""
    return 5, _varint(number << 1)


def _long(number: int) -> Thrift:
    """Return an `i64`; none here is negative."""
    return 6, _varint(number << 1)


def _binary(text: str) -> Thrift:
    content = text.encode()
    return 8, _varint(len(content)) + content


def _list(items: Sequence[Thrift]) -> Thrift:
    kind = items[0][0]
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else b"%c" % (0xF0 | kind)
    size = b"" if len(items) < 15 else _varint(len(items))
    return 9, head + size + b"".join([content for _, content in items])


def _struct(fields: dict[int, Thrift]) -> Thrift:
    """Return a structure of fields by their numbers, which ascend by at most 15."""
    parts: list[bytes] = []
    last = 0
    for number, (kind, content) in fields.items():
        parts += (BYTES[number - last << 4 | kind], content)
        last = number
    return 12, b"".join(parts) + STOP


STOP = BYTES[0]
TRUE: Thrift = (1, b"")
EMPTY = _struct({})
OPTIONAL, REPEATED = _int(1), _int(2)
PLAIN, RLE, RLE_DICTIONARY = 0, 3, 8
ENCODINGS = _list([_int(PLAIN), _int(RLE)])
ENCODINGS_OF_PLACES = _list([_int(PLAIN), _int(RLE), _int(RLE_DICTIONARY)])
LZ4_RAW = _int(7)
DATA_PAGE, DICTIONARY_PAGE = _int(0), _int(2)


class Kind(NamedTuple):
    """A type of values."""

    physical: Thrift
    pack: Callable[[Any], bytes]
    """Returns a sequence of values, none of them null, in the encoding PLAIN."""
    logical: Mapping[int, Thrift] = MappingProxyType({})
    """What a schema says besides: the type to readers old and new."""


def _pack_texts(values: Sequence[str]) -> bytes:
    contents = [*map(str.encode, values)]
    lengths = [*map(len, contents)]
    heads = {length: length.to_bytes(4, "little") for length in set(lengths)}
    return b"".join(
        chain.from_iterable(zip(map(heads.__getitem__, lengths), contents, strict=True))
    )


def _pack_moments(values: Sequence[datetime]) -> bytes:
    micros = np.array([moment.microsecond for moment in values])
    seconds = np.rint(np.array([moment.timestamp() for moment in values]) - micros / 1e6)
    found: NDArray[np.int64] = seconds.astype("<i8") * 1_000_000 + micros
    return found.tobytes()


def _pack_as(dtype: str) -> Callable[[Any], bytes]:
    return lambda values: np.asarray(values, dtype).tobytes()


TEXT = Kind(_int(6), _pack_texts, {6: _int(0), 10: _struct({1: EMPTY})})
INSTANT = Kind(
    _int(2),
    _pack_moments,
    {6: _int(10), 10: _struct({8: _struct({1: TRUE, 2: _struct({2: EMPTY})})})},
)
"""A moment, kept in microseconds and UTC."""
FLOAT = Kind(_int(4), _pack_as("<f4"))
DOUBLE = Kind(_int(5), _pack_as("<f8"))
BOOL = Kind(_int(0), lambda values: np.packbits(values, bitorder="little").tobytes())
LIST = {6: _int(3), 10: _struct({3: EMPTY})}


class Column:
    """A column of values that may be null, or of lists that may be."""

    def __init__(self, name: str, kind: Kind, *, lists: bool = False) -> None:
        self.name = name
        self.kind = kind
        self.lists = lists
        names = (name, "list", "element") if lists else (name,)
        self.path = _list([_binary(part) for part in names])
        """From the column down to its values, as a file names it."""

    def schema(self) -> list[Thrift]:
        """Return the `SchemaElement`s; a list has three, an element is never null."""
        leaf = {1: self.kind.physical, 3: OPTIONAL, 4: _binary(self.name), **self.kind.logical}
        if not self.lists:
            return [_struct(leaf)]
        return [
            _struct({3: OPTIONAL, 4: _binary(self.name), 5: _int(1), **LIST}),
            _struct({3: REPEATED, 4: _binary("list"), 5: _int(1)}),
            _struct({**leaf, 3: _int(0), 4: _binary("element")}),
        ]


class Chunk(NamedTuple):
    """What a row group holds of a column."""

    rows: int
    size: int
    """Values, nulls and empty lists among them."""
    content: bytes
    """Levels, then the values, or their places in the dictionary."""
    dictionary: bytes = b""
    entries: int = 0
    """Of the dictionary; 0 if there is none."""


def plain(kind: Kind, values: NDArray[Any]) -> Chunk:
    """Return values, `[rows]`, none of which is null."""
    return Chunk(len(values), len(values), _run(1, len(values)) + kind.pack(values))


def nothing(rows: int, *, lists: bool = False) -> Chunk:
    """Return nulls, of values or instead of lists."""
    return Chunk(rows, rows, _run(0, rows) * (1 + lists))


def chosen(kind: Kind, entries: Sequence[Any], places: NDArray[np.intp]) -> Chunk:
    """Return in row i the entry at `places[i]`; None is null."""
    rows = len(places)
    levels = _run(1, rows)
    if None in entries:
        present = np.array([entry is not None for entry in entries])
        there = present[places]
        if not there.any():
            return nothing(rows)
        levels = _packed(there, 1)
        places = (np.cumsum(present) - 1)[places[there]]
        entries = [entry for entry in entries if entry is not None]
    return Chunk(rows, rows, levels + _indices(places), kind.pack(entries), len(entries))


def vectors(kind: Kind, values: NDArray[Any]) -> Chunk:
    """Return in row i the list `values[i]`; all are equally long and not empty."""
    follows = np.ones(values.shape, bool)
    follows[:, 0] = False
    levels = _packed(follows.reshape(-1), 1) + _run(2, values.size)
    return Chunk(len(values), values.size, levels + kind.pack(values.reshape(-1)))


def lists(kind: Kind, entries: Sequence[Sequence[Any]], places: NDArray[np.intp]) -> Chunk:
    """Return in row i the list at `places[i]`."""
    rows = len(places)
    if not any(entries):
        return Chunk(rows, rows, _run(0, rows) + _run(1, rows))
    lengths = np.array([*map(len, entries)])[places]
    counts = np.maximum(lengths, 1)  # an empty list has levels too
    follows = np.ones(counts.sum(), bool)
    follows[np.cumsum(counts) - counts] = False
    depths = np.repeat(np.where(lengths, 2, 1), counts)
    values = [value for place in places.tolist() for value in entries[place]]
    levels = _packed(follows, 1) + _packed(depths, 2)
    return Chunk(rows, len(follows), levels + kind.pack(values))


def _run(level: int, count: int) -> bytes:
    """Return levels that are all the same."""
    return _sized(_varint(count << 1) + BYTES[level])


def _packed(levels: NDArray[Any], bits: int) -> bytes:
    """Return levels of so many bits each."""
    spread = levels.astype(np.uint8)[:, None] >> np.arange(bits, dtype=np.uint8) & 1
    content = np.packbits(spread, bitorder="little").tobytes()
    return _sized(_groups(len(levels), bits, content))


def _sized(content: bytes) -> bytes:
    return len(content).to_bytes(4, "little") + content


def _indices(places: NDArray[np.intp]) -> bytes:
    """Return places in a dictionary: 8, 16 or 32 bits each, so that they lie as numpy's do."""
    dtype = np.min_scalar_type(places.max()).newbyteorder("<")
    bits = dtype.itemsize * 8
    return BYTES[bits] + _groups(len(places), bits, places.astype(dtype).tobytes())


def _groups(count: int, bits: int, content: bytes) -> bytes:
    """Return a bit-packed run, whose values come in groups of eight."""
    groups = -(-count // 8)
    return _varint(groups << 1 | 1) + content.ljust(groups * bits, STOP)


class File:
    """A file that grows by row groups."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._content = bytearray(MAGIC)
        self._groups: list[Thrift] = []
        self.rows = 0

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Write a row group, a chunk per column; raises ValueError if they differ in rows."""
        (rows,) = {chunk.rows for chunk in chunks}
        written = [self._write(*pair) for pair in zip(self._columns, chunks, strict=True)]
        told, sizes = zip(*written, strict=True)
        self._groups.append(_struct({1: _list(told), 2: _long(sum(sizes)), 3: _long(rows)}))
        self.rows += rows

    def finish(self) -> bytes:
        """Return the whole file; nothing can be added any more."""
        schema = [element for column in self._columns for element in column.schema()]
        root = _struct({4: _binary("schema"), 5: _int(len(self._columns))})
        _, footer = _struct(
            {
                1: _int(1),
                2: _list([root, *schema]),
                3: _long(self.rows),
                4: _list(self._groups),
                6: _binary(AUTHOR),
            }
        )
        self._content += footer + len(footer).to_bytes(4, "little") + MAGIC
        return bytes(self._content)

    def _write(self, column: Column, chunk: Chunk) -> tuple[Thrift, int]:
        """Append a column's pages; return its `ColumnChunk` and its bytes without compression."""
        begin = len(self._content)
        size = 0
        if chunk.entries:
            told = _struct({1: _int(chunk.entries), 2: _int(PLAIN)})
            size = self._append(DICTIONARY_PAGE, chunk.dictionary, {7: told})
        data = len(self._content)
        encoding = RLE_DICTIONARY if chunk.entries else PLAIN
        told = _struct({1: _int(chunk.size), 2: _int(encoding), 3: _int(RLE), 4: _int(RLE)})
        size += self._append(DATA_PAGE, chunk.content, {5: told})
        fields = {
            1: column.kind.physical,
            2: ENCODINGS_OF_PLACES if chunk.entries else ENCODINGS,
            3: column.path,
            4: LZ4_RAW,
            5: _long(chunk.size),
            6: _long(size),
            7: _long(len(self._content) - begin),
            9: _long(data),
        }
        if chunk.entries:
            fields[11] = _long(begin)
        return _struct({2: _long(begin), 3: _struct(fields)}), size

    def _append(self, kind: Thrift, content: bytes, told: dict[int, Thrift]) -> int:
        """Append a page; return how large it is before it is compressed, its head included."""
        packed = lz4.block.compress(content, store_size=False)
        _, head = _struct({1: kind, 2: _int(len(content)), 3: _int(len(packed)), **told})
        self._content += head
        self._content += packed
        return len(head) + len(content)
