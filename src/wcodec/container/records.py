# SPDX-License-Identifier: Apache-2.0
"""The records of fixed size as values: header, block header, footer (docs/format.md sections 3, 6
and 10).

pack() and unpack() are mirrors. unpack() takes exactly the bytes of one record and checks magic,
version, CRC, rules, in this order. The head of a layer is in head.py, an index entry in index.py.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from wcodec.checksum import crc32
from wcodec.container.constants import (
    CRC_BYTES,
    FLAG_ZSTD,
    FOOTER_MAGIC,
    HEADER_BYTES,
    HEADER_MAGIC,
    MAJOR,
    MINOR,
    RECORD_ALIGNMENT,
    align,
)
from wcodec.errors import CorruptError, TruncatedError, UnsupportedError

BlockHeaders = npt.NDArray[np.void]  # an array of BLOCK_HEADER

BLOCK_HEADER_STRUCT = struct.Struct("<IBBBBQ")  # one header, the fields of BLOCK_HEADER

_HEADER = struct.Struct("<4sBBHQQII")
_FOOTER = struct.Struct("<QQIII4s")
_U32 = struct.Struct("<I")


class Header(NamedTuple):
    """The first 32 bytes of a file: how its metadata is stored. Sizes in bytes."""

    metadata_stored_bytes: int
    metadata_bytes: int
    metadata_crc: int
    metadata_zstd: bool

    @property
    def first_record_offset(self) -> int:
        return align(HEADER_BYTES + self.metadata_stored_bytes, RECORD_ALIGNMENT)

    def pack(self) -> bytes:
        packed = _HEADER.pack(
            HEADER_MAGIC,
            MAJOR,
            MINOR,
            FLAG_ZSTD if self.metadata_zstd else 0,
            self.metadata_stored_bytes,
            self.metadata_bytes,
            self.metadata_crc,
            0,
        )
        return packed[:-CRC_BYTES] + _U32.pack(crc32(packed[:-CRC_BYTES]))

    @staticmethod
    def unpack(data: bytes) -> Header:
        """Return the header; `data` is shorter than 32 bytes only where the file is.

        Raises CorruptError for what is no wcodec file, UnsupportedError for another version.
        """
        if data[:4] != HEADER_MAGIC[: len(data)]:
            raise CorruptError(
                f"file: not a wcodec file: starts with {data[:4]!r}, expected {HEADER_MAGIC!r}"
            )
        if len(data) >= 6 and (data[4], data[5]) != (MAJOR, MINOR):
            raise UnsupportedError(
                f"file: of format version {data[4]}.{data[5]}, this wcodec reads {MAJOR}.{MINOR}"
            )
        if len(data) < HEADER_BYTES:
            raise TruncatedError(f"file: {len(data)} bytes, the header has {HEADER_BYTES}")
        _, _, _, flags, stored_bytes, json_bytes, metadata_crc, header_crc = _HEADER.unpack(data)
        check_crc("header", crc32(data[:-CRC_BYTES]), header_crc)
        if flags & ~FLAG_ZSTD:
            raise CorruptError(f"header: flags are {flags:#x}, known is {FLAG_ZSTD:#x}")
        if not flags & FLAG_ZSTD and stored_bytes != json_bytes:
            raise CorruptError(
                f"header: metadata is {json_bytes} bytes, stored as they are in {stored_bytes}"
            )
        return Header(stored_bytes, json_bytes, metadata_crc, bool(flags & FLAG_ZSTD))


class Footer(NamedTuple):
    """The last 32 bytes of a file: where its index is (offset and size in bytes), and two CRCs."""

    index_offset: int
    index_bytes: int
    index_crc: int
    file_crc: int

    def pack(self) -> bytes:
        packed = _FOOTER.pack(
            self.index_offset, self.index_bytes, self.index_crc, self.file_crc, 0, FOOTER_MAGIC
        )
        return packed[:24] + _U32.pack(crc32(packed[:24])) + FOOTER_MAGIC

    @staticmethod
    def unpack(data: bytes) -> Footer:
        """Return the footer of exactly 32 bytes. Raises CorruptError."""
        index_offset, index_bytes, index_crc, file_crc, footer_crc, magic = _FOOTER.unpack(data)
        if magic != FOOTER_MAGIC:
            raise CorruptError(f"footer: ends with {magic!r}, expected {FOOTER_MAGIC!r}")
        check_crc("footer", crc32(data[:24]), footer_crc)
        return Footer(index_offset, index_bytes, index_crc, file_crc)


def check_crc(what: str, computed: int, stored: int) -> None:
    """Raise CorruptError, which begins with `what`, if two CRCs differ."""
    if computed != stored:
        raise CorruptError(f"{what}: CRC is {computed:#010x}, stored is {stored:#010x}")


def decode_text(data: bytes, where: str) -> str:
    """Return `data` as text; CorruptError if it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorruptError(f"{where}: {data[:80]!r} is not UTF-8") from error


def check_zero(data: bytes | bytearray, what: str) -> None:
    """Raise CorruptError if padding is not zero."""
    if data.strip(b"\0"):
        raise CorruptError(f"{what}: padding is not zero")
