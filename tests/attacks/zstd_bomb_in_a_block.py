# SPDX-License-Identifier: Apache-2.0
"""An lz block of 1000 bytes whose frame, of 100 KB, decompresses to 1 GiB."""

import zstandard
from support.container_builder import Block, LayerSpec, build

ERROR = "CorruptError"
MESSAGE = r"block 0 of 'a'"


def write(directory):
    pieces = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 30)
    frame = b"".join(pieces.compress(bytes(1 << 20)) for _ in range(1 << 10)) + pieces.flush()
    path = directory / "model.wcodec"
    layer = LayerSpec("a", [Block(frame, coding=5)], shape=(1000,), family=5)
    path.write_bytes(build([layer]).data)
    return path
