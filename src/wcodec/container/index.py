# SPDX-License-Identifier: Apache-2.0
"""The index (docs/format.md section 9): one entry for each record, parsed and validated as a whole.

An index of 100,000 layers is opened before the first tensor, so its rules on fixed fields are
checked for all entries at once in numpy; one Python loop then finds where entries begin, and one
makes the objects and checks what is text. The file offsets are trusted only after _check_places:
from there on every range lies inside the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from wcodec import dtypes
from wcodec.block_header import BLOCK_ALIGNMENT
from wcodec.container import frame
from wcodec.container.constants import (
    BLOCK_HEADER_BYTES,
    CRC_BYTES,
    ENTRY_FIXED_BYTES,
    FAMILIES,
    FLAG_ZSTD,
    HEAD_FIXED_BYTES,
    INDEX_HEAD_BYTES,
    INDEX_MAGIC,
    KIND_REFERENCE,
    MAX_DTYPE_BYTES,
    RECORD_ALIGNMENT,
)
from wcodec.container.head import LayerHead, block_fields, head_bytes, shape_struct, unit_problem
from wcodec.container.records import decode_text
from wcodec.errors import CorruptError
from wcodec.limits import ReadLimits

_INDEX_HEAD = struct.Struct("<4sIQQQ")
_ENTRY = struct.Struct("<QQQQIIIIHHBBBB")
_IS_FAMILY = np.isin(np.arange(256), list(FAMILIES))
_ENTRY_FIELDS = np.dtype(
    [
        ("record_offset", "<u8"),
        ("record_bytes", "<u8"),
        ("directory_offset", "<u8"),
        ("data_bytes", "<u8"),
        ("record_crc", "<u4"),
        ("n_blocks", "<u4"),
        ("name_bytes", "<u4"),
        ("target_bytes", "<u4"),
        ("dtype_bytes", "<u2"),
        ("rank", "<u2"),
        ("kind", "u1"),
        ("family", "u1"),
        ("unit_bytes", "u1"),
        ("reserved", "u1"),
    ]
)
_LENGTHS = struct.Struct("<IIHH")  # name, target, dtype, rank
_LENGTHS_OFFSET = 40

_HEAD_FIELDS = ("name", "dtype", "shape", "data_bytes", "kind", "family", "unit_bytes", "target")

_Fields = npt.NDArray[np.void]  # an array of _ENTRY_FIELDS
_U64s = npt.NDArray[np.uint64]
_Mask = npt.NDArray[np.bool_]


class IndexEntry(NamedTuple):
    """What the index says about a layer.

    Offsets and sizes in bytes: `record_offset` from the start of the file, `directory_offset` from
    the start of the record (0 for a reference).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data_bytes: int
    kind: int
    family: int
    unit_bytes: int
    target: str
    record_offset: int
    record_bytes: int
    directory_offset: int
    record_crc: int
    n_blocks: int

    @property
    def is_reference(self) -> bool:
        return self.kind == KIND_REFERENCE

    @property
    def record_end(self) -> int:
        return self.record_offset + self.record_bytes

    @property
    def head_bytes(self) -> int:
        """Size of the head of the record, its CRC included."""
        name, dtype, target = (
            len(self.name.encode("utf-8")),
            len(self.dtype.encode("utf-8")),
            len(self.target.encode("utf-8")),
        )
        return head_bytes(len(self.shape), name, dtype, target)

    def unpack_head(self, data: bytes, where: str, limits: ReadLimits) -> LayerHead:
        """Return the head of the record, of exactly `data`, which must say the same. Raises
        CorruptError.
        """
        # What is the same as in the index was checked there: that much faster.
        head = LayerHead(
            self.name, self.dtype, self.shape, self.data_bytes, self.kind, self.family,
            self.unit_bytes, self.target, *block_fields(data),
        )  # fmt: skip
        if head.pack() != data or head.kind_problem() is not None:
            head = LayerHead.unpack(data, where, limits)
            self._check_head(head)
        return head

    def _check_head(self, head: LayerHead) -> None:
        """Raise CorruptError if the head of the record says something else."""
        for field, found, expected in zip(_HEAD_FIELDS, head, self, strict=False):
            if found != expected:
                raise CorruptError(
                    f"layer {self.name!r:.200}: {field} of the record is {found!r:.200}, "
                    f"index says {expected!r:.200}"
                )


def entry_of(
    head: LayerHead,
    *,
    record_offset: int,
    record_bytes: int,
    directory_offset: int,
    record_crc: int,
    n_blocks: int,
) -> IndexEntry:
    """Return the index entry of a record with this head."""
    return IndexEntry(
        name=head.name,
        dtype=head.dtype,
        shape=head.shape,
        data_bytes=head.data_bytes,
        kind=head.kind,
        family=head.family,
        unit_bytes=head.unit_bytes,
        target=head.target,
        record_offset=record_offset,
        record_bytes=record_bytes,
        directory_offset=directory_offset,
        record_crc=record_crc,
        n_blocks=n_blocks,
    )


def pack_body(entries: Iterable[IndexEntry]) -> bytes:
    """Return the entries as the body of an index, uncompressed."""
    parts: list[bytes] = []
    for entry in entries:
        name, dtype, target = (t.encode("utf-8") for t in (entry.name, entry.dtype, entry.target))
        fixed = _ENTRY.pack(
            entry.record_offset,
            entry.record_bytes,
            entry.directory_offset,
            entry.data_bytes,
            entry.record_crc,
            entry.n_blocks,
            len(name),
            len(target),
            len(dtype),
            len(entry.shape),
            entry.kind,
            entry.family,
            entry.unit_bytes,
            0,
        )
        parts += (fixed, shape_struct(len(entry.shape)).pack(*entry.shape), name, dtype, target)
    return b"".join(parts)


def pack_index(entries: Mapping[str, IndexEntry]) -> bytes:
    """Return the index as it is stored, its head included."""
    body = pack_body(entries.values())
    stored, is_zstd = frame.store(body)
    flags = FLAG_ZSTD if is_zstd else 0
    return _INDEX_HEAD.pack(INDEX_MAGIC, flags, len(stored), len(body), len(entries)) + stored


class IndexHead(NamedTuple):
    """The first 32 bytes of an index; sizes in bytes."""

    is_zstd: bool
    stored_bytes: int
    body_bytes: int
    n_layers: int

    @staticmethod
    def unpack(data: bytes, limits: ReadLimits) -> IndexHead:
        """Return the head of an index, within the limits. Raises CorruptError, LimitError."""
        magic, flags, stored_bytes, body_bytes, n_layers = _INDEX_HEAD.unpack(data)
        if magic != INDEX_MAGIC:
            raise CorruptError(f"index: starts with {magic!r}, expected {INDEX_MAGIC!r}")
        if flags & ~FLAG_ZSTD:
            raise CorruptError(f"index: flags are {flags:#x}, known is {FLAG_ZSTD:#x}")
        if not flags & FLAG_ZSTD and stored_bytes != body_bytes:
            raise CorruptError(
                f"index: body is {body_bytes} bytes, stored as they are in {stored_bytes}"
            )
        if n_layers * ENTRY_FIXED_BYTES > body_bytes:
            raise CorruptError(f"index: {body_bytes} bytes cannot hold {n_layers} layers")
        limits.check("n_layers", n_layers, "index: number of layers")
        limits.check("index_bytes", max(stored_bytes, body_bytes), "index: size")
        return IndexHead(bool(flags & FLAG_ZSTD), stored_bytes, body_bytes, n_layers)


def parse_index(
    data: bytes,
    *,
    first_record_offset: int,
    index_offset: int,
    references: bool,
    limits: ReadLimits,
) -> dict[str, IndexEntry]:
    """Return the entries of a stored index by name, in the order of the file.

    The records must fill the file from `first_record_offset` to `index_offset`. `references` says
    whether the metadata allows them. Raises CorruptError, LimitError.
    """
    if len(data) < INDEX_HEAD_BYTES:
        raise CorruptError(f"index: {len(data)} bytes, its head has {INDEX_HEAD_BYTES}")
    head = IndexHead.unpack(data[:INDEX_HEAD_BYTES], limits)
    if INDEX_HEAD_BYTES + head.stored_bytes != len(data):
        raise CorruptError(
            f"index: body is stored in {head.stored_bytes} bytes, "
            f"footer says {len(data) - INDEX_HEAD_BYTES}"
        )
    body = frame.load(data[INDEX_HEAD_BYTES:], head.body_bytes, head.is_zstd, "index")
    starts = _entry_starts(body, head.n_layers)
    fields = _fixed_fields(body, starts)
    _check_limits(fields, limits)
    _check_places(fields, first_record_offset, index_offset)
    _check_kinds(fields, references)
    return _entries(body, starts, fields)


def _entry_starts(body: bytes, n_layers: int) -> list[int]:
    starts = []
    at = 0
    unpack = _LENGTHS.unpack_from
    try:
        for _ in range(n_layers):
            starts.append(at)
            name_bytes, target_bytes, dtype_bytes, rank = unpack(body, at + _LENGTHS_OFFSET)
            at += ENTRY_FIXED_BYTES + 8 * rank + name_bytes + target_bytes + dtype_bytes
    except struct.error:
        at = len(body) + 1
    if at > len(body):
        raise CorruptError(f"index: {n_layers} entries do not fit its {len(body)} bytes")
    if at < len(body):
        raise CorruptError(f"index: {len(body) - at} bytes after the last entry")
    return starts


def _fixed_fields(body: bytes, starts: list[int]) -> _Fields:
    if not starts:
        return np.empty(0, _ENTRY_FIELDS)
    windows = sliding_window_view(np.frombuffer(body, np.uint8), ENTRY_FIXED_BYTES)
    fields: _Fields = windows[starts].view(_ENTRY_FIELDS)[:, 0]
    return fields


def _check_limits(fields: _Fields, limits: ReadLimits) -> None:
    names = np.maximum(fields["name_bytes"], fields["target_bytes"])
    for limit, values, what in (
        ("rank", fields["rank"], "rank"),
        ("name_bytes", names, "size of a name"),
        ("n_blocks", fields["n_blocks"], "number of blocks"),
        ("layer_bytes", fields["data_bytes"], "decoded size"),
    ):
        if len(values):
            worst = int(values.argmax())
            limits.check(limit, int(values[worst]), f"index: entry {worst}: {what}")


def _check_places(fields: _Fields, first_record_offset: int, index_offset: int) -> None:
    """Check that the records follow each other without gap or overlap and fill the file up to the
    index.
    """
    offset, size = fields["record_offset"], fields["record_bytes"]
    # Both are below the size of the file, so the sum below does not overflow.
    _refuse(offset > index_offset, "record_offset", offset, f"at most {index_offset}")
    _refuse(size > index_offset, "record_bytes", size, f"at most {index_offset}")
    wrong = size % RECORD_ALIGNMENT != 0
    _refuse(wrong, "record_bytes", size, f"a multiple of {RECORD_ALIGNMENT}")
    expected = np.empty(len(fields) + 1, np.uint64)
    expected[0] = first_record_offset
    expected[1:] = offset + size
    _refuse(offset != expected[:-1], "record_offset", offset, expected)
    if expected[-1] != index_offset:
        raise CorruptError(
            f"index: the last record ends at {expected[-1]}, the index begins at {index_offset}"
        )


def _check_kinds(fields: _Fields, references: bool) -> None:
    """Check the fields that do not depend on the other entries; the record must have just the size
    they say.
    """
    lengths = (
        fields["name_bytes"].astype(np.uint64) + fields["dtype_bytes"] + fields["target_bytes"]
    )
    head = lengths + np.uint64(8) * fields["rank"] + np.uint64(HEAD_FIXED_BYTES + CRC_BYTES)
    dtype_bytes, kind = fields["dtype_bytes"], fields["kind"]
    wrong = (dtype_bytes < 1) | (dtype_bytes > MAX_DTYPE_BYTES)
    _refuse(wrong, "dtype_bytes", dtype_bytes, f"1 to {MAX_DTYPE_BYTES}")
    _refuse(fields["reserved"] != 0, "the reserved byte", fields["reserved"], "0")
    _refuse(kind > KIND_REFERENCE, "kind", kind, "0 or 1")
    is_reference = kind == KIND_REFERENCE
    if not references:
        _refuse(is_reference, "kind", kind, "0, since the metadata allows no references")
    _check_references(fields, is_reference, head)
    _check_stored(fields, ~is_reference, head)


def _check_references(fields: _Fields, chosen: _Mask, head: _U64s) -> None:
    for field in ("directory_offset", "n_blocks", "family", "unit_bytes"):
        _refuse(chosen & (fields[field] != 0), field, fields[field], "0 in a reference")
    size, expected = fields["record_bytes"], _aligned(head, RECORD_ALIGNMENT)
    _refuse(chosen & (size != expected), "record_bytes", size, expected)


def _check_stored(fields: _Fields, chosen: _Mask, head: _U64s) -> None:
    target_bytes, family, size = fields["target_bytes"], fields["family"], fields["record_bytes"]
    n_blocks = fields["n_blocks"].astype(np.uint64)
    directory = fields["directory_offset"]
    _refuse(chosen & (target_bytes != 0), "target_bytes", target_bytes, "0 in a stored layer")
    _refuse(chosen & ~_IS_FAMILY[family], "family", family, f"one of {sorted(FAMILIES)}")
    wrong = (n_blocks == 0) != (fields["data_bytes"] == 0)
    _refuse(chosen & wrong, "n_blocks", n_blocks, "0 in a layer without bytes, and only there")

    # Bounded by the size of the record, so that the end of the directory below does not overflow.
    _refuse(chosen & (directory > size), "directory_offset", directory, "inside the record")
    wrong = directory % BLOCK_ALIGNMENT != 0
    _refuse(chosen & wrong, "directory_offset", directory, f"a multiple of {BLOCK_ALIGNMENT}")
    least = _aligned(head, BLOCK_ALIGNMENT) + np.uint64(BLOCK_HEADER_BYTES) * n_blocks
    wrong = (directory < least) | ((n_blocks == 0) & (directory != least))
    _refuse(chosen & wrong, "directory_offset", directory, least)
    directory_end = directory + np.uint64(BLOCK_HEADER_BYTES) * (n_blocks + np.uint64(1))
    expected = _aligned(directory_end, RECORD_ALIGNMENT)
    _refuse(chosen & (size != expected), "record_bytes", size, expected)


def _aligned(values: _U64s, alignment: int) -> _U64s:
    mask = np.uint64(alignment - 1)
    return (values + mask) & ~mask


def _refuse(
    wrong: _Mask,
    field: str,
    found: npt.NDArray[np.generic],
    expected: object,
) -> None:
    """Raise CorruptError for the first entry where `wrong` holds; `expected` is text or an array
    like `found`.
    """
    if not wrong.any():
        return
    entry = int(wrong.argmax())
    wanted = expected[entry] if isinstance(expected, np.ndarray) else expected
    raise CorruptError(f"index: entry {entry}: {field} is {found[entry]}, expected {wanted}")


def _entries(body: bytes, starts: list[int], fields: _Fields) -> dict[str, IndexEntry]:
    layers: dict[str, IndexEntry] = {}
    # Layers of a model repeat few shapes: each pair of shape and dtype is checked once.
    kinds: dict[tuple[bytes, bytes], _TensorKind] = {}
    for at, row in zip(starts, fields.tolist(), strict=True):
        (
            record_offset, record_bytes, directory_offset, data_bytes, record_crc, n_blocks,
            name_bytes, target_bytes, dtype_bytes, rank, kind, family, unit_bytes, _,
        ) = row  # fmt: skip
        shape_at = at + ENTRY_FIXED_BYTES
        name_at = shape_at + 8 * rank
        dtype_at = name_at + name_bytes
        target_at = dtype_at + dtype_bytes
        name = decode_text(body[name_at:dtype_at], "index: name")
        key = body[shape_at:name_at], body[dtype_at:target_at]
        tensor = kinds.get(key)
        if tensor is None:
            tensor = kinds[key] = _TensorKind.unpack(*key)
        target = ""
        if target_bytes:
            target = decode_text(body[target_at : target_at + target_bytes], "index: target")
        entry = IndexEntry(
            name, tensor.dtype, tensor.shape, data_bytes, kind, family, unit_bytes, target,
            record_offset, record_bytes, directory_offset, record_crc, n_blocks,
        )  # fmt: skip
        if name in layers:
            raise CorruptError(f"index: two layers are named {name!r:.200}")
        if kind == KIND_REFERENCE:
            _raise(name, target_problem(entry, layers))
        else:
            _raise(name, unit_problem(unit_bytes, tensor.unit_bytes))
        if 8 * data_bytes != tensor.n_bits and tensor.n_bits is not None:
            _raise(name, f"data_bytes is {data_bytes}, its elements have {tensor.n_bits} bits")
        layers[name] = entry
    return layers


class _TensorKind(NamedTuple):
    """A dtype and a shape; n_bits is None for a dtype that is not known."""

    dtype: str
    shape: tuple[int, ...]
    n_bits: int | None
    unit_bytes: int

    @staticmethod
    def unpack(raw_shape: bytes, raw_dtype: bytes) -> _TensorKind:
        dtype = decode_text(raw_dtype, "index: dtype")
        shape = shape_struct(len(raw_shape) // 8).unpack(raw_shape)
        if dtypes.overflows(dtype, shape):
            raise CorruptError(f"index: size of shape {list(shape)} overflows 64 bits")
        return _TensorKind(dtype, shape, dtypes.data_bits(dtype, shape), dtypes.unit_bytes(dtype))


def _raise(name: str, problem: str | None) -> None:
    if problem is not None:
        raise CorruptError(f"index: layer {name!r:.200}: {problem}")


def target_problem(layer: LayerHead | IndexEntry, earlier: Mapping[str, IndexEntry]) -> str | None:
    """Return why `layer`, if it is a reference, cannot be one to its target among the `earlier`
    layers, or None.
    """
    if layer.kind != KIND_REFERENCE:
        return None
    target = earlier.get(layer.target)
    if target is None:
        return f"refers to {layer.target!r:.200}, which is no earlier layer"
    if target.is_reference:
        return f"refers to {layer.target!r:.200}, which is a reference itself"
    if target.data_bytes != layer.data_bytes:
        return (
            f"has {layer.data_bytes} bytes, yet refers to {layer.target!r:.200} "
            f"with {target.data_bytes}"
        )
    return None
