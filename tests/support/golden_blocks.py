# SPDX-License-Identifier: Apache-2.0
"""One small block of every kind in the golden files, and all its mutations, sealed again.

A kind is (family, coding, form, n_streams), so a coding with a golden file is attacked without
anybody adding it here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from support.container_builder import Built, Seal
from support.golden import GOLDEN, MANIFEST

from wcodec import _core
from wcodec.block_header import BLOCK_HEADER
from wcodec.codec import batch
from wcodec.container import LayerHead, Reader
from wcodec.windows import grid_of

CANARY = 0xA5
GAP = 64  # canaries after each output
HEADER_BYTES = BLOCK_HEADER.itemsize


@dataclass(frozen=True)
class GoldenBlock:
    """A block with its header and padding; `rows` x `cols` units of `head`."""

    kind: str
    data: bytes
    head: LayerHead
    rows: int
    cols: int

    @property
    def payload(self) -> bytes:
        n = int(np.frombuffer(self.data, BLOCK_HEADER, 1)["payload_bytes"][0])
        return self.data[HEADER_BYTES : HEADER_BYTES + n]

    @property
    def is_map(self) -> bool:
        return self.data[4] == batch.ROW_GROUPS

    @property
    def output_bytes(self) -> int:
        return self.rows * self.cols * self.head.unit_bytes


def golden_blocks() -> list[GoldenBlock]:
    """The smallest block of each kind."""
    smallest: dict[str, GoldenBlock] = {}
    for name in MANIFEST:
        for block in _blocks_of(name):
            found = smallest.setdefault(block.kind, block)
            if len(block.data) < len(found.data):
                smallest[block.kind] = block
    return [smallest[kind] for kind in sorted(smallest)]


def _blocks_of(file: str) -> Iterator[GoldenBlock]:
    with Reader(GOLDEN / file) as reader:
        for name in reader.layers:
            layer = reader.open_layer(name)
            if layer.head.kind or not len(layer.headers):
                continue
            taken = layer.take(len(layer.headers))
            offsets = taken.offsets.tolist()
            for i, (rows, cols) in enumerate(_shapes(layer.head, batch.Blocks(*taken[:2]))):
                header = layer.headers[i]
                coding = batch.CODING_NAMES.get(int(header["coding"]), "map")
                kind = f"{coding}-{header['form']}-{header['n_streams']}-of-{layer.head.family}"
                data = taken.data[offsets[i] : offsets[i + 1]].tobytes()
                yield GoldenBlock(kind, data, layer.head, rows, cols)


def _shapes(head: LayerHead, blocks: batch.Blocks) -> list[tuple[int, int]]:
    """Rows and columns of each block of a layer; of a map, its rows and 1."""
    shapes: list[tuple[int, int]] = []
    grid = grid_of(head)
    starts = batch.block_starts(blocks.headers)
    for window in grid.windows(1 << 30):
        descriptors = window.descriptors
        if descriptors is None:
            at = len(shapes)
            rest = batch.Blocks(blocks.headers[at:], blocks.data[int(starts[at]) :])
            groups = batch.decode_row_groups(rest, window.rows, layer=head.name, first_block=at)
            shapes.append((window.rows, 1))
            descriptors, _ = grid.group_descriptors(groups)
        shapes += zip(descriptors["rows"].tolist(), descriptors["cols"].tolist(), strict=True)
    return shapes


def changes(data: bytes, places: Iterable[int]) -> list[tuple[int, int]]:
    """Place and value of each change: 8 bit flips, 0x00 and 0xFF of the bytes at `places`."""
    found = []
    for at in places:
        old = data[at]
        values = [*(old ^ 1 << bit for bit in range(8)), 0, 255]
        found += [(at, value) for value in dict.fromkeys(values) if value != old]
    return found


def mutations(block: GoldenBlock, stride: int = 1) -> Iterator[bytes]:
    """Every `stride`-th change of a byte behind the CRC, sealed.

    The size in the header stays: other sizes are those of resized().
    """
    places = [*range(4, 8), *range(HEADER_BYTES, len(block.data))]
    for at, value in changes(block.data, places)[::stride]:
        yield sealed(block.data[:at] + bytes([value]) + block.data[at + 1 :])


def resized(block: GoldenBlock, stride: int = 1) -> Iterator[bytes]:
    """Every `stride`-th prefix of the payload but the empty one, and up to 33 bytes more, padded
    and sealed.
    """
    longer = [block.payload + bytes(n) for n in range(1, 34)]
    shorter = [block.payload[:n] for n in range(1, len(block.payload))]
    head = block.data[:8]
    for p in (shorter + longer)[::stride]:
        yield sealed(head + len(p).to_bytes(8, "little") + p + bytes(-len(p) % 16))


def batched(variants: Iterator[bytes], n_bytes: int = 1 << 24) -> Iterator[list[bytes]]:
    """Lists of variants of at most about this many bytes."""
    found: list[bytes] = []
    for variant in variants:
        found.append(variant)
        if len(found) * len(variant) >= n_bytes:
            yield found
            found = []
    if found:
        yield found


def sealed(block: bytes) -> bytes:
    return zlib.crc32(block[4:]).to_bytes(4, "little") + block[4:]


def sealable(data: bytes) -> Built:
    """A file of one layer with one block, to be changed and sealed again. Field: "payload"."""

    def number(at: int, n: int) -> int:
        return int.from_bytes(data[at : at + n], "little")

    metadata = number(8, 8)
    head = -(-(32 + metadata) // 64) * 64
    head_end = head + number(head + 4, 4)
    block = -(-head_end // 16) * 16
    directory = block + HEADER_BYTES + -(-number(block + 8, 8) // 16) * 16
    footer = len(data) - 32
    index = number(footer, 8)
    file = Built(data)
    file.fields = {"payload": (block + HEADER_BYTES, f"{number(block + 8, 8)}s")}
    file.seals = [
        Seal(24, ((32, 32 + metadata),)),
        Seal(28, ((0, 28),)),
        Seal(head_end - 4, ((head, head_end - 4),)),
        Seal(block, ((block + 4, directory),), copies=(directory + HEADER_BYTES,)),
        Seal(directory, ((directory + 4, directory + 2 * HEADER_BYTES),)),
        Seal(index + 32 + 32, ((head, index),)),
        Seal(footer + 16, ((index, footer),)),
        Seal(footer + 20, ((0, footer),)),
        Seal(footer + 24, ((footer, footer + 24),)),
    ]
    assert file.reseal(data) == data, "not a file of one layer with one block"
    return file


class Copies:
    """Variants of a block back to back, each with an output of its own between canaries."""

    def __init__(self, block: GoldenBlock, variants: list[bytes]) -> None:
        slack = bytes(batch.READ_SLACK_BYTES)
        self.block = block
        self.data = batch.aligned_empty(sum(map(len, variants)) + len(slack))
        self.data[:] = np.frombuffer(b"".join([*variants, slack]), np.uint8)
        starts = np.cumsum([0, *map(len, variants)])[:-1]
        heads = b"".join(variant[:HEADER_BYTES] for variant in variants)
        self.headers = np.frombuffer(heads, BLOCK_HEADER).copy()
        self.pitch = block.output_bytes + GAP
        self.descriptors = np.zeros(len(variants), batch.DESCRIPTOR)
        self.descriptors["data_offset"] = starts
        self.descriptors["matrix_offset"] = np.arange(len(variants)) * self.pitch
        self.descriptors["row_stride"] = block.cols * block.head.unit_bytes
        self.descriptors["rows"], self.descriptors["cols"] = block.rows, block.cols
        self.descriptors["row_index_first"] = batch.NO_ROW_INDEX

    def outputs(self) -> np.ndarray:
        """Room for all outputs, filled with canaries."""
        memory = batch.aligned_empty(len(self.headers) * self.pitch)
        memory[:] = CANARY
        return memory

    def collect(self, memory: np.ndarray) -> np.ndarray:
        """The outputs, a row each; nothing between them may have been touched."""
        rows = memory.reshape(len(self.headers), self.pitch)
        assert (rows[:, -GAP:] == CANARY).all(), "written outside of a block's place"
        return rows[:, :-GAP]

    def decode(self, backend: str) -> tuple[np.ndarray, np.ndarray]:
        """The status of each variant, and the outputs, by a backend of the core."""
        _core.set_backend(backend)
        memory = self.outputs()
        failures = _core.decode_blocks(
            self.data,
            self.headers,
            self.block.head.family,
            self.descriptors,
            batch.NO_ROWS,
            memory,
            self.block.head.unit_bytes,
            2,
        )
        statuses = np.zeros(len(self.headers), np.int64)
        for i, status in failures:
            statuses[i] = status
        return statuses, self.collect(memory)
