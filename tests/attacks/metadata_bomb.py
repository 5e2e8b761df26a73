# SPDX-License-Identifier: Apache-2.0
"""A zstd frame of 100 KB as metadata that grows to 1 GiB; the header says 64 bytes."""

import struct

import zstandard
from support.container_builder import build

ERROR = "CorruptError"
MESSAGE = r"metadata"


def write(directory):
    pieces = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 30)
    frame = b"".join(pieces.compress(bytes(1 << 20)) for _ in range(1 << 10)) + pieces.flush()
    data = bytearray(build(metadata=frame).data)
    struct.pack_into("<H", data, 6, 1)
    struct.pack_into("<Q", data, 16, 64)
    path = directory / "model.wcodec"
    path.write_bytes(build(metadata=frame).reseal(data))
    return path
