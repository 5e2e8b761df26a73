# SPDX-License-Identifier: Apache-2.0
"""What docs/format.md section 17 leaves to writers and our encoder never does: both readers and the
reference decoder take it.
"""

import io
import json

import numpy as np
import pytest
import zstandard
from support import rans32_blocks
from support.container_builder import METADATA, build, sound_layers
from support.pipes import Pipe
from support.tools import reference_decoder

import wcodec
from wcodec.codec import batch

LAYERS = sound_layers()
TEXT = json.dumps(METADATA | {"options": {"\u00e9": 1e9}}, indent=3, sort_keys=True) + " \r\n\t"


def check_decodes(data: bytes) -> None:
    expected = {"raw": bytes(range(37)), "constant": 6 * b"\0\0\x80\x3f"}
    for source in (io.BytesIO(data), Pipe(data)):
        found = wcodec.decode_checkpoint(source)
        assert {name: array.tobytes() for name, array in found.items()} == expected
    layers = reference_decoder().decode(data).layers
    assert {name: data for name, (_, _, data) in layers.items()} == expected


def test_metadata_in_any_spelling():
    check_decodes(build(LAYERS, TEXT.encode()).data)


@pytest.mark.parametrize("options", [{"level": 19}, {"write_checksum": True}, {"threads": 2}])
def test_frames(options):
    content = TEXT.encode()
    stream = zstandard.ZstdCompressor(**options).compressobj(size=len(content))
    frame = b""
    for start in range(0, len(content), 50):
        frame += stream.compress(content[start : start + 50])
        frame += stream.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    built = build(LAYERS, frame + stream.flush())
    values = {"header.flags": 1, "header.metadata_bytes": len(content)}
    check_decodes(built.with_fields(values))


def test_small_numbers_in_their_long_form(monkeypatch):
    def put_long(bits: rans32_blocks._Bits, number: int, k: int) -> None:
        bits.put(0xFFFF, 16)
        bits.put(number, 8)

    monkeypatch.setattr(rans32_blocks._Bits, "put_small", put_long)
    for seed in range(4):
        units, blocks = rans32_blocks.random_block(seed, 2, 5, 40)
        assert np.array_equal(rans32_blocks.decode(blocks, units), units)
        assert rans32_blocks.decode_by_reference(blocks, units) == units.tobytes()


def test_a_frame_of_a_block_with_a_checksum():
    units = np.tile(np.arange(50, dtype="<u4"), 9).reshape(1, -1)
    frame = zstandard.ZstdCompressor(write_checksum=True).compress(units.tobytes())
    blocks = batch.frame_block(batch.LZ, 0, frame)
    out = np.zeros(units.nbytes, np.uint8)
    data = np.concatenate([blocks.data, np.zeros(batch.READ_SLACK_BYTES, np.uint8)])
    batch.decode_blocks(
        batch.Blocks(blocks.headers, data),
        batch.LZ,
        rans32_blocks.whole(units),
        batch.NO_ROWS,
        out,
        4,
        threads=1,
        layer="w",
    )
    assert out.tobytes() == units.tobytes()
