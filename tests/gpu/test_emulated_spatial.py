# SPDX-License-Identifier: Apache-2.0
"""The GPU decoder of the spatial coding on an emulated warp: right for every payload that the
format allows, wherever the output lies, and harmless for any bytes.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.emulated_blocks import Described, describe
from support.emulated_warp import (
    CANARY,
    SPATIAL,
    STATUS_BYTES,
    STATUS_PADDING,
    STATUS_RAW,
    STATUS_STATES,
    SanitizedCase,
    aligned,
    compiler,
    run_sanitized,
    run_spatial,
    sanitized_program,
)
from support.spatial_blocks import (
    Payload,
    decode,
    decode_by_reference,
    encode,
    random_block,
    smooth,
    whole,
)

from wcodec import _core
from wcodec.block_header import BLOCK_HEADER
from wcodec.codec import batch
from wcodec.errors import CorruptError

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++20 compiler: set CXX")

TILE_LOG2 = (2, 3, 4, 5, 6)
UNIT_BYTES = (1, 2, 4)
# Around groups of 4 units, 32 rows of the wave, squares and tiles.
SHAPES = [
    (1, 1),
    (1, 3),
    (5, 1),
    (1, 700),
    (300, 3),
    (4, 4),
    (8, 8),
    (7, 9),
    (31, 33),
    (96, 20),
]
LARGE = [(32, 128), (33, 127), (65, 132)]  # many windows of raw bits


def described(blocks: batch.Blocks, array: np.ndarray, memory: np.ndarray, stride: int, at: int):
    data = aligned(len(blocks.data) + batch.READ_SLACK_BYTES)
    data[: len(blocks.data)] = blocks.data
    descriptors = whole(array)
    descriptors["row_stride"] = stride
    descriptors["matrix_offset"] = at
    return data, describe(data, blocks.headers, SPATIAL, descriptors, memory, array.itemsize)


def gpu(
    blocks: batch.Blocks, array: np.ndarray, *, gap: int = 0, offset: int = 0
) -> tuple[bytes, bool]:
    """What the emulated GPU makes of one block, with `gap` bytes after each row."""
    rows, row_bytes = array.shape[0], array.shape[1] * array.itemsize
    stride = row_bytes + gap
    memory = aligned(64 + rows * stride + 64, offset)
    _, found = described(blocks, array, memory, stride, 64)
    (accepted,) = found.run().tolist()
    inside = memory[64:-64].reshape(rows, stride)
    units = inside[:, :row_bytes].tobytes()
    inside[:, :row_bytes] = CANARY
    assert (memory == CANARY).all()
    return units, accepted


def like(unit_bytes: int, rows: int, cols: int) -> np.ndarray:
    return np.zeros((rows, cols), f"u{unit_bytes}")


@pytest.mark.parametrize("tile_log2", TILE_LOG2)
@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "f2", "i4", "u4", "f4"])
def test_blocks_of_the_encoder(dtype, tile_log2):
    n_blocks = 0
    for rows, cols in [(64, 130), (100, 77)]:
        array = smooth(dtype, rows, cols)
        for predictors, transforms in [(63, 15), (1, 14), (32, 1), (30, 1)]:
            blocks = encode(array, tile_log2, predictors, transforms if tile_log2 > 2 else 1)
            if blocks.headers["coding"][0] == batch.SPATIAL:
                assert gpu(blocks, array) == (array.tobytes(), True)
                n_blocks += 1
    assert n_blocks >= 4


@pytest.mark.parametrize("tile_log2", TILE_LOG2)
@pytest.mark.parametrize("unit_bytes", UNIT_BYTES)
def test_random_valid_streams(unit_bytes, tile_log2):
    """Tables, tiles, tokens and raw bits that the encoder would never choose."""
    large = LARGE[(tile_log2 + unit_bytes) % 3]
    for seed, (rows, cols) in enumerate([large, *SHAPES]):
        array = like(unit_bytes, rows, cols)
        blocks = random_block(seed, unit_bytes, rows, cols, tile_log2, (127, 30)[seed % 2])
        expected = decode(blocks, array).tobytes()
        if seed % 4 == 0:
            assert decode_by_reference(blocks, array) == expected
        assert gpu(blocks, array) == (expected, True)


@pytest.mark.parametrize("unit_bytes", UNIT_BYTES)
def test_every_output_address(unit_bytes):
    array = like(unit_bytes, 37, 45)
    blocks = random_block(3, unit_bytes, 37, 45, 3)
    expected = decode(blocks, array).tobytes()
    for offset in range(18):
        gap = 0 if offset % 3 else offset * 5
        assert gpu(blocks, array, offset=offset, gap=gap) == (expected, True)
    assert gpu(blocks, array, gap=3 * unit_bytes) == (expected, True)  # groups at their multiples


@pytest.mark.parametrize("unit_bytes", UNIT_BYTES)
def test_what_the_core_refuses_is_refused(unit_bytes):
    """Bits of a payload changed under a good CRC: accepted and decoded as by the CPU."""
    random = np.random.default_rng(unit_bytes)
    n_accepted = 0
    for seed in range(4):
        array = like(unit_bytes, 11, 40)
        blocks = random_block(seed, unit_bytes, 11, 40, 2 + seed)
        payload = blocks.data.tobytes()[16 : 16 + int(blocks.headers[0]["payload_bytes"])]
        places = {*range(40), len(payload) - 1, *random.integers(0, len(payload), 60).tolist()}
        for at in sorted(places):
            changed = bytearray(payload)
            changed[at] ^= 1 << int(random.integers(0, 8))
            form = int(blocks.headers["form"][0])
            mutated = batch.frame_block(batch.SPATIAL, form, bytes(changed))
            found, accepted = gpu(mutated, array)
            try:
                expected = decode(mutated, array).tobytes()
            except CorruptError:
                assert not accepted
            else:
                assert (found, accepted) == (expected, True)
                n_accepted += 1
    assert n_accepted > 0


def test_the_core_refuses_what_a_kernel_must_not_see():
    array = smooth("i2", 64, 130)
    blocks = encode(array)
    parts = Payload.of(blocks)
    wide = array.astype("i8")
    data = batch.frame_block(batch.SPATIAL, 0, parts.pack()).data.copy()
    data[6] = 1  # n_streams
    data[:4] = np.array([_core.crc32(data[4:], 0)], "<u4").view(np.uint8)
    streams = batch.Blocks(data[:16].view(BLOCK_HEADER), data)
    payloads = (
        parts.with_(tile_log2=7),
        parts.with_(n_tables=0),
        parts.with_(reserved=1),
        parts.with_(tiles=b"\x07" + parts.tiles[1:]),
        parts.with_(stream=parts.stream[:-1]),
        parts.with_(stream=parts.stream[:64]),
        parts.with_(stream=bytes(4) + parts.stream[4:]),
    )
    cases = [(batch.frame_block(batch.SPATIAL, 0, wrong), array) for wrong in payloads]
    cases += [(batch.frame_block(batch.SPATIAL, 3, parts.pack()), array)]
    for wrong, like_this in [*cases, (streams, array), (blocks, wide)]:
        memory = aligned(like_this.nbytes)
        stride = like_this.shape[1] * like_this.itemsize
        assert described(wrong, like_this, memory, stride, 0)[1].refused.all()
    assert not gpu(batch.frame_block(batch.SPATIAL, 0, parts.with_(raw=parts.raw + b"\0")), array)[
        1
    ]


OFFSETS = {"stream_offset": 40, "stream_bytes": 44, "raw_offset": 48, "raw_bytes": 52}


def test_wrong_sizes_set_the_status():
    array = like(2, 20, 50)
    for seed in range(9):
        blocks = random_block(seed, 2, 20, 50, 4)
        if int(blocks.headers["payload_bytes"][0]) % 16 > 2:
            break
    memory = aligned(array.nbytes)
    data, found = described(blocks, array, memory, 100, 0)
    words = found.spatial.view("<u4")

    def status(name: str, by: int) -> int:
        changed = aligned(64)
        changed[:] = found.spatial.view(np.uint8)
        changed[OFFSETS[name] :][:4].view("<i4")[:] += by
        status = np.zeros(1, np.uint32)
        run_spatial(2, 1, changed.ctypes.data, status.ctypes.data)
        return int(status[0])

    assert status("raw_bytes", 0) == 0
    assert status("raw_bytes", 1) == STATUS_RAW
    assert status("stream_bytes", 2) == STATUS_BYTES
    assert status("stream_bytes", -2) & STATUS_BYTES
    raw_end = 16 + int(words[OFFSETS["raw_offset"] // 4]) + int(words[OFFSETS["raw_bytes"] // 4])
    if Payload.of(blocks).raw[-1] < 128:
        data[raw_end - 1] |= 128
        assert status("raw_bytes", 0) in (0, STATUS_PADDING)
    data[16 + int(words[OFFSETS["stream_offset"] // 4]) + 8] ^= 0x10
    assert status("raw_bytes", 0) & (STATUS_STATES | STATUS_BYTES)


def test_hostile_bytes_under_sanitizers():
    """Whatever stands in the stream and the raw bits, nothing outside is touched."""
    try:
        sanitized_program()
    except RuntimeError as error:
        pytest.skip(f"no sanitizers: {error}")
    random = np.random.default_rng(7)
    cases, expected = [], []
    for seed in range(150):
        unit_bytes = UNIT_BYTES[seed % 3]
        rows, cols = 1 + seed * 5 % 37, 1 + seed * 3 % 70
        array = like(unit_bytes, rows, cols)
        blocks = random_block(seed, unit_bytes, rows, cols, 2 + seed % 5)
        memory = aligned(array.nbytes)
        _, found = described(blocks, array, memory, cols * unit_bytes, 0)
        kind = seed // 3 % 5
        cases.append(hostile(found, blocks, array, kind, random, output_offset=seed % 2 * 5))
        expected.append(decode(blocks, array).tobytes() if kind == 0 else None)
    n_seen = 0
    for (output, status), units in zip(run_sanitized(cases), expected, strict=True):
        if units is None:
            n_seen += any(status)
        else:
            assert (output.tobytes(), status) == (units, [0])
    assert n_seen > 60


def hostile(
    found: Described,
    blocks: batch.Blocks,
    array: np.ndarray,
    kind: int,
    random: np.random.Generator,
    output_offset: int,
) -> SanitizedCase:
    """A described block whose stream and raw bits are not what they were, but for kind 0."""
    payload = blocks.data[16:].copy()
    (begin,) = found.spatial.view("<u4")[[OFFSETS["stream_offset"] // 4]].tolist()
    if kind == 1:
        payload[begin:] = random.integers(0, 256, len(payload) - begin)
    elif kind == 2:
        payload[begin:] = random.choice([0x00, 0xFF, 0x80])
    elif kind > 2:
        at = random.integers(begin, len(payload), kind)
        payload[at] ^= random.integers(1, 256, len(at)).astype(np.uint8)
    record = found.spatial.view("<u8").copy()
    record[:2] = record[3] = 0  # payload, output and parameters
    if kind == 4:
        record.view("<u4")[OFFSETS["stream_bytes"] // 4] = 128
        record.view("<u4")[OFFSETS["raw_bytes"] // 4] //= 2
    parameters = found.parameters.tobytes()
    return SanitizedCase(
        SPATIAL,
        array.itemsize,
        record.tobytes(),
        payload.tobytes(),
        parameters,
        1,
        array.nbytes,
        output_offset,
    )
