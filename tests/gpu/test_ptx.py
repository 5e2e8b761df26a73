# SPDX-License-Identifier: Apache-2.0
"""The compiled kernels, run by an interpreter of PTX: the same units and the same statuses as the
emulated warp, no access outside the block, no wait that does not end.

This covers what the emulated warp cannot: the intrinsics and inline assembly of the GPU branch of
warp.hpp, and the compiler down to PTX. From PTX on (ptxas, the driver, the chip) it says nothing.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
from support import spatial_blocks
from support.cuda_toolkit import (
    RANS16_KERNELS,
    RANS32_KERNELS,
    SPATIAL_KERNELS,
    kernel_ptx,
    nvcc,
)
from support.emulated_blocks import describe
from support.emulated_warp import (
    CANARY,
    STREAM_DESCRIPTOR,
    Block,
    aligned,
    compiler,
    run_rans32,
    run_spatial,
)
from support.ptx_interpreter import Memory, PtxKernel, PtxWarp
from support.rans16_streams import FIELD_MAPS, FORMS, LANES, random_payload, random_table
from support.rans32_blocks import random_block
from support.spatial_blocks import whole

from wcodec.codec import batch

pytestmark = [
    pytest.mark.skipif(nvcc() is None, reason="no nvcc: not on PATH nor in $CUDA_HOME"),
    pytest.mark.skipif(compiler() is None, reason="no C++20 compiler: set CXX"),
]

PAYLOAD, OUTPUT, STREAMS, STATUS, PARAMETERS = (0x7F00_0000_0000 + (i << 32) for i in range(5))


@functools.cache
def kernel(name: str) -> PtxKernel:
    return PtxKernel(kernel_ptx().read_text(), name)


def interpret(block: Block) -> tuple[bytes, list[int]]:
    streams = block.streams.copy()
    streams["payload"] = PAYLOAD
    streams["output"] = OUTPUT + block.output_offset
    output = np.full(block.output_bytes, CANARY, np.uint8)
    status = np.full(4 * len(streams), 0xFF, np.uint8)
    memory = Memory()
    memory.add(PAYLOAD, np.frombuffer(block.payload, np.uint8))
    memory.add(OUTPUT + block.output_offset, output, writable=True)
    memory.add(STREAMS, np.frombuffer(streams.tobytes(), np.uint8))
    memory.add(STATUS, status, writable=True)
    assert streams.dtype == STREAM_DESCRIPTOR
    for cta in range(len(streams)):
        PtxWarp(kernel(RANS16_KERNELS[block.form]), [STREAMS, STATUS], memory, cta).run()
    return block.collect(output), status.view("<u4").tolist()


@pytest.mark.parametrize("form", FORMS)
def test_valid_blocks(form):
    rng = np.random.default_rng(form)
    unit_bytes = FIELD_MAPS[form].unit_bytes
    aligned_rows = {"row_units": LANES * 5, "row_stride": (LANES * 5 + 16) * unit_bytes}
    odd_rows = {"row_units": 130, "row_stride": 131 * unit_bytes}
    cases = [
        (1, 1, {}),
        (LANES * 3 + 127, 4, {}),
        (LANES * 26, 1, {}),
        (LANES * 3 + 1, 2, {"output_offset": 1}),
        (LANES * 15, 2, aligned_rows),
        (130 * 6, 1, odd_rows),
    ]
    for i, (n_units, n_streams, where) in enumerate(cases):
        # Every other block has escapes in all steps.
        table = random_table(rng, form, n_symbols=7, has_escape=True) if i % 2 == 0 else None
        payload, units = random_payload(rng, form, n_units, n_streams, table=table, flat=True)
        block = Block(payload, form, n_streams, n_units, **where)
        assert interpret(block) == (units.tobytes(), [0] * n_streams)


@pytest.mark.parametrize("form", FORMS)
def test_hostile_blocks(form):
    rng = np.random.default_rng(form)
    for i in range(3):
        n_units = LANES * 10 + 3
        payload, _ = random_payload(rng, form, n_units, 1, flat=True)
        block = Block(payload, form, 1, n_units)
        data = np.frombuffer(payload, np.uint8).copy()
        begin = int(block.streams["states_offset"][0])
        if i == 0:
            data[begin:] = rng.integers(0, 256, len(data) - begin)
        elif i == 1:
            data[begin:] = 0
            block.streams["stream_bytes"] //= 2
            block.streams["n_escapes"] //= 2
        else:
            data[begin : begin + 256] ^= 0xFF
        block.payload = data.tobytes()
        decoded, status = interpret(block)
        assert any(status)
        assert (decoded, status) == block.decode()


@pytest.mark.parametrize("unit_bytes", RANS32_KERNELS)
def test_rans32_blocks(unit_bytes):
    for i, (rows, cols) in enumerate([(1, 200), (7, 21), (40, 3)]):
        array, blocks = random_block(i, unit_bytes, rows, cols, escape=i > 0, n_tables=2)
        check_block(blocks, array, i % 2 * 3)


@pytest.mark.parametrize("unit_bytes", SPATIAL_KERNELS)
def test_spatial_blocks(unit_bytes):
    for i, (rows, cols) in enumerate([(1, 9), (9, 20), (35, 6)]):
        array = np.zeros((rows, cols), f"u{unit_bytes}")
        blocks = spatial_blocks.random_block(i, unit_bytes, rows, cols, 2 + i % 2)
        check_block(blocks, array, i % 2 * 4 * unit_bytes)


def check_block(blocks: batch.Blocks, array: np.ndarray, gap: int) -> None:
    """Sound, and with a stream that is noise; `gap` bytes are between the rows."""
    coding, unit_bytes = int(blocks.headers["coding"][0]), array.itemsize
    is_spatial = coding == batch.SPATIAL
    names = SPATIAL_KERNELS if is_spatial else RANS32_KERNELS
    data = aligned(len(blocks.data) + batch.READ_SLACK_BYTES)
    data[: len(blocks.data)] = blocks.data
    rows, cols = array.shape
    stride = cols * unit_bytes + gap
    output = aligned(rows * stride)
    descriptors = whole(array)
    descriptors["row_stride"] = stride
    described = describe(data, blocks.headers, coding, descriptors, output, unit_bytes)
    records = described.spatial if is_spatial else described.rans32
    for is_sound in (True, False):
        if not is_sound:
            data[16 + int(records.view("<u4")[10]) :] = 0x9C
        output[:] = CANARY
        expected = np.zeros(1, np.uint32)
        emulate = run_spatial if is_spatial else run_rans32
        emulate(unit_bytes, 1, records.ctypes.data, expected.ctypes.data)
        found = np.full(len(output), CANARY, np.uint8)
        record = records.view("<u8").copy()
        record[[0, 1, 3]] = PAYLOAD, OUTPUT, PARAMETERS
        status = np.full(4, 0xFF, np.uint8)
        memory = Memory()
        memory.add(PAYLOAD, data[16 : len(blocks.data)])
        memory.add(OUTPUT, found, writable=True)
        memory.add(STREAMS, np.frombuffer(record.tobytes(), np.uint8))
        memory.add(STATUS, status, writable=True)
        memory.add(PARAMETERS, described.parameters)
        PtxWarp(kernel(names[unit_bytes]), [STREAMS, STATUS], memory, 0).run()
        assert status.view("<u4").tolist() == expected.tolist()
        assert found.tobytes() == output.tobytes()
        assert is_sound == (expected[0] == 0)
