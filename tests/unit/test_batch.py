# SPDX-License-Identifier: Apache-2.0
"""Headers that claim more than a block can have, wherever blocks are decoded or described."""

import numpy as np
import pytest

from wcodec.codec import batch
from wcodec.errors import CorruptError

SLACK = np.zeros(batch.READ_SLACK_BYTES, np.uint8)
ONE = np.array([3])
MATRIX = np.empty(8, np.uint8)


def one_block(coding: int = batch.RAW, **changes: int) -> batch.Blocks:
    block = batch.frame_block(coding, 0, bytes(8))
    headers = block.headers.copy()
    for name, value in changes.items():
        headers[name] = value
    return batch.Blocks(headers, np.concatenate([block.data, SLACK]))


def place() -> np.ndarray:
    descriptor = np.zeros(1, batch.DESCRIPTOR)
    descriptor["rows"], descriptor["cols"], descriptor["row_stride"] = 1, 8, 8
    descriptor["row_index_first"] = batch.NO_ROW_INDEX
    return descriptor


def decode(blocks):
    batch.decode_blocks(
        blocks, batch.RAW, place(), batch.NO_ROWS, MATRIX, 1, threads=1, layer="x", numbers=ONE
    )


def decode_parts(blocks):
    """The second of two layers."""
    parts = [
        batch.Part(one_block().headers, 0, 0, "w"),
        batch.Part(blocks.headers, 32, 0, "x"),
    ]
    data = np.concatenate([one_block().data[:32], blocks.data])
    places = np.concatenate([place(), place()])
    batch.decode_parts(parts, places, data, batch.RAW, MATRIX, 1, threads=1)


def describe(blocks):
    batch.describe_blocks(
        blocks, batch.RAW, place(), 8, 1, data_address=0, matrix_address=0, layer="x", numbers=ONE
    )


def decode_map(blocks):
    batch.decode_row_groups(blocks, 8, layer="x", first_block=3)


CALLS = pytest.mark.parametrize(
    ("call", "coding", "number"),
    [
        (decode, batch.RAW, 3),
        (decode_parts, batch.RAW, 0),
        (describe, batch.RAW, 3),
        (decode_map, batch.ROW_GROUPS, 3),
    ],
)


@CALLS
def test_a_payload_that_no_block_can_have(call, coding, number):
    call(one_block(coding))
    blocks = one_block(coding, payload_bytes=batch.MAX_BLOCK_BYTES + 1)
    with pytest.raises(CorruptError, match=f"block {number} of 'x': payload is 33554433 bytes"):
        call(blocks)


@CALLS
def test_a_block_with_a_wrong_crc(call, coding, number):
    blocks = one_block(coding)
    blocks.data[16] ^= 1
    with pytest.raises(CorruptError, match=f"block {number} of 'x': its CRC-32 is wrong"):
        call(blocks)


@pytest.mark.parametrize("size", [0, 1, 5000, 9 << 20])
def test_a_file_in_memory_takes_more_and_less_than_it_was_made_for(size):
    for written in (0, size // 3, size, size + 10_000):
        content = np.random.default_rng(written).bytes(written)
        file = batch.bytes_file(size)
        assert file.write(content[: written // 2]) == written // 2
        file.write(content[written // 2 :])
        file.truncate()
        assert file.getvalue() == content
