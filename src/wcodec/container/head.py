# SPDX-License-Identifier: Apache-2.0
"""The head of a layer record (docs/format.md section 4): what a layer is, before its blocks.

Its own size comes first, so a reader checks that against the other sizes (head_size), then has all
bytes and checks the CRC, then the rules. The rules are one function, LayerHead.problem(), for the
reader (CorruptError) and the writer (ValueError).
"""

from __future__ import annotations

import functools
import struct
from typing import NamedTuple

from wcodec import dtypes
from wcodec.block_header import BLOCK_ALIGNMENT
from wcodec.checksum import crc32
from wcodec.container.constants import (
    CRC_BYTES,
    FAMILIES,
    FLAG_ROW_GROUPS,
    HEAD_FIXED_BYTES,
    KIND_REFERENCE,
    KIND_STORED,
    MAX_DTYPE_BYTES,
    RECORD_MAGIC,
    RESERVED_FAMILIES,
    align,
)
from wcodec.container.records import check_crc, decode_text
from wcodec.errors import CorruptError, UnsupportedError
from wcodec.limits import ReadLimits

_HEAD = struct.Struct("<4sIBBBBHHQIIQIIH6s")
_U32 = struct.Struct("<I")


@functools.cache
def shape_struct(rank: int) -> struct.Struct:
    """Return the struct of `rank` sizes of 64 bits."""
    return struct.Struct(f"<{rank}Q")


class LayerHead(NamedTuple):
    """What the record of a layer says before its blocks.

    Sizes are in bytes except `shape` (elements), `block_rows` and `panel_rows` (rows) and
    `col_bands` (a count). `family` is the coding of its blocks beside raw and constant. A reference
    (`kind` 1) has the bytes of the earlier layer `target` and leaves everything else zero. The
    fields up to `target` are those that an IndexEntry begins with.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data_bytes: int
    kind: int = KIND_STORED
    family: int = 0
    unit_bytes: int = 0
    target: str = ""
    row_groups: bool = False
    row_axes: int = 0
    block_rows: int = 0
    col_bands: int = 0
    panel_rows: int = 0

    @staticmethod
    def reference(
        name: str, dtype: str, shape: tuple[int, ...], data_bytes: int, target: str
    ) -> LayerHead:
        """Return the head of a layer that has the same bytes as the stored layer `target`."""
        return LayerHead(name, dtype, shape, data_bytes, kind=KIND_REFERENCE, target=target)

    def problem(self) -> str | None:
        """Return which rule of docs/format.md section 4 this head breaks, or None.

        block_rows, col_bands and panel_rows describe the block grid and are the codec's to check.
        """
        return _tensor_problem(self) or self.kind_problem()

    def kind_problem(self) -> str | None:
        """Return which rule about the fields of its kind this head breaks, or None."""
        return _stored_problem(self) if self.kind == KIND_STORED else _reference_problem(self)

    def pack(self) -> bytes:
        """Return the head with its CRC; ValueError if a field cannot hold its value."""
        name, dtype, target = (t.encode("utf-8") for t in (self.name, self.dtype, self.target))
        try:
            fixed = _HEAD.pack(
                RECORD_MAGIC,
                head_bytes(len(self.shape), len(name), len(dtype), len(target)),
                self.kind,
                self.family,
                self.unit_bytes,
                FLAG_ROW_GROUPS if self.row_groups else 0,
                self.row_axes,
                len(self.shape),
                self.data_bytes,
                self.block_rows,
                self.col_bands,
                self.panel_rows,
                len(name),
                len(target),
                len(dtype),
                bytes(6),
            )
            head = fixed + shape_struct(len(self.shape)).pack(*self.shape) + name + dtype + target
        except struct.error as error:
            raise ValueError(f"layer {self.name!r:.200}: a field does not fit: {error}") from error
        return head + _U32.pack(crc32(head))

    @staticmethod
    def unpack(data: bytes, where: str, limits: ReadLimits) -> LayerHead:
        """Return the head of exactly `data`. Raises CorruptError, LimitError, UnsupportedError."""
        size = head_size(data, where, limits)
        if size != len(data):
            raise CorruptError(f"{where}: head is {size} bytes, expected {len(data)}")
        (stored_crc,) = _U32.unpack_from(data, len(data) - CRC_BYTES)
        check_crc(f"{where}: head", crc32(data[:-CRC_BYTES]), stored_crc)
        head = _unpack_fields(data, where)
        problem = head.problem()
        if problem is not None:
            if head.kind == KIND_STORED and head.family in RESERVED_FAMILIES:
                raise UnsupportedError(f"layer {head.name!r:.200}: {problem}")
            raise CorruptError(f"layer {head.name!r:.200}: {problem}")
        limits.check("layer_bytes", head.data_bytes, f"layer {head.name!r:.200}: decoded size")
        return head


def head_bytes(rank: int, name_bytes: int, dtype_bytes: int, target_bytes: int) -> int:
    """Return the size of a head with these sizes in it, its CRC included."""
    return HEAD_FIXED_BYTES + 8 * rank + name_bytes + dtype_bytes + target_bytes + CRC_BYTES


def block_fields(data: bytes) -> tuple[bool, int, int, int, int]:
    """Return row_groups, row_axes, block_rows, col_bands and panel_rows of a head, not checked."""
    fields = _HEAD.unpack_from(data)
    return bool(fields[5] & FLAG_ROW_GROUPS), fields[6], *fields[9:12]


def first_block_offset(size_of_head: int) -> int:
    """Return where the first block (or the directory) begins, from the start of the record."""
    return align(size_of_head, BLOCK_ALIGNMENT)


def check_n_blocks(head: LayerHead, n_blocks: int) -> None:
    """Raise CorruptError unless a stored layer has blocks just if it has bytes."""
    if bool(n_blocks) != bool(head.data_bytes):
        raise CorruptError(
            f"layer {head.name!r:.200}: has {n_blocks} blocks for {head.data_bytes} bytes"
        )


def head_size(fixed: bytes, where: str, limits: ReadLimits) -> int:
    """Return the size of the head that begins with the 56 bytes `fixed`, checked and within the
    limits.

    So a reader knows how much to read before it can check the head's CRC. Raises CorruptError,
    LimitError.
    """
    fields = _HEAD.unpack_from(fixed)
    magic, declared, rank = fields[0], fields[1], fields[7]
    name_bytes, target_bytes, dtype_bytes = fields[12:15]
    if magic != RECORD_MAGIC:
        raise CorruptError(f"{where}: starts with {magic!r}, expected {RECORD_MAGIC!r}")
    expected = head_bytes(rank, name_bytes, dtype_bytes, target_bytes)
    if declared != expected:
        raise CorruptError(f"{where}: head_bytes is {declared}, its fields need {expected}")
    limits.check("rank", rank, f"{where}: rank")
    limits.check("name_bytes", max(name_bytes, target_bytes), f"{where}: size of the longest name")
    return expected


def _unpack_fields(data: bytes, where: str) -> LayerHead:
    (
        _, _, kind, family, unit_bytes, flags, row_axes, rank, data_bytes, block_rows, col_bands,
        panel_rows, name_bytes, target_bytes, dtype_bytes, reserved,
    ) = _HEAD.unpack_from(data)  # fmt: skip
    if flags & ~FLAG_ROW_GROUPS or any(reserved):
        raise CorruptError(f"{where}: reserved bits of the head are not zero")
    at = HEAD_FIXED_BYTES + 8 * rank
    texts = []
    for size in (name_bytes, dtype_bytes, target_bytes):
        texts.append(decode_text(data[at : at + size], where))
        at += size
    return LayerHead(
        name=texts[0],
        dtype=texts[1],
        shape=shape_struct(rank).unpack_from(data, HEAD_FIXED_BYTES),
        data_bytes=data_bytes,
        family=family,
        unit_bytes=unit_bytes,
        row_groups=bool(flags & FLAG_ROW_GROUPS),
        row_axes=row_axes,
        block_rows=block_rows,
        col_bands=col_bands,
        panel_rows=panel_rows,
        kind=kind,
        target=texts[2],
    )


def _tensor_problem(head: LayerHead) -> str | None:
    dtype, shape, kind = head.dtype, head.shape, head.kind
    if kind not in (KIND_STORED, KIND_REFERENCE):
        return f"kind is {kind}, known are {KIND_STORED} and {KIND_REFERENCE}"
    if not 1 <= len(dtype.encode("utf-8")) <= MAX_DTYPE_BYTES:
        return f"dtype {dtype!r:.80} is not 1 to {MAX_DTYPE_BYTES} bytes"
    if dtypes.overflows(dtype, shape):
        return f"size of shape {list(shape)} overflows 64 bits"
    n_bits = dtypes.data_bits(dtype, shape)
    if n_bits is not None and n_bits != 8 * head.data_bytes:
        return f"data_bytes is {head.data_bytes}, {dtype} of shape {list(shape)} has {n_bits} bits"
    if kind == KIND_REFERENCE:
        return f"unit_bytes is {head.unit_bytes}, expected 0" if head.unit_bytes else None
    return unit_problem(head.unit_bytes, dtypes.unit_bytes(dtype))


def unit_problem(unit_bytes: int, largest: int) -> str | None:
    """What is wrong with the size of a unit, where the largest is of `largest` bytes; else None."""
    if unit_bytes and largest % unit_bytes == 0:
        return None
    return f"unit_bytes is {unit_bytes}, expected a divisor of {largest}"


def _stored_problem(head: LayerHead) -> str | None:
    if head.target:
        return f"stored, yet it has target {head.target!r:.200}"
    if head.family in RESERVED_FAMILIES:
        return f"family {RESERVED_FAMILIES[head.family]} is reserved for later versions"
    if head.family not in FAMILIES:
        return f"family is {head.family}, known are {sorted(FAMILIES)}"
    if head.row_axes > len(head.shape):
        return f"row_axes is {head.row_axes}, the shape has {len(head.shape)} axes"
    n_bits = dtypes.bits(head.dtype)
    if head.row_axes and (n_bits is None or n_bits % 8):
        return f"row_axes is {head.row_axes}, expected 0 since {head.dtype} is cut by bytes"
    return None


def _reference_problem(head: LayerHead) -> str | None:
    fields = (
        "family", "row_groups", "row_axes", "block_rows", "col_bands", "panel_rows",
    )  # fmt: skip
    for field in fields:
        if getattr(head, field):
            return f"{field} is {getattr(head, field)} in a reference, expected 0"
    return None
