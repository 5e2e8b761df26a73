# SPDX-License-Identifier: Apache-2.0
"""Find records without the index: by walking from one to the next and, after damage, by searching.

A record says where it ends, through the header of each block, so a walk reads little of it. What a
scan returns is structurally whole (head, block headers and directory agree, with right CRCs);
whether the payloads are, their own CRCs tell. The bytes of a layer may contain what looks like a
record, a wcodec file stored in a U8 layer say; a walk steps over it, a search after damage may take
it for one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from wcodec.checksum import crc32, crc32_combine
from wcodec.container.blocks import Bytes, directory_bytes, size_of_block, unpack_directory
from wcodec.container.constants import (
    BLOCK_HEADER_BYTES,
    CRC_BYTES,
    FOOTER_BYTES,
    HEAD_FIXED_BYTES,
    INDEX_HEAD_BYTES,
    INDEX_MAGIC,
    KIND_REFERENCE,
    RECORD_ALIGNMENT,
    RECORD_MAGIC,
    align,
)
from wcodec.container.head import LayerHead, check_n_blocks, first_block_offset, head_size
from wcodec.container.index import IndexEntry, IndexHead, entry_of, target_problem
from wcodec.container.records import BLOCK_HEADER_STRUCT, check_zero
from wcodec.container.source import Input
from wcodec.errors import CorruptError, FormatError, TruncatedError
from wcodec.limits import ReadLimits

_FIRST_SEARCH_BYTES = 4 << 10
_SEARCH_BYTES = 16 << 20


class Skipped(NamedTuple):
    """A part of a file that a scan gave up: `size` bytes at `offset`, and why."""

    offset: int
    size: int
    reason: str


def scan_records(
    source: Input, offset: int, limits: ReadLimits
) -> tuple[dict[str, IndexEntry], list[Skipped]]:
    """Return the layers from `offset` on that are structurally whole, and what else there is."""
    # A file takes a read for a block and five for a record, or fewer; one made of heads that share
    # their blocks would take a number that grows with the square of its size.
    counted = _CountedInput(source, source.size // 8 + 1000)
    layers: dict[str, IndexEntry] = {}
    skipped: list[Skipped] = []
    try:
        while offset < source.size and not _index_begins(counted, offset, limits):
            next_offset, reason = _scan_record(counted, offset, layers, limits)
            if reason is not None:
                skipped.append(Skipped(offset, next_offset - offset, reason))
            offset = next_offset
    except _OutOfReadsError:
        reason = "too many damaged records; the search was given up"
        skipped.append(Skipped(offset, source.size - offset, reason))
    return layers, skipped


def _scan_record(
    source: Input, offset: int, layers: dict[str, IndexEntry], limits: ReadLimits
) -> tuple[int, str | None]:
    """Add the layer at `offset` to `layers`; return where to go on, and why the layer was skipped
    if it was.
    """
    try:
        entry = walk_record(source, offset, limits)
        limits.check("n_layers", len(layers) + 1, "file: number of layers")
        _check_new(entry, layers)
    except FormatError as error:
        return _search(source, offset + RECORD_ALIGNMENT, limits), str(error)
    layers[entry.name] = entry
    return entry.record_end, None


def missing_bytes(source: Input, offset: int, limits: ReadLimits, max_reads: int) -> bool:
    """Return whether the file ends before the records from `offset` on, the index and the footer
    do.

    Says no when it cannot tell: when a record is damaged, or after `max_reads` reads.
    """
    counted = _CountedInput(source, max_reads)
    try:
        while _read(counted, offset, len(INDEX_MAGIC)) != INDEX_MAGIC:
            offset = walk_record(counted, offset, limits).record_end
        index = IndexHead.unpack(_read(counted, offset, INDEX_HEAD_BYTES), limits)
        return offset + INDEX_HEAD_BYTES + index.stored_bytes + FOOTER_BYTES > source.size
    except TruncatedError:
        return True
    except (FormatError, _OutOfReadsError):
        return False


def walk_record(source: Input, offset: int, limits: ReadLimits) -> IndexEntry:
    """Return the index entry of the record at `offset`, from its head, block headers and directory.

    The CRC of the entry is the one that the record has if each block has the CRC that its header
    says. Raises TruncatedError if the file ends before the record, CorruptError, LimitError.
    """
    where = f"record at offset {offset}"
    size = head_size(_read(source, offset, HEAD_FIXED_BYTES), where, limits)
    blocks_begin = first_block_offset(size)
    begin = _read(source, offset, blocks_begin)
    head = LayerHead.unpack(begin[:size], where, limits)
    check_zero(begin[size:], f"layer {head.name!r:.200}: head")
    if head.kind == KIND_REFERENCE:
        return _walk_reference(source, offset, head, begin)
    headers, blocks_bytes, record_crc = _walk_blocks(
        source, offset + blocks_begin, head.name, crc32(begin), limits
    )
    n_blocks = len(headers) // BLOCK_HEADER_BYTES
    check_n_blocks(head, n_blocks)
    directory_offset = blocks_begin + blocks_bytes
    size = directory_bytes(n_blocks)
    record_bytes = align(directory_offset + size, RECORD_ALIGNMENT)
    end = _read(source, offset + directory_offset, record_bytes - directory_offset)
    if unpack_directory(end[:size], head.name).tobytes() != headers:
        raise CorruptError(f"directory of {head.name!r:.200}: does not say what the blocks say")
    check_zero(end[size:], f"layer {head.name!r:.200}: end of the record")
    return entry_of(
        head,
        record_offset=offset,
        record_bytes=record_bytes,
        directory_offset=directory_offset,
        record_crc=crc32(end, record_crc),
        n_blocks=n_blocks,
    )


def _walk_reference(source: Input, offset: int, head: LayerHead, begin: bytes) -> IndexEntry:
    record_bytes = align(len(begin), RECORD_ALIGNMENT)
    record = _read(source, offset, record_bytes)
    check_zero(record[len(begin) :], f"layer {head.name!r:.200}: end of the record")
    return entry_of(
        head,
        record_offset=offset,
        record_bytes=record_bytes,
        directory_offset=0,
        record_crc=crc32(record),
        n_blocks=0,
    )


def _walk_blocks(
    source: Input, offset: int, layer: str, record_crc: int, limits: ReadLimits
) -> tuple[bytes, int, int]:
    """Return the headers of the blocks that begin at `offset`, their size, and the record's CRC up
    to the directory.
    """
    headers = bytearray()
    size = 0
    while True:
        header = _read(source, offset + size, BLOCK_HEADER_BYTES)
        n = len(headers) // BLOCK_HEADER_BYTES
        block_bytes = size_of_block(header, n, layer, limits)
        if block_bytes is None:
            return bytes(headers), size, record_crc
        headers += header
        # A block is its own CRC, and then what that covers.
        block_crc = BLOCK_HEADER_STRUCT.unpack(header)[0]
        record_crc = crc32(header[:CRC_BYTES], record_crc)
        record_crc = crc32_combine(record_crc, block_crc, block_bytes - CRC_BYTES)
        size += block_bytes


def _check_new(entry: IndexEntry, layers: dict[str, IndexEntry]) -> None:
    problem = "an earlier layer has the same name" if entry.name in layers else None
    problem = problem or target_problem(entry, layers)
    if problem is not None:
        raise CorruptError(f"layer {entry.name!r:.200}: {problem}")


def _read(source: Input, offset: int, size: int) -> bytes:
    if offset + size > source.size:
        raise TruncatedError(
            f"file: {source.size} bytes, yet a record at its end needs {offset + size} or more"
        )
    return source.read(offset, size)


def _index_begins(source: Input, offset: int, limits: ReadLimits) -> bool:
    """Return whether an index is at `offset` that, with the footer, ends the file."""
    if offset + INDEX_HEAD_BYTES > source.size:
        return False
    try:
        index = IndexHead.unpack(source.read(offset, INDEX_HEAD_BYTES), limits)
    except FormatError:
        return False
    return offset + INDEX_HEAD_BYTES + index.stored_bytes + FOOTER_BYTES == source.size


def _search(source: Input, offset: int, limits: ReadLimits) -> int:
    """Return the first multiple of 64 from `offset` on where a head with a right CRC or the index
    begins, or the end.
    """
    # A short first piece, since much damage is followed soon by the next record, or by more damage.
    longest = _FIRST_SEARCH_BYTES
    while offset < source.size:
        size = min(longest, source.size - offset)
        longest = min(2 * longest, _SEARCH_BYTES)
        piece = np.frombuffer(source.read(offset, size), np.uint8)
        for at in _candidates(piece):
            if _record_begins(source, offset + at, limits) or _index_begins(
                source, offset + at, limits
            ):
                return offset + at
        offset += size
    return source.size


def _candidates(piece: Bytes) -> list[int]:
    whole = (len(piece) + RECORD_ALIGNMENT - 4) // RECORD_ALIGNMENT
    starts = np.arange(whole) * RECORD_ALIGNMENT
    magics = piece[starts[:, None] + np.arange(4)].view("S4")[:, 0]
    return [int(at) for at in starts[(magics == RECORD_MAGIC) | (magics == INDEX_MAGIC)]]


def _record_begins(source: Input, offset: int, limits: ReadLimits) -> bool:
    where = f"record at offset {offset}"
    try:
        size = head_size(_read(source, offset, HEAD_FIXED_BYTES), where, limits)
        LayerHead.unpack(_read(source, offset, size), where, limits)
    except FormatError:
        return False
    return True


class _OutOfReadsError(Exception):
    """A walk has used up the reads it was given."""


class _CountedInput(Input):
    """An Input that may be read a limited number of times."""

    def __init__(self, source: Input, max_reads: int) -> None:
        self._source = source
        self._left = max_reads
        self.size = source.size

    def read_into(self, offset: int, out: memoryview) -> None:
        if self._left == 0:
            raise _OutOfReadsError
        self._left -= 1
        self._source.read_into(offset, out)
