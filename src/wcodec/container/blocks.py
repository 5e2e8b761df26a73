# SPDX-License-Identifier: Apache-2.0
"""Runs of blocks: their headers as an array, their bytes as one buffer that a decoder may read
beyond the end of.

What a block's payload means is the codec's; here a block is 16 bytes of header, payload_bytes, and
zero bytes up to a multiple of 16 (docs/format.md section 6). The directory of a layer has the same
shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wcodec.block_header import BLOCK_ALIGNMENT, BLOCK_HEADER, block_name, block_sizes
from wcodec.checksum import Buffer, crc32
from wcodec.container.constants import (
    BLOCK_HEADER_BYTES,
    CODING_DIRECTORY,
    CRC_BYTES,
    MAX_FILE_BYTES,
    READ_SLACK_BYTES,
    align,
)
from wcodec.container.records import (
    BLOCK_HEADER_STRUCT,
    BlockHeaders,
    check_crc,
)
from wcodec.errors import CorruptError
from wcodec.limits import ReadLimits

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


class Blocks(NamedTuple):
    """Whole consecutive blocks of a layer.

    `data[:n_bytes]` holds them back to back as in the file, headers and padding included; at least
    READ_SLACK_BYTES more follow in `data`, of any value. `headers` are those of the directory or,
    in a stream, those that were read.
    """

    headers: BlockHeaders
    data: Bytes
    n_bytes: int

    @property
    def offsets(self) -> Offsets:
        """Where each block begins in `data`, and at last where the blocks end."""
        return block_offsets(self.headers)


def allocate(n_bytes: int) -> Bytes:
    """Return an array of `n_bytes` to fill, followed by READ_SLACK_BYTES zero bytes."""
    data = np.empty(n_bytes + READ_SLACK_BYTES, np.uint8)
    data[n_bytes:] = 0
    return data


def as_headers(data: Buffer) -> BlockHeaders:
    """Return bytes (or an array of BLOCK_HEADER) as an array of block headers, without a copy."""
    headers: BlockHeaders = np.frombuffer(data, BLOCK_HEADER)
    return headers


def block_offsets(headers: BlockHeaders) -> Offsets:
    """Return where each of these consecutive blocks begins, from the first, and at last where the
    last one ends.

    The payload sizes have been checked (check_headers), so that the sum fits 63 bits.
    """
    offsets = np.zeros(len(headers) + 1, np.uint64)
    block_sizes(headers).cumsum(out=offsets[1:])
    return offsets.view(np.int64)


def check_headers(headers: BlockHeaders, name_of: Callable[[int], str], limits: ReadLimits) -> None:
    """Raise CorruptError or LimitError unless these may be the headers of blocks; `name_of` says
    which block the i-th is.

    Coding, form and n_streams are the codec's to check.
    """
    if not len(headers):
        return
    payload = headers["payload_bytes"]
    for wrong, what in (
        (headers["reserved"] != 0, "the reserved byte of its header is not zero"),
        (headers["coding"] == CODING_DIRECTORY, "is a directory"),
        (payload == 0, "has no payload"),
    ):
        if np.count_nonzero(wrong):
            raise CorruptError(f"{name_of(int(wrong.argmax()))}: {what}")
    worst = int(payload.argmax())
    payload_bytes = int(payload[worst])
    if payload_bytes * len(headers) > MAX_FILE_BYTES:
        where = f"{name_of(worst)}: payload_bytes"
        raise CorruptError(f"{where} is {payload_bytes}, more than a file can hold")
    if payload_bytes > limits.block_bytes:
        limits.check("block_bytes", payload_bytes, f"{name_of(worst)}: payload_bytes")


def inline_headers(data: Bytes, offsets: Offsets) -> BlockHeaders:
    """Return a copy of the headers that stand at `offsets` (multiples of 16) in `data`."""
    whole = len(data) // BLOCK_HEADER_BYTES * BLOCK_HEADER_BYTES
    rows = data[:whole].reshape(-1, BLOCK_HEADER_BYTES)
    return rows[offsets // BLOCK_HEADER_BYTES].view(BLOCK_HEADER).reshape(-1)


def first_difference(found: BlockHeaders, expected: BlockHeaders) -> int | None:
    """Return where two arrays of headers of the same length first differ, or None."""
    if found.tobytes() == expected.tobytes():
        return None
    return int((found != expected).argmax())


def size_of_block(header: bytes, number: int, layer: str, limits: ReadLimits) -> int | None:
    """Return the size of the block that begins with this header, padding included, or None for a
    directory.

    Raises CorruptError, LimitError.
    """
    (_, coding, _, _, reserved, payload_bytes) = BLOCK_HEADER_STRUCT.unpack(header)
    if coding == CODING_DIRECTORY:
        return None
    if reserved or not payload_bytes:
        raise CorruptError(f"{block_name(number, layer)}: header is {header.hex()}")
    if number >= limits.n_blocks:
        limits.check("n_blocks", number + 1, f"layer {layer!r:.200}: number of blocks")
    if payload_bytes > limits.block_bytes:
        where = f"{block_name(number, layer)}: payload_bytes"
        limits.check("block_bytes", payload_bytes, where)
    return align(BLOCK_HEADER_BYTES + payload_bytes, BLOCK_ALIGNMENT)


def pack_directory(headers: bytes) -> bytes:
    """Return the directory of a layer whose block headers are these, ready to be written; a
    multiple of 16 bytes.
    """
    directory = np.zeros(1, BLOCK_HEADER)
    directory["coding"] = CODING_DIRECTORY
    directory["payload_bytes"] = len(headers)
    directory["crc"] = crc32(headers, crc32(directory.tobytes()[CRC_BYTES:]))
    return directory.tobytes() + headers


def directory_bytes(n_blocks: int) -> int:
    """Return the size of the directory of `n_blocks` blocks."""
    return BLOCK_HEADER_BYTES * (n_blocks + 1)


def unpack_directory(data: bytes, layer: str) -> BlockHeaders:
    """Return the headers in a directory of exactly `data`; the mirror of pack_directory. Raises
    CorruptError.
    """
    where = f"directory of {layer!r:.200}"
    crc, coding, form, n_streams, reserved, payload_bytes = BLOCK_HEADER_STRUCT.unpack_from(data)
    expected = len(data) - BLOCK_HEADER_BYTES
    if coding != CODING_DIRECTORY:
        raise CorruptError(f"{where}: coding is {coding}, expected {CODING_DIRECTORY}")
    if payload_bytes != expected:
        raise CorruptError(f"{where}: payload is {payload_bytes} bytes, expected {expected}")
    if form or n_streams or reserved:
        raise CorruptError(f"{where}: form, n_streams and the reserved byte are not zero")
    check_crc(where, crc32(data[CRC_BYTES:]), crc)
    return as_headers(data[BLOCK_HEADER_BYTES:])
