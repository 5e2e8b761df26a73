# SPDX-License-Identifier: Apache-2.0
"""CRC-32 as of zlib and PNG (reflected polynomial 0xEDB88320), computed by the native core.

The only module beside codec/batch.py that touches the core: the container needs checksums and
nothing else from it.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from numpy.typing import NDArray

from wcodec import _core

Buffer: TypeAlias = bytes | bytearray | memoryview | NDArray[Any]


def crc32(data: Buffer, start: int = 0) -> int:
    """Return the CRC-32 of contiguous `data`, continued from `start`, the CRC-32 of what comes
    before it.

    >>> hex(crc32(b"123456789"))
    '0xcbf43926'
    >>> crc32(b"6789", crc32(b"12345")) == crc32(b"123456789")
    True
    """
    return _core.crc32(data, start)


def crc32_combine(first: int, second: int, second_bytes: int) -> int:
    """Return the CRC-32 of A + B from those of A and of B, and the size of B in bytes.

    >>> crc32_combine(crc32(b"12345"), crc32(b"6789"), 4) == crc32(b"123456789")
    True
    """
    return _core.crc32_combine(first, second, second_bytes)
