# SPDX-License-Identifier: Apache-2.0
"""The index (docs/format.md section 9): one entry for each record, parsed and validated as a whole.

One pass over the entries checks the fixed fields of each and then what is text; an index may have
100,000 of them, and it is opened before the first tensor. Offsets in the file are trusted only
after that: from there on every range lies inside the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NoReturn

from wcodec import dtypes
from wcodec.block_header import BLOCK_ALIGNMENT
from wcodec.container import frame
from wcodec.container.constants import (
    BLOCK_HEADER_BYTES,
    ENTRY_FIXED_BYTES,
    FAMILIES,
    FLAG_ZSTD,
    INDEX_HEAD_BYTES,
    INDEX_MAGIC,
    KIND_REFERENCE,
    KIND_STORED,
    MAX_DTYPE_BYTES,
    RECORD_ALIGNMENT,
    align,
)
from wcodec.container.head import LayerHead, block_fields, head_bytes, shape_struct, unit_problem
from wcodec.container.records import decode_text
from wcodec.errors import CorruptError
from wcodec.limits import ReadLimits

_INDEX_HEAD = struct.Struct("<4sIQQQ")
_ENTRY = struct.Struct("<QQQQIIIIHHBBBB")
_HEAD_FIELDS = ("name", "dtype", "shape", "data_bytes", "kind", "family", "unit_bytes", "target")


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
    layers = _entries(body, head.n_layers, first_record_offset, references, limits)
    end = next(reversed(layers.values())).record_end if layers else first_record_offset
    if end != index_offset:
        raise CorruptError(
            f"index: the last record ends at {end}, the index begins at {index_offset}"
        )
    return layers


def _entries(
    body: bytes, n_layers: int, record_offset: int, references: bool, limits: ReadLimits
) -> dict[str, IndexEntry]:
    """Return the entries of records that follow each other from `record_offset` on."""
    layers: dict[str, IndexEntry] = {}
    # Layers of a model repeat few shapes: each pair of shape and dtype is checked once.
    kinds: dict[tuple[bytes, bytes], _TensorKind] = {}
    at = 0
    for number in range(n_layers):
        if at + ENTRY_FIXED_BYTES > len(body):
            raise _do_not_fit(n_layers, body)
        fixed = _ENTRY.unpack_from(body, at)
        (
            offset, record_bytes, directory_offset, data_bytes, record_crc, n_blocks,
            name_bytes, target_bytes, dtype_bytes, rank, kind, family, unit_bytes, _,
        ) = fixed  # fmt: skip
        shape_at = at + ENTRY_FIXED_BYTES
        name_at = shape_at + 8 * rank
        dtype_at = name_at + name_bytes
        target_at = dtype_at + dtype_bytes
        at = target_at + target_bytes
        if at > len(body):
            raise _do_not_fit(n_layers, body)
        if offset != record_offset:
            _refuse(number, "record_offset", offset, record_offset)
        record_offset += record_bytes
        _check_fixed(number, fixed, references, limits)

        name = decode_text(body[name_at:dtype_at], "index: name")
        key = body[shape_at:name_at], body[dtype_at:target_at]
        tensor = kinds.get(key)
        if tensor is None:
            tensor = kinds[key] = _TensorKind.unpack(*key)
        target = decode_text(body[target_at:at], "index: target") if target_bytes else ""
        entry = IndexEntry(
            name, tensor.dtype, tensor.shape, data_bytes, kind, family, unit_bytes, target,
            offset, record_bytes, directory_offset, record_crc, n_blocks,
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
    if at < len(body):
        raise CorruptError(f"index: {len(body) - at} bytes after the last entry")
    return layers


def _do_not_fit(n_layers: int, body: bytes) -> CorruptError:
    return CorruptError(f"index: {n_layers} entries do not fit its {len(body)} bytes")


def _check_fixed(number: int, fixed: tuple[int, ...], references: bool, limits: ReadLimits) -> None:
    """Check the fields that depend on no other entry; the record must have just the size they
    say.
    """
    (
        _, record_bytes, directory_offset, data_bytes, _, n_blocks, name_bytes, target_bytes,
        dtype_bytes, rank, kind, family, unit_bytes, reserved,
    ) = fixed  # fmt: skip
    if rank > limits.rank:
        limits.check("rank", rank, f"index: entry {number}: rank")
    if name_bytes > limits.name_bytes or target_bytes > limits.name_bytes:
        longest = max(name_bytes, target_bytes)
        limits.check("name_bytes", longest, f"index: entry {number}: size of a name")
    if n_blocks > limits.n_blocks:
        limits.check("n_blocks", n_blocks, f"index: entry {number}: number of blocks")
    if data_bytes > limits.layer_bytes:
        limits.check("layer_bytes", data_bytes, f"index: entry {number}: decoded size")

    if not 1 <= dtype_bytes <= MAX_DTYPE_BYTES:
        _refuse(number, "dtype_bytes", dtype_bytes, f"1 to {MAX_DTYPE_BYTES}")
    if reserved:
        _refuse(number, "the reserved byte", reserved, 0)
    head = head_bytes(rank, name_bytes, dtype_bytes, target_bytes)
    if kind == KIND_REFERENCE:
        if not references:
            _refuse(number, "kind", kind, "0, since the metadata allows no references")
        if directory_offset or n_blocks or family or unit_bytes:
            found = f"{directory_offset}, {n_blocks}, {family}, {unit_bytes}"
            what = "directory_offset, n_blocks, family, unit_bytes"
            _refuse(number, what, found, "0 in a reference")
        expected = align(head, RECORD_ALIGNMENT)
    elif kind == KIND_STORED:
        if target_bytes:
            _refuse(number, "target_bytes", target_bytes, "0 in a stored layer")
        if family not in FAMILIES:
            _refuse(number, "family", family, f"one of {sorted(FAMILIES)}")
        if bool(n_blocks) != bool(data_bytes):
            _refuse(number, "n_blocks", n_blocks, "0 in a layer without bytes, and only there")
        if directory_offset % BLOCK_ALIGNMENT:
            _refuse(
                number, "directory_offset", directory_offset, f"a multiple of {BLOCK_ALIGNMENT}"
            )
        least = align(head, BLOCK_ALIGNMENT) + BLOCK_HEADER_BYTES * n_blocks
        if directory_offset < least or (not n_blocks and directory_offset != least):
            _refuse(number, "directory_offset", directory_offset, least)
        expected = align(directory_offset + BLOCK_HEADER_BYTES * (n_blocks + 1), RECORD_ALIGNMENT)
    else:
        _refuse(number, "kind", kind, "0 or 1")
    if record_bytes != expected:
        _refuse(number, "record_bytes", record_bytes, expected)


def _refuse(entry: int, field: str, found: object, expected: object) -> NoReturn:
    raise CorruptError(f"index: entry {entry}: {field} is {found}, expected {expected}")


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
