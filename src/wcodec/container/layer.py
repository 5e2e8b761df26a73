# SPDX-License-Identifier: Apache-2.0
"""One layer of a file with random access: its head and directory, checked on opening, and its
blocks on request.
"""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from wcodec.block_header import block_name
from wcodec.container.blocks import (
    Blocks,
    Bytes,
    Offsets,
    allocate,
    as_headers,
    block_offsets,
    check_headers,
    directory_bytes,
    unpack_directory,
)
from wcodec.container.constants import READ_SLACK_BYTES
from wcodec.container.head import first_block_offset
from wcodec.container.index import IndexEntry
from wcodec.container.records import check_zero
from wcodec.container.source import Input
from wcodec.errors import CorruptError
from wcodec.limits import ReadLimits
from wcodec.overlap import Buffers

# Records up to this size are read whole when they are opened: the many small layers of a model cost
# one read each.
SMALL_RECORD_BYTES = 64 << 10


class Layer:
    """A layer of an open Reader.

    `head` is what its record says, `entry` the same from the index, `headers` the headers of all
    blocks, `blocks_offset` where the first one begins in the record. A reference has no blocks.
    read_blocks() may be called from several threads at once; take() and finish() go through the
    blocks in order.

    `record` may hold the whole record in memory, and READ_SLACK_BYTES more; else it is what
    `source` shares, or read from there as it is needed. Head and directory are checked here, the
    headers of blocks by check_blocks(), before anything is asked of a layer.
    """

    def __init__(
        self, source: Input, entry: IndexEntry, limits: ReadLimits, record: Bytes | None = None
    ) -> None:
        name, size = entry.name, entry.head_bytes
        where = f"layer {name!r:.200}"
        self.entry = entry
        self.blocks_offset = first_block_offset(size)
        self._source = source
        if record is None:
            record = source.shared(entry.record_offset, entry.record_bytes + READ_SLACK_BYTES)
        self._record = record
        self._taken = 0
        begin, end = self._read_ends()
        self.head = entry.unpack_head(begin[:size], where, limits)
        check_zero(begin[size:], f"{where}: head")
        n = 0 if entry.is_reference else directory_bytes(entry.n_blocks)
        self.headers = unpack_directory(end[:n], name) if n else as_headers(b"")
        check_zero(end[n:], f"{where}: end of the record")

    @functools.cached_property
    def offsets(self) -> Offsets:
        """Where each block begins, from the first, in bytes, and at last where the blocks end."""
        return block_offsets(self.headers)

    def check_count(self, expected: int) -> None:
        """Raise CorruptError if the layer has not so many blocks."""
        if len(self.headers) != expected:
            raise CorruptError(
                f"layer {self.entry.name!r:.200}: has {len(self.headers)} blocks, "
                f"expected {expected}"
            )

    def read_blocks(self, first: int, count: int, *, out: Bytes | None = None) -> Blocks:
        """Read blocks `first` to `first + count`, exclusive, in one read.

        `out` is a contiguous array to read into, of at least READ_SLACK_BYTES more than the blocks
        have; without it one is allocated, or what is in memory already is shared. Raises
        CorruptError for blocks that the layer has not. That a block has the header which the
        directory says, its CRC and its padding are for its decoder to check.
        """
        if first < 0 or count < 0:
            raise ValueError(f"blocks {first} to {first + count}")
        if first + count > len(self.headers):
            raise CorruptError(
                f"layer {self.entry.name!r:.200}: has {len(self.headers)} blocks, "
                f"expected at least {first + count}"
            )
        begin, end = int(self.offsets[first]), int(self.offsets[first + count])
        data = self._read(begin, end, out)
        return Blocks(self.headers[first : first + count], data, end - begin)

    def take(self, count: int, buffers: Buffers | None = None) -> Blocks:
        """Read the next `count` blocks, as read_blocks(), into memory of `buffers`, else new."""
        first, last = self._taken, min(self._taken + count, len(self.headers))
        self._taken += count
        if self._record is not None or buffers is None:
            return self.read_blocks(first, count)
        begin, end = int(self.offsets[first]), int(self.offsets[last])
        memory = buffers.take(end - begin + READ_SLACK_BYTES)
        blocks = self.read_blocks(first, count, out=memory)
        after = min(2 * end - begin, int(self.offsets[-1]))
        self._source.will_need(self.entry.record_offset + self.blocks_offset + end, after - end)
        return blocks

    def finish(self) -> None:
        """Raise CorruptError if blocks are left that take() was not asked for."""
        self.check_count(self._taken)

    def _read_ends(self) -> tuple[bytes, bytes]:
        """Return the record up to the first block, and from the directory on."""
        entry = self.entry
        end = self.blocks_offset if entry.is_reference else entry.directory_offset
        if self._record is None and entry.record_bytes <= SMALL_RECORD_BYTES:
            self._record = allocate(entry.record_bytes)
            self._source.read_into(entry.record_offset, self._record.data[: entry.record_bytes])
        if self._record is not None:
            begin_part = self._record[: self.blocks_offset].tobytes()
            return begin_part, self._record[end : entry.record_bytes].tobytes()
        begin_part, end_part = self._source.read_many(
            [
                (entry.record_offset, self.blocks_offset),
                (entry.record_offset + end, entry.record_bytes - end),
            ]
        )
        return begin_part, end_part

    def _read(self, begin: int, end: int, out: Bytes | None) -> Bytes:
        """The bytes `begin` to `end`, from the first block, and READ_SLACK_BYTES more."""
        at = self.blocks_offset + begin
        if self._record is not None and out is None:
            return self._record[at : at + end - begin + READ_SLACK_BYTES]
        data = _prepare(out, end - begin)
        if self._record is not None:
            data[: end - begin] = self._record[at : at + end - begin]
        else:
            self._source.read_into(self.entry.record_offset + at, data.data[: end - begin])
        return data


def check_blocks(layers: Sequence[Layer], limits: ReadLimits) -> None:
    """Check what directories say of blocks: in all of these layers at once, because each look at an
    array takes as long as a hundred blocks. Raises CorruptError, LimitError.
    """
    is_one = len(layers) == 1
    headers = layers[0].headers
    if not is_one:
        headers = as_headers(b"".join([layer.headers.tobytes() for layer in layers]))
    ends = list(accumulate(len(layer.headers) for layer in layers))

    def name_of(i: int) -> str:
        at = bisect_right(ends, i)
        layer = layers[at]
        return block_name(i - ends[at] + len(layer.headers), layer.entry.name)

    check_headers(headers, name_of, limits)
    offsets = layers[0].offsets if is_one else block_offsets(headers)  # kept for read_blocks()
    begin = 0
    for layer, end in zip(layers, offsets[ends].tolist(), strict=True):
        found, begin = end - begin, end
        expected = layer.entry.directory_offset - layer.blocks_offset
        if found != expected and not layer.entry.is_reference:
            raise CorruptError(
                f"directory of {layer.entry.name!r:.200}: its blocks have {found} bytes, "
                f"the record has {expected}"
            )


def _prepare(out: Bytes | None, n_bytes: int) -> Bytes:
    if out is None:
        return allocate(n_bytes)
    if out.dtype != "uint8" or out.ndim != 1 or not out.flags.c_contiguous:
        raise ValueError("out is not a contiguous array of uint8 with one axis")
    if len(out) < n_bytes + READ_SLACK_BYTES:
        raise ValueError(f"out has {len(out)} bytes, needed are {n_bytes + READ_SLACK_BYTES}")
    out[n_bytes : n_bytes + READ_SLACK_BYTES] = 0
    return out
