# SPDX-License-Identifier: Apache-2.0
"""The GPU decoder of rans32 on an emulated warp: right for every payload that the format allows,
wherever the output lies, and harmless for any bytes.
"""

from __future__ import annotations

import numpy as np
import pytest
from support.emulated_blocks import describe
from support.emulated_warp import (
    CANARY,
    RANS32,
    STATUS_BYTES,
    STATUS_ESCAPES,
    STATUS_STATES,
    SanitizedCase,
    aligned,
    compiler,
    run_rans32,
    run_sanitized,
    sanitized_program,
)
from support.rans32_blocks import Payload, decode, encode, random_block
from support.spatial_blocks import whole

from wcodec.codec import batch
from wcodec.errors import CorruptError

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C++20 compiler: set CXX")

INTS = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
# Around the step of 32 and the tile of 128 units, and past the window of 1024 bytes.
SIZES = [1, 2, 31, 32, 33, 127, 128, 129, 255, 257, 1000, 128 * 41 + 77]


def matrix(unit_bytes: int, rows: int, cols: int, scale: float = 9) -> np.ndarray:
    random = np.random.default_rng([unit_bytes, rows, cols])
    scales = np.exp2(np.arange(rows) % 4)[:, None] * scale / 8
    values = random.normal(0, 1, (rows, cols)) * scales * (1 << 8 * unit_bytes - 8)
    values += np.ldexp(random.integers(0, 2, values.shape), 8 * unit_bytes - 4)
    return values.astype(INTS[unit_bytes])


def gpu(
    blocks: batch.Blocks, array: np.ndarray, *, gap: int = 0, offset: int = 0
) -> tuple[bytes, bool]:
    """What the emulated GPU makes of one block, with `gap` bytes after each row."""
    rows, row_bytes = array.shape[0], array.shape[1] * array.itemsize
    stride = row_bytes + gap
    data = aligned(len(blocks.data) + batch.READ_SLACK_BYTES)
    data[: len(blocks.data)] = blocks.data
    memory = aligned(64 + rows * stride + 64, offset)
    descriptors = whole(array)
    descriptors["row_stride"] = stride
    descriptors["matrix_offset"] = 64
    described = describe(data, blocks.headers, batch.RANS32, descriptors, memory, array.itemsize)
    (accepted,) = described.run().tolist()
    inside = memory[64:-64].reshape(rows, stride)
    found = inside[:, :row_bytes].tobytes()
    inside[:, :row_bytes] = CANARY
    assert (memory == CANARY).all()
    return found, accepted


def check(blocks: batch.Blocks, array: np.ndarray, **where: int) -> None:
    assert blocks.headers["coding"][0] == batch.RANS32
    assert gpu(blocks, array, **where) == (array.tobytes(), True)


@pytest.mark.parametrize("unit_bytes", INTS)
def test_sizes(unit_bytes):
    for n in SIZES:
        array, blocks = random_block(n, unit_bytes, 1, n)
        check(blocks, array)
        assert decode(blocks, array).tobytes() == array.tobytes()


@pytest.mark.parametrize("unit_bytes", INTS)
def test_random_valid_streams(unit_bytes):
    """Splits, alphabets, escapes, classes and tables that the encoder would never choose."""
    for seed in range(60):
        rows = 1 + seed * 7 % 23
        array, blocks = random_block(seed, unit_bytes, rows, 1 + seed * 5 % 41 * 3)
        assert decode(blocks, array).tobytes() == array.tobytes()
        check(blocks, array)


@pytest.mark.parametrize("unit_bytes", INTS)
@pytest.mark.parametrize("classes", [False, True])
def test_blocks_of_the_encoder(unit_bytes, classes):
    n_blocks = 0
    for low_bits in (0, 2, 5):
        for sign_raw in (False, True):
            for rows, cols in ((1, 4000), (16, 300), (200, 33), (100, 256)):
                array = matrix(unit_bytes, rows, cols)
                try:
                    blocks = encode(array, low_bits, sign_raw=sign_raw, classes=classes)
                except ValueError:
                    continue  # this split leaves too many raw bits
                if blocks.headers["coding"][0] == batch.RANS32:
                    check(blocks, array)
                    n_blocks += 1
    assert n_blocks > 4


@pytest.mark.parametrize("unit_bytes", INTS)
def test_every_output_address(unit_bytes):
    array, blocks = random_block(3, unit_bytes, 7, 45)
    for offset in range(18):
        check(blocks, array, offset=offset, gap=0 if offset % 3 else offset * 5)
    array, blocks = random_block(4, unit_bytes, 90, 3)  # many rows in a step
    check(blocks, array, gap=unit_bytes)


@pytest.mark.parametrize("unit_bytes", INTS)
def test_what_the_core_refuses_is_refused(unit_bytes):
    """Bits of a payload changed under a good CRC: accepted and decoded as by the CPU."""
    random = np.random.default_rng(unit_bytes)
    n_accepted = 0
    for seed in range(4):
        array, blocks = random_block(seed, unit_bytes, 9, 50)
        payload = blocks.data.tobytes()[16 : 16 + int(blocks.headers[0]["payload_bytes"])]
        places = {*range(40), *random.integers(0, len(payload), 60).tolist()}
        for at in sorted(places):
            changed = bytearray(payload)
            changed[at] ^= 1 << int(random.integers(0, 8))
            mutated = batch.frame_block(
                batch.RANS32, int(blocks.headers["form"][0]), bytes(changed)
            )
            found, accepted = gpu(mutated, array)
            try:
                expected = decode(mutated, array).tobytes()
            except CorruptError:
                assert not accepted
            else:
                assert accepted
                assert found == expected
                n_accepted += 1
    assert n_accepted > 0 or unit_bytes == 1


def test_wrong_sizes_set_the_status():
    array, blocks = random_block(1, 2, 5, 200, escape=True)
    data = aligned(len(blocks.data) + batch.READ_SLACK_BYTES)
    data[: len(blocks.data)] = blocks.data
    memory = aligned(array.nbytes)
    described = describe(data, blocks.headers, batch.RANS32, whole(array), memory, 2)

    def status(name: str, by: int) -> int:
        fields = np.dtype({"names": ["x"], "formats": ["<u4"], "offsets": [OFFSETS[name]]})
        changed = aligned(80)
        changed[:] = described.rans32.view(np.uint8)
        changed[: fields.itemsize].view(fields)["x"] += np.uint32(by & 0xFFFFFFFF)
        found = np.zeros(1, np.uint32)
        run_rans32(2, 1, changed.ctypes.data, found.ctypes.data)
        return int(found[0])

    assert status("n_escapes", 0) == 0
    assert status("n_escapes", 1) == status("n_escapes", -1) == STATUS_ESCAPES
    assert status("stream_bytes", 2) == STATUS_BYTES
    assert status("stream_bytes", -2) & STATUS_BYTES
    data[int(described.rans32.view("<u4")[OFFSETS["stream_offset"] // 4]) + 16 + 8] ^= 0x10
    assert status("n_escapes", 0) & (STATUS_STATES | STATUS_BYTES)


OFFSETS = {"stream_offset": 40, "stream_bytes": 44, "n_escapes": 52}


def test_hostile_bytes_under_sanitizers():
    """Whatever stands in the stream, the escapes and the raw bits, nothing outside is touched."""
    try:
        sanitized_program()
    except RuntimeError as error:
        pytest.skip(f"no sanitizers: {error}")
    random = np.random.default_rng(7)
    cases, expected = [], []
    for seed in range(160):
        unit_bytes = (1, 2, 4, 8)[seed % 4]
        array, blocks = random_block(seed, unit_bytes, 1 + seed % 13, 1 + seed * 3 % 97)
        payload_bytes = int(blocks.headers[0]["payload_bytes"])
        data = aligned(len(blocks.data) + batch.READ_SLACK_BYTES)
        data[: len(blocks.data)] = blocks.data
        memory = aligned(array.nbytes)
        described = describe(data, blocks.headers, batch.RANS32, whole(array), memory, unit_bytes)
        (begin,) = described.rans32.view("<u4")[[OFFSETS["stream_offset"] // 4]].tolist()
        payload = blocks.data[16:].copy()
        kind = seed // 4 % 5
        if kind == 1:
            payload[begin:] = random.integers(0, 256, len(payload) - begin)
        elif kind == 2:
            payload[begin:] = random.choice([0x00, 0xFF, 0x80])
        elif kind > 2:
            at = random.integers(begin, payload_bytes, kind)
            payload[at] ^= random.integers(1, 256, len(at)).astype(np.uint8)
        record = described.rans32.view("<u8").copy()
        record[:2] = record[3] = 0  # payload, output and parameters
        if seed % 3 == 0 and kind:
            record.view("<u4")[OFFSETS["stream_bytes"] // 4] = 128
        cases.append(
            SanitizedCase(
                RANS32,
                unit_bytes,
                record.tobytes(),
                payload.tobytes(),
                described.parameters.tobytes(),
                1,
                array.nbytes,
                seed % 2 * 5,
            )
        )
        expected.append(array.tobytes() if kind == 0 else None)
    n_seen = 0
    for (output, status), units in zip(run_sanitized(cases), expected, strict=True):
        if units is None:
            n_seen += any(status)
        else:
            assert (output.tobytes(), status) == (units, [0])
    assert n_seen > 60


def test_payload_is_taken_apart():
    array, blocks = random_block(5, 2, 6, 100)
    form = int(blocks.headers["form"][0])
    parts = Payload.of(blocks, 2)
    for wrong in (
        parts.with_(n_tables=0),
        parts.with_(classes=4),
        parts.with_(reserved=1),
        parts.with_(escapes=parts.escapes + b"\xff\xff", n_escapes=parts.n_escapes + 1),
        parts.with_(stream=parts.stream[:-1]),
        parts.with_(stream=bytes(4) + parts.stream[4:]),
    ):
        assert not gpu(batch.frame_block(batch.RANS32, form, wrong), array)[1]
