# SPDX-License-Identifier: Apache-2.0
"""A block of coding rans16 as the encoder writes it, and where its fields are, to be attacked."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

from support.arrays import gaussian
from support.container_builder import Block, LayerSpec, build

import wcodec
from wcodec.container import Reader


class Fields(NamedTuple):
    """Offsets in the payload of a block with one stream."""

    stream_bytes: int
    n_escapes: int
    frequencies: int
    states: int


def bf16_block(n: int = 1000) -> tuple[bytearray, int, Fields]:
    """The payload of a layer of n BF16 weights, its form, and its fields."""
    reader = Reader(io.BytesIO(wcodec.encode_array(gaussian("BF16", n))))
    blocks = reader.open_layer("weight").read_blocks(0, 1)
    payload = bytearray(blocks.data[16 : 16 + int(blocks.headers["payload_bytes"][0])])
    table = 12
    n_symbols = payload[0]
    states = -(-(table + n_symbols + n_symbols % 2 + 2 * n_symbols) // 16) * 16
    return payload, int(blocks.headers["form"][0]), Fields(4, 8, table, states)


def write_block(path: Path, payload: bytes, form: int, n: int = 1000) -> Path:
    """Write a file with one layer "a" that has this block, all checksums right."""
    block = Block(bytes(payload), coding=2, form=form, n_streams=1)
    path.write_bytes(build([LayerSpec("a", [block], "BF16", (n,), family=2)]).data)
    return path
