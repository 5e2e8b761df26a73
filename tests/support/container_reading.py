# SPDX-License-Identifier: Apache-2.0
"""Read everything of a container in both ways, as a decoder would, and compare what came out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from wcodec.checksum import crc32
from wcodec.container import Blocks, Layer, LayerHead, Metadata, Reader, SequentialReader
from wcodec.errors import CorruptError

Content = tuple[Metadata, list[tuple[LayerHead, bytes]]]


class Pipe:
    """A stream that gives at most `most` bytes a read, and only has read()."""

    def __init__(self, data: bytes, most: int = 1 << 30) -> None:
        self._file = io.BytesIO(data)
        self._most = most

    def read(self, n: int) -> bytes:
        return self._file.read(min(n, self._most))


class Ranges:
    """A remote file that counts its requests."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.requests: list[list[tuple[int, int]]] = []

    def size(self) -> int:
        return len(self._data)

    def read_ranges(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        self.requests.append(list(ranges))
        return [self._data[offset : offset + size] for offset, size in ranges]


def checked_bytes(blocks: Blocks, layer: str) -> bytes:
    """Return the bytes of blocks after the checks that are left to their decoder: headers, CRCs and
    padding.
    """
    offsets = blocks.offsets.tolist()
    for i, (begin, end) in enumerate(pairwise(offsets)):
        header = blocks.headers[i]
        block = blocks.data[begin:end].tobytes()
        if block[:16] != header.tobytes() or crc32(block[4:]) != header["crc"]:
            raise CorruptError(f"block {i} of {layer!r}: header or CRC")
        if any(block[16 + int(header["payload_bytes"]) :]):
            raise CorruptError(f"block {i} of {layer!r}: padding is not zero")
    assert len(blocks.data) >= blocks.n_bytes + 64
    return blocks.data[: blocks.n_bytes].tobytes()


def read_layer(layer: Layer) -> bytes:
    data = checked_bytes(layer.take(len(layer.headers)), layer.head.name)
    layer.finish()
    return data


def read_random(source: Any, **options: Any) -> Content:
    """Return all that a Reader finds, the CRCs of records and file checked."""
    with Reader(source, **options) as reader:
        layers = [
            (layer.head, read_layer(layer)) for layer in map(reader.open_layer, reader.layers)
        ]
        reader.check_file()
        return reader.metadata, layers


def read_sequential(stream: Any, counts: dict[str, int], **options: Any) -> Content:
    """Return all that a SequentialReader finds; `counts` says how many blocks a layer has."""
    reader = SequentialReader(stream, **options)
    layers = []
    for layer in reader:
        count = 0 if layer.head.kind else counts.get(layer.head.name, 0)
        data = checked_bytes(layer.take(count), layer.head.name)
        layer.finish()
        layers.append((layer.head, data))
    return reader.metadata, layers


def read_both(data: bytes, counts: dict[str, int]) -> list[Content]:
    return [read_random(io.BytesIO(data)), read_sequential(Pipe(data), counts)]
